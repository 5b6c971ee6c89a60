"""The numbers of every data set of this process: open ones are read on demand, ended ones stay in the totals.

Counters belong to the name of a data set and never go back while the process lives, whether the data set is closed,
dropped, opened again, or has its numbers reset. Between two readings nothing is done and nothing grows.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from itertools import count
from operator import add
from typing import Any, Final, Protocol

from streaming.core.logs import get_logger
from streaming.telemetry.counters import MetricsSnapshot

__all__ = ["TOTALS", "Totals"]

logger = get_logger(__name__)

_WITNESSES: Final = ("reads", "loader_batches")
"""Counters that go back only when all were reset, as by `adapter.reset_metrics()`. Others may go back a little: hits
are reads less fetches, and a fetch ahead counts before its read."""


class Readable(Protocol):
    """Has numbers: the engine of a data set, or a loader."""

    def metrics_snapshot(self) -> MetricsSnapshot:
        """Return the numbers of this moment, without the label `dataset`; in any thread, and never waiting long."""


class _Source:
    """One open data set or loader.

    Attributes:
        name: value of the label `dataset`, once it was read.
        latest: the last reading.
        counts: as large as they ever were since the last reset.
        carried: counts from before that.
        is_closing: whether only its last reading is still to come.
    """

    def __init__(self, reader: Readable, given_name: str, dataset: object, remains: Readable | None) -> None:
        self.given_name = given_name
        self.name: str | None = None
        self.latest: MetricsSnapshot = {}
        self.counts: MetricsSnapshot = {}
        self.carried: MetricsSnapshot = {}
        self.is_closing = False
        self.remains = remains
        self.reader = weakref.ref(reader)
        self.dataset: weakref.ref[Any] = self.reader
        with contextlib.suppress(TypeError):  # a list, which nothing else reads
            self.dataset = weakref.ref(dataset)

    @property
    def is_dropped(self) -> bool:
        """Whether it is gone without having been closed."""
        return self.reader() is None or self.dataset() is None

    @property
    def shown_name(self) -> str:
        """The name under which its numbers are counted."""
        return self.name or self.given_name

    def read(self) -> MetricsSnapshot:
        reader = self.reader()
        if reader is None:
            raise LookupError("it was dropped just now")
        return reader.metrics_snapshot()

    def take(self, reading: MetricsSnapshot) -> None:
        """Take over a newer reading."""
        self.latest = reading
        was_reset = any(
            value < self.counts.get(key, {}).get(labels, 0)
            for key in _WITNESSES
            for labels, value in reading.get(key, {}).items()
        )
        for key, values in reading.items():
            counts = self.counts.setdefault(key, {})
            for labels, value in values.items():
                if value is None:
                    continue
                before = counts.get(labels, value)
                most = _each(max, value, before)
                if most != value and was_reset:
                    _add_to(self.carried, {key: {labels: before}})
                    most = value
                counts[labels] = most

    def add_to(self, sums: MetricsSnapshot) -> None:
        """Add all that was counted."""
        _add_to(sums, self.carried)
        _add_to(sums, self.counts)


class Totals:
    """Thread-safe.

    All families are summed the same way, gauges too. Code that shows the numbers knows their kinds, and takes gauges
    from the last reading.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything, as in a forked child: its parent counts what was opened before."""
        self._lock = threading.Lock()
        self._reading = threading.Lock()  # readings one after the other, so that each sees what was before it
        self._sources: list[_Source] = []
        self._ended: dict[str, MetricsSnapshot] = {}
        self._errors: dict[str, int] = {}

    def add(self, reader: Readable, name: str, dataset: object | None = None, remains: Readable | None = None) -> None:
        """Count what a data set or loader reads, until `close` or until it is dropped.

        A name continues with its totals. Of two data sets that are read under one name at once, the later one gets the
        lowest free number: `data`, `data-2`.

        Args:
            reader: is read, and held weakly.
            name: name of its data set.
            dataset: the object that has this name: all readers of one object share its number. None is the reader.
            remains: what can still be read once the reader is dropped.
        """
        with self._lock:
            self._end_dropped()
            self._sources.append(_Source(reader, name, reader if dataset is None else dataset, remains))

    def add_loader(self, loader: Any) -> None:
        """Count the steps of a loader, under the name of its data set."""
        with contextlib.suppress(Exception):  # a user's data set whose `name` fails: it has no numbers
            dataset = loader.dataset  # may be a view, as of `Subset`
            dataset = vars(dataset).get("dataset", dataset) if hasattr(dataset, "__dict__") else dataset
            self.add(loader, loader.dataset_name, dataset, loader.stalls)

    def close(self, reader: Readable) -> None:
        """Take the last numbers of a data set that is about to close. Nothing happens if it was not added."""
        with self._lock:
            source = next((each for each in self._sources if each.reader() is reader), None)
            if source is None:
                return
            source.is_closing = True
        try:
            reading = reader.metrics_snapshot()
        except Exception as exc:  # a process that has ended; closing never fails for its metrics
            reading = {}
            logger.debug("scrape_failed dataset=%s error=%s", source.given_name, exc)
        with self._lock:
            source.take(reading)
            self._end(source)

    def read(
        self, check: Callable[[MetricsSnapshot], None]
    ) -> tuple[dict[str, MetricsSnapshot], list[tuple[str, MetricsSnapshot]]]:
        """Read every open data set and loader.

        One that fails gives its last numbers again, and its `scrape_errors` counts that.

        Args:
            check: raises if a reading does not have the form that it must have.

        Returns:
            All that was ever counted under each name, and the last reading of each that is open, with its name.
        """
        with self._reading:
            with self._lock:
                self._end_dropped()
                sources = [source for source in self._sources if not source.is_closing]
                for source in sources:
                    source.name = source.name or self._name_for(source)
                    self._errors.setdefault(source.name, 0)
            for source in sources:
                try:
                    reading = source.read()
                    check(reading)
                except Exception as exc:
                    self._errors[source.shown_name] += 1
                    logger.debug("scrape_failed dataset=%s error=%s", source.shown_name, exc)
                    continue
                with self._lock:
                    if not source.is_closing:
                        source.take(reading)
            with self._lock:
                return self._sums(), [(source.shown_name, source.latest) for source in self._sources]

    def _sums(self) -> dict[str, MetricsSnapshot]:
        sums: dict[str, MetricsSnapshot] = {}
        for name, counts in self._ended.items():
            _add_to(sums.setdefault(name, {}), counts)
        for source in self._sources:
            source.add_to(sums.setdefault(source.shown_name, {}))
        for name, errors in self._errors.items():
            sums.setdefault(name, {})["scrape_errors"] = {(): errors}
        return sums

    def _name_for(self, source: _Source) -> str:
        named = [other for other in self._sources if other.name is not None]
        for other in named:
            if other.dataset() is source.dataset():
                return other.shown_name
        taken = {other.name for other in named}
        names = (source.given_name if number == 1 else f"{source.given_name}-{number}" for number in count(1))
        return next(name for name in names if name not in taken)

    def _end_dropped(self) -> None:
        for source in [each for each in self._sources if each.is_dropped]:
            try:
                if source.remains is not None:
                    source.take(source.remains.metrics_snapshot())
            except Exception as exc:
                logger.debug("scrape_failed dataset=%s error=%s", source.shown_name, exc)
            self._end(source)

    def _end(self, source: _Source) -> None:
        self._sources.remove(source)
        source.add_to(self._ended.setdefault(source.shown_name, {}))


def _add_to(sums: MetricsSnapshot, reading: MetricsSnapshot) -> None:
    for key, values in reading.items():
        mine = sums.setdefault(key, {})
        for labels, value in values.items():
            mine[labels] = _each(add, mine[labels], value) if labels in mine else value


def _each(combine: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    """Combine two numbers, or the buckets of two histograms."""
    return [combine(x, y) for x, y in zip(a, b, strict=True)] if isinstance(a, list) else combine(a, b)


TOTALS: Final = Totals()
"""The numbers of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=TOTALS.clear)
