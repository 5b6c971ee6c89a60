"""When samples passed each stage on their way into the cache, and so what a reader waited for that waited for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from streaming.telemetry.stages import CACHE, DECODE, DECOMPRESS, PREPARE, QUEUE, SOURCE, STAGES

__all__ = ["Passed", "Timelines"]

Passed = tuple[int, float, float, float, float, float, float, float, float]
"""One sample's way: its position; the moments of `time.perf_counter` at which its load began, it began to wait for a
thread, it got one, its bytes were there, it was decoded, prepared, and in the cache; and the seconds of decompression
in its decoding. A plain tuple, as one is made for each sample (0.8 us with the moments) and few are looked at."""

_KEPT: Final = 512  # samples: more than land between the one that a reader waited for and its look at them
_COMPANY: Final = 32  # of them say what the threads did while one waited for a thread


class Timelines:
    """The ways of the samples that came last. Any thread."""

    def __init__(self) -> None:
        self._last: deque[Passed] = deque(maxlen=_KEPT)
        self.note = self._last.append
        """Take note of a sample's way, before readers can have it."""

    def waited(self, positions: Sequence[int], began: float, ended: float) -> list[float]:
        """What a reader waited for that waited for these samples, in seconds by stage; together `ended - began`.

        It waited for the sample that came last. Before that sample's load began it was in the `queue`, for room. While
        it was loaded it waited for its stages, in their proportion: also where its load had begun before, as what
        makes it late is what takes long, not what comes last. But the source is not among them where the bytes were
        there before they were asked for, and stood in line: with a faster source they would have stood longer.
        Afterwards it took its copy: `cache`.
        """
        whole = max(ended - began, 0.0)
        last = list(self._last)  # of what others append to; copying 512 takes a few us
        wanted = set(positions)
        for at in range(len(last) - 1, -1, -1):
            if last[at][0] in wanted:
                if last[at][7] <= began:
                    break
                return _shared_out(last[at], last[max(at - _COMPANY, 0) : at], began, whole)
        seconds = [0.0] * len(STAGES)
        seconds[QUEUE] = whole
        return seconds


def _shared_out(passed: Passed, earlier: Sequence[Passed], began: float, whole: float) -> list[float]:
    """A wait of `whole` seconds from `began` on for one sample, by stage."""
    load_began, load_ended = passed[1], passed[7]
    before = min(max(load_began - began, 0.0), whole)
    after = min(max(began + whole - load_ended, 0.0), whole - before)
    seconds = _stages(passed)
    queued, started = passed[2], passed[3]
    company = [other for other in earlier if other[7] > queued]
    in_line_s, in_thread_s = started - queued, load_ended - max(started, passed[4])
    if company and queued < began and in_line_s > in_thread_s:
        seconds[SOURCE] = 0.0
    _charge(seconds, in_line_s, company)
    taken = sum(seconds)
    scale = (whole - before - after) / taken if taken > 0 else 0.0
    seconds = [scale * part for part in seconds]
    seconds[QUEUE] += before
    seconds[CACHE] += after
    return seconds


def _stages(passed: Passed) -> list[float]:
    """The stages of one sample's way, without its waiting for a thread."""
    _, began, queued, started, read, decoded, prepared, ended, decompress_s = passed
    seconds = [0.0] * len(STAGES)
    is_read_in_thread = started < read
    seconds[SOURCE] = read - started if is_read_in_thread else queued - began
    decoding_s = decoded - max(started, read)
    seconds[DECOMPRESS] = min(decompress_s, decoding_s)  # may hold that of a failed object
    seconds[DECODE] = decoding_s - seconds[DECOMPRESS]
    seconds[PREPARE] = prepared - decoded
    seconds[CACHE] = ended - prepared
    return seconds


def _charge(seconds: list[float], line_s: float, company: Sequence[Passed]) -> None:
    """Waiting for a thread is waiting for what the threads did meanwhile, in that proportion; if nothing, `queue`."""
    if line_s <= 0:
        return
    read_s = decompressed_s = decoded_s = prepared_s = kept_s = 0.0
    for _, _, _, started, read, decoded, prepared, ended, decompress_s in company:  # 32 at each wait: no list for each
        if started < read:  # the thread itself read
            read_s += read - started
            started = read
        decoded_s += decoded - started
        if decompress_s:
            decompressed_s += min(decompress_s, decoded - started)
        prepared_s += prepared - decoded
        kept_s += ended - prepared
    done = (read_s, decompressed_s, decoded_s - decompressed_s, prepared_s, kept_s)
    total = sum(done)
    if total <= 0:
        seconds[QUEUE] += line_s
        return
    for stage, part in zip((SOURCE, DECOMPRESS, DECODE, PREPARE, CACHE), done, strict=True):
        seconds[stage] += line_s * part / total
