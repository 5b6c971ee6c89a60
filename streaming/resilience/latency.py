"""Quantiles of the latencies of the last reads."""

from __future__ import annotations

from collections import deque

from streaming.resilience.settings import ResilienceConfig

KEPT = 512  # reads: a p98 has 10 of them above it
SORTED_EACH = 32  # reads between two sorts of 25 us, so that each read pays 1 us


class Latencies:
    """The last 512 latencies in seconds; a quantile may be up to 32 reads old."""

    __slots__ = ("_last", "_sorted", "_unsorted", "count")

    def __init__(self) -> None:
        self.count = 0
        self._last: deque[float] = deque(maxlen=KEPT)
        self._sorted: list[float] = []
        self._unsorted = 0

    def add(self, seconds: float) -> None:
        """Take note of one read."""
        self._last.append(seconds)
        self.count += 1
        self._unsorted += 1

    def quantile(self, share: float) -> float:
        """Return the latency that this share of the last reads did not exceed; 0.0 before the first."""
        if self._unsorted >= SORTED_EACH or (self._unsorted and len(self._sorted) < SORTED_EACH):
            self._sorted = sorted(self._last)
            self._unsorted = 0
        ranked = self._sorted
        return ranked[min(int(share * len(ranked)), len(ranked) - 1)] if ranked else 0.0

    def stall_timeout_s(self, settings: ResilienceConfig) -> float:
        """Return the seconds after which a read is late: `stall_timeout_factor` times p99, within bounds."""
        if self.count < settings.breaker_window:
            return min(settings.stall_timeout_default_s, settings.stall_timeout_max_s)
        late = settings.stall_timeout_factor * self.quantile(0.99)
        return min(max(late, settings.stall_timeout_min_s), settings.stall_timeout_max_s)
