"""The time between two scrapes of one rank: increases of counters and values of gauges."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from streaming.monitoring.diagnosis.scrape import LABELS, MetricsSnapshot, Scrape

__all__ = ["Window", "open_window"]

_SAME_START_S = 0.5  # a process that began this much later is another


@dataclass(frozen=True)
class Window:
    """The work of one rank between two scrapes.

    Attributes:
        rank: name of the rank.
        seconds: length of the window; 0.0 if unknown.
        was, now: readings at its beginning and end; `was` is empty for a window since the start of the process.
        is_since_start: whether it is such a window.
    """

    rank: str
    seconds: float
    was: MetricsSnapshot
    now: MetricsSnapshot
    is_since_start: bool = False

    def of(self, datasets: Collection[str]) -> Window:
        """Return the same window without other data sets."""
        was, now = (_narrowed(reading, datasets) for reading in (self.was, self.now))
        return Window(self.rank, self.seconds, was, now, self.is_since_start)

    def has(self, *keys: str) -> bool:
        """Whether any of these families has a value at the end."""
        return any(self.now.get(key) for key in keys)

    def values_of(self, key: str, label: str) -> list[str]:
        """Return the sorted values of a label in a family at the end."""
        at = LABELS[key].index(label)
        return sorted({values[at] for values in self.now.get(key, ())})

    def level(self, key: str, **labels: str) -> float | None:
        """Return the value of a gauge at the end, summed over matching labels; None if none match."""
        return _total(self.now, key, labels)

    def peak(self, key: str, **labels: str) -> float:
        """Return the higher of a gauge's two values; 0.0 if it has none."""
        return max(_total(self.was, key, labels) or 0.0, _total(self.now, key, labels) or 0.0)

    def held(self, key: str, **labels: str) -> float:
        """Return the lower of a gauge's two values, or the last one since the start; 0.0 if it has none."""
        now = _total(self.now, key, labels) or 0.0
        return now if self.is_since_start else min(now, _total(self.was, key, labels) or 0.0)

    def gained(self, key: str, **labels: str) -> float:
        """Return the increase of a counter, summed over matching labels. A counter that fell was reset to zero."""
        was = self.was.get(key, {})
        return sum(_gain(was.get(values, 0.0), number) for values, number in _matching(self.now, key, labels))

    def per_second(self, key: str) -> float:
        """Return the increase of a counter per second; 0.0 in a window of unknown length."""
        return self.gained(key) / self.seconds if self.seconds > 0 else 0.0

    def quantile(self, key: str, q: float, **labels: str) -> float | None:
        """Return a quantile of a histogram in the window, interpolated as `histogram_quantile` does."""
        bounds = {le: _number(le) for le in self.values_of(f"{key}_bucket", "le")}
        below = [
            (bound, self.gained(f"{key}_bucket", le=le, **labels))
            for le, bound in sorted(bounds.items(), key=lambda item: item[1])
        ]
        wanted = q * below[-1][1] if below else 0.0
        if not wanted:
            return None
        lower, fewer = 0.0, 0.0
        for bound, count in below:
            if count >= wanted and count > fewer:
                return lower if math.isinf(bound) else lower + (bound - lower) * (wanted - fewer) / (count - fewer)
            lower, fewer = bound, max(fewer, count)
        return lower


def open_window(rank: str, before: Scrape | None, after: Scrape, seconds: float | None) -> Window:
    """Return the window of a rank of `after`; since its start if it is new or restarted meanwhile."""
    now = after.ranks[rank]
    was = before.ranks.get(rank) if before is not None else None
    began = _began(now)
    if before is not None and was is not None and not _is_restarted(was, began):
        return Window(rank, after.taken_at - before.taken_at if seconds is None else seconds, was, now)
    return Window(rank, 0.0 if began is None else max(0.0, after.taken_at - began), {}, now, True)


def _is_restarted(was: MetricsSnapshot, began: float | None) -> bool:
    earlier = _began(was)
    return earlier is not None and began is not None and began - earlier > _SAME_START_S


def _began(reading: MetricsSnapshot) -> float | None:
    return max(reading.get("start_time_seconds", {}).values(), default=None)


def _narrowed(reading: MetricsSnapshot, datasets: Collection[str]) -> MetricsSnapshot:
    return {
        key: {values: number for values, number in series.items() if not values[0] or values[0] in datasets}
        if LABELS[key][:1] == ("dataset",)
        else series
        for key, series in reading.items()
    }


def _matching(reading: MetricsSnapshot, key: str, labels: dict[str, str]) -> Iterator[tuple[tuple[str, ...], float]]:
    wanted = [(LABELS[key].index(label), value) for label, value in labels.items()]
    for values, number in reading.get(key, {}).items():
        if all(values[at] == value for at, value in wanted):
            yield values, number


def _total(reading: MetricsSnapshot, key: str, labels: dict[str, str]) -> float | None:
    numbers = [number for _, number in _matching(reading, key, labels)]
    return sum(numbers) if numbers else None


def _gain(was: float, now: float) -> float:
    return max(0.0, now - was if now >= was else now)


def _number(bound: str) -> float:
    try:
        return float(bound)
    except ValueError:
        return math.inf
