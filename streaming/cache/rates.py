"""The recent hit rate, as the first epoch, which is all misses, says nothing about the next."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["RecentHits"]

_POINTS = 16  # most points kept per epoch


class _Point(NamedTuple):
    at_s: float
    reads: int
    misses: int


class RecentHits:
    """Computes hits per read over the last epoch or a little more from running counts. Any thread.

    Args:
        samples: number of reads in an epoch.
        clock: monotonic seconds.

    Attributes:
        epoch_s: seconds that the last `samples` reads took; None before that many reads.
    """

    def __init__(self, samples: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.epoch_s: float | None = None
        self._samples = max(samples, 1)
        self._clock = clock
        self._points: deque[_Point] = deque()
        self._lock = threading.Lock()

    def note(self, reads: int, misses: int) -> float | None:
        """Add the current counts.

        Returns:
            Hits per read since the latest point that is an epoch back, or since the first point until there is one.
            None before the first read.
        """
        with self._lock:
            return self._note(_Point(self._clock(), reads, misses))

    def _note(self, now: _Point) -> float | None:
        _, reads, misses = now
        points = self._points
        if not points or points[-1].reads > reads:  # counts were reset
            points.clear()
            points.append(_Point(now.at_s, 0, 0))
        while len(points) > 1 and points[1].reads <= reads - self._samples:
            points.popleft()
        start = points[0]
        if reads - points[-1].reads >= self._samples / _POINTS:
            points.append(now)
        read = reads - start.reads
        if read >= self._samples:
            self.epoch_s = (now.at_s - start.at_s) * self._samples / read
        return 1 - min(misses - start.misses, read) / read if read else None
