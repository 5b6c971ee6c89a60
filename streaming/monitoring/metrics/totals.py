"""Sums of readings that never go back: over what was set to zero, closed, or replaced by another of the same name.

A reading is `{key of a family: {label values: number}}`, see `streaming.monitoring.metrics.families`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from streaming.monitoring.metrics.families import FAMILIES, Family

__all__ = ["BY_KEY", "MetricsSnapshot", "Sums", "Track"]

MetricsSnapshot = Mapping[str, Mapping[tuple[str, ...], Any]]

BY_KEY: Final[dict[str, Family]] = {family.key: family for family in FAMILIES}

_WITNESSES: Final = ("reads", "loader_batches")
"""Counts that go back only when everything was set to zero, as by `adapter.reset_metrics()`. Others may go back a
little: hits are the reads less the fetches, and a fetch ahead counts before its read."""

Values = dict[tuple[str, ...], Any]


class Sums:
    """What is added up: counters and histograms."""

    def __init__(self) -> None:
        self.values: dict[str, Values] = {}

    def add(self, reading: Mapping[str, Mapping[tuple[str, ...], Any]]) -> None:
        """Add every number of a reading that holds only counters and histograms."""
        for key, values in reading.items():
            mine = self.values.setdefault(key, {})
            for labels, value in values.items():
                mine[labels] = _plus(mine[labels], value) if labels in mine else value


class Track:
    """What one data set or loader has counted since it was first seen.

    Attributes:
        counts: its counters and histograms, as large as they ever were since they were last set to zero.
        carried: those from before that.
        gauges: as last read.
    """

    def __init__(self) -> None:
        self.counts: dict[str, Values] = {}
        self.carried = Sums()
        self.gauges: dict[str, Values] = {}

    def take(self, reading: MetricsSnapshot) -> None:
        """Take over a newer reading; what is None in it is absent.

        Raises:
            ValueError: it is no reading: a number of label values that its family does not have.
        """
        kept = {key: _present(BY_KEY[key], values) for key, values in reading.items() if key in BY_KEY}
        was_reset = any(_is_less(kept.get(key, {}), self.counts.get(key, {})) for key in _WITNESSES)
        self.gauges = {key: values for key, values in kept.items() if BY_KEY[key].kind == "gauge"}
        for key, values in kept.items():
            if key not in self.gauges:
                self._count(key, values, was_reset)

    def _count(self, key: str, values: Values, was_reset: bool) -> None:
        mine = self.counts.setdefault(key, {})
        for labels, value in values.items():
            before = mine.get(labels)
            if before is not None and _is_smaller(value, before):
                if was_reset:
                    self.carried.add({key: {labels: before}})
                else:
                    value = _most(value, before)
            mine[labels] = value

    def add_to(self, sums: Sums) -> None:
        """Add all that was counted."""
        sums.add(self.carried.values)
        sums.add(self.counts)


def _present(family: Family, values: Mapping[tuple[str, ...], Any]) -> Values:
    width = len(family.labels) - ("dataset" in family.labels)
    for labels in values:
        if len(labels) != width:
            raise ValueError(f"{family.key} has the label values {labels!r} for {family.labels}")
    return {labels: value for labels, value in values.items() if value is not None}


def _is_less(new: Values, old: Values) -> bool:
    return any(labels in old and value < old[labels] for labels, value in new.items())


def _is_smaller(new: Any, old: Any) -> bool:
    if isinstance(new, Iterable):
        return any(a < b for a, b in zip(new, old, strict=True))
    return bool(new < old)


def _plus(a: Any, b: Any) -> Any:
    return [x + y for x, y in zip(a, b, strict=True)] if isinstance(a, Iterable) else a + b


def _most(a: Any, b: Any) -> Any:
    return [max(x, y) for x, y in zip(a, b, strict=True)] if isinstance(a, Iterable) else max(a, b)
