"""When samples passed each stage on their way into the cache, and so what a reader waited for that waited for them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from time import perf_counter
from typing import Final

from streaming.stages import ACCOUNT, CACHE, DECODE, DECOMPRESS, QUEUE, SOURCE, STAGES

__all__ = ["Timeline", "Timelines"]

_KEPT: Final = 4096  # samples, a power of two: more than are in flight at a time
_NOTHING: Final = [0.0] * len(STAGES)


class Timeline:
    """One sample's way: seconds by stage, from the start of its load on.

    Attributes:
        began, ended: seconds of `time.perf_counter`.
        seconds: one number for each of `STAGES`; together what lies between the two.
    """

    __slots__ = ("_worked", "began", "ended", "position", "seconds")

    def __init__(self, position: int) -> None:
        self.position = position
        self.seconds = _NOTHING.copy()
        self.began = self.ended = perf_counter()
        self._worked: Sequence[float] = ()

    def lap(self, stage: int) -> None:
        """What passed since the last lap was this stage."""
        now = perf_counter()
        self.seconds[stage] += now - self.ended
        self.ended = now

    def lap_decode(self) -> None:
        """What passed since the last lap was decoding, of which this thread has noted how much was decompression."""
        before = self.seconds[DECODE]
        self.lap(DECODE)
        decompress_s, ACCOUNT.decompress_s = ACCOUNT.decompress_s, 0.0
        self.seconds[DECODE] = max(self.seconds[DECODE] - decompress_s, before)
        self.seconds[DECOMPRESS] += decompress_s

    def stand_in_line(self, worked: Sequence[float]) -> None:
        """From now on the sample waits for a thread; `worked` is what the threads have done so far, by stage."""
        self.lap(SOURCE)
        self._worked = worked

    def leave_line(self, worked: Sequence[float]) -> None:
        """A thread has taken it: the waiting was for what the threads did meanwhile, in that proportion."""
        now = perf_counter()
        seconds, self.ended = now - self.ended, now
        done = [after - before for after, before in zip(worked, self._worked, strict=True)]
        total = sum(done)
        if total > 0:
            for stage, part in enumerate(done):
                self.seconds[stage] += seconds * part / total
        else:
            self.seconds[DECODE] += seconds  # the threads are busy with samples that none has finished


class Timelines:
    """Those of the samples that came last. Any thread."""

    def __init__(self) -> None:
        self._last: list[Timeline | None] = [None] * _KEPT
        self._worked = _NOTHING.copy()
        self._lock = threading.Lock()

    def worked(self) -> list[float]:
        """Seconds that threads have worked so far, by stage."""
        return self._worked.copy()

    def work(self, seconds: Sequence[float]) -> None:
        """A thread has worked for so long, by stage."""
        with self._lock:
            self._worked = [before + more for before, more in zip(self._worked, seconds, strict=True)]

    def note(self, timeline: Timeline) -> None:
        """A sample's way has ended: readers can have it from now on."""
        timeline.lap(CACHE)
        self._last[timeline.position % _KEPT] = timeline

    def waited(self, positions: Sequence[int], began: float, ended: float) -> list[float]:
        """What a reader waited for that waited for these samples, in seconds by stage; together `ended - began`.

        It waited for the sample that came last. Before that sample's load began it was in the `queue`, for room. While
        it was loaded it waited for its stages, in their proportion: also where its load had begun before, as what
        makes it late is what takes long, not what comes last. Afterwards it took its copy: `cache`.
        """
        whole = max(ended - began, 0.0)
        seconds = _NOTHING.copy()
        last: Timeline | None = None
        for position in positions:
            found = self._last[position % _KEPT]
            if found is not None and found.position == position and found.ended > began:
                last = found if last is None or found.ended > last.ended else last
        if last is None:
            seconds[QUEUE] = whole
            return seconds
        before = min(max(last.began - began, 0.0), whole)
        after = min(max(ended - last.ended, 0.0), whole - before)
        taken = sum(last.seconds)
        if taken > 0:
            scale = (whole - before - after) / taken
            seconds = [scale * part for part in last.seconds]
        seconds[QUEUE] += before
        seconds[CACHE] += after
        return seconds
