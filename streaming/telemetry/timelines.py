"""The moments at which samples passed each stage on their way into the cache, and so what their readers waited for."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from streaming.telemetry.stages import CACHE, DECODE, DECOMPRESS, PREPARE, QUEUE, SOURCE, STAGES

__all__ = ["SampleTimeline", "TimelineTuple", "Timelines"]

TimelineTuple = tuple[int, float, float, float, float, float, float, float, float]
"""A `SampleTimeline` as it is written: a plain tuple takes 0.3 us, and few of them are ever read."""

_KEPT: Final = 512  # samples: more than land between the one that a reader waited for and its look at them
_NEIGHBOURS: Final = 32  # samples that show what the threads did while one waited for a thread


class SampleTimeline(NamedTuple):
    """When one sample passed each stage, in moments of `time.perf_counter`."""

    position: int
    began: float  # its load began
    queued: float  # it began to wait for a thread
    started: float  # it got a thread
    read: float  # its bytes had arrived
    decoded: float
    prepared: float
    ended: float  # it was in the cache
    decompress_s: float  # part of its decoding


class Timelines:
    """The timelines of the most recent samples. Safe in any thread."""

    def __init__(self) -> None:
        self._last: deque[TimelineTuple] = deque(maxlen=_KEPT)
        self.note = self._last.append
        """Add the timeline of a sample, before readers can have it."""

    def waited(self, positions: Sequence[int], began: float, ended: float) -> list[float]:
        """Return what a reader waited for, in seconds by stage; they add up to `ended - began`.

        It waited for the last of its samples to arrive. Until the load of that sample began, it was in the `queue`, for
        room. During the load it waited for the stages in their proportion, also if the load had begun before: a sample
        is late because of what takes long, not because of what comes last. The source is left out if the bytes had
        arrived before the reader asked and were waiting for a thread: with a faster source they would have waited
        longer. After the load the reader took its copy: `cache`.
        """
        whole = max(ended - began, 0.0)
        last = list(self._last)  # other threads append; copying 512 takes a few us
        wanted = set(positions)
        for at in range(len(last) - 1, -1, -1):
            if last[at][0] in wanted:
                sample = SampleTimeline._make(last[at])
                if sample.ended <= began:
                    break
                neighbours = [SampleTimeline._make(other) for other in last[max(at - _NEIGHBOURS, 0) : at]]
                return _wait_by_stage(sample, neighbours, began, whole)
        seconds = [0.0] * len(STAGES)
        seconds[QUEUE] = whole
        return seconds


def _wait_by_stage(
    sample: SampleTimeline, earlier: Sequence[SampleTimeline], began: float, whole: float
) -> list[float]:
    """Return a wait of `whole` seconds for one sample, which began at `began`, by stage."""
    before = min(max(sample.began - began, 0.0), whole)
    after = min(max(began + whole - sample.ended, 0.0), whole - before)
    seconds = _stages(sample)
    neighbours = [other for other in earlier if other.ended > sample.queued]
    in_line_s = sample.started - sample.queued
    in_thread_s = sample.ended - max(sample.started, sample.read)
    if neighbours and sample.queued < began and in_line_s > in_thread_s:
        seconds[SOURCE] = 0.0
    _charge_line(seconds, in_line_s, neighbours)
    taken = sum(seconds)
    scale = (whole - before - after) / taken if taken > 0 else 0.0
    seconds = [scale * part for part in seconds]
    seconds[QUEUE] += before
    seconds[CACHE] += after
    return seconds


def _stages(sample: SampleTimeline) -> list[float]:
    """Return the seconds of one sample by stage, without its wait for a thread."""
    seconds = [0.0] * len(STAGES)
    is_read_in_thread = sample.started < sample.read
    seconds[SOURCE] = sample.read - sample.started if is_read_in_thread else sample.queued - sample.began
    seconds[DECOMPRESS] = sample.decompress_s
    seconds[DECODE] = sample.decoded - max(sample.started, sample.read) - sample.decompress_s
    seconds[PREPARE] = sample.prepared - sample.decoded
    seconds[CACHE] = sample.ended - sample.prepared
    return seconds


def _charge_line(seconds: list[float], line_s: float, neighbours: Sequence[SampleTimeline]) -> None:
    """Divide the wait for a thread among what the threads did meanwhile, in proportion; `queue` if that is nothing."""
    if line_s <= 0:
        return
    read_s = decompressed_s = decoded_s = prepared_s = stored_s = 0.0
    for _, _, _, started, read, decoded, prepared, ended, decompress_s in neighbours:  # at each wait: no list for each
        if started < read:  # the thread read the bytes
            read_s += read - started
            started = read
        decoded_s += decoded - started
        decompressed_s += decompress_s
        prepared_s += prepared - decoded
        stored_s += ended - prepared
    done = (read_s, decompressed_s, decoded_s - decompressed_s, prepared_s, stored_s)
    total = sum(done)
    if total <= 0:
        seconds[QUEUE] += line_s
        return
    for stage, part in zip((SOURCE, DECOMPRESS, DECODE, PREPARE, CACHE), done, strict=True):
        seconds[stage] += line_s * part / total
