"""Reads every open data set of this process when somebody asks, and gives the sums as metric families.

A scrape of two adapters with eight sources each takes some milliseconds (`benchmarks/scrape.py`); between scrapes
nothing is done and nothing grows.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import accumulate
from time import perf_counter
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector as PrometheusCollector

from streaming.core.logs import get_logger
from streaming.monitoring.metrics.families import FAMILIES, PREFIX, Family
from streaming.monitoring.metrics.live import Live, live_in_process
from streaming.monitoring.metrics.process_metrics import ProcessReader
from streaming.monitoring.metrics.roster import Member, Roster
from streaming.monitoring.metrics.totals import BY_KEY, MetricsSnapshot, Values
from streaming.telemetry.counters import LATENCY_BUCKETS_S

__all__ = ["BOUNDS", "Collector", "rank_of_process"]

logger = get_logger(__name__)

BOUNDS: Final = (*map(str, LATENCY_BUCKETS_S), "+Inf")
"""The buckets of a histogram as their label `le` names them."""

MOST_NEWS: Final = 8
"""Last readings that wait for the next scrape, 50 kB each with eight sources."""


def rank_of_process() -> str:
    """The value of the label `rank`: the variable RANK, as `torchrun` sets it, or "0"."""
    return os.environ.get("RANK") or "0"


class Collector(PrometheusCollector):
    """A collector for a `prometheus_client` registry: all families of `streaming.monitoring.metrics.families`.

    Thread-safe.

    Counts begin with the data sets that are open when it is made, and never go back: what a closed data set counted
    stays in the sums of its name. A data set that fails, closes meanwhile or does not answer in time gives its last
    numbers again, and `scrape_errors` counts that; collecting itself raises nothing. In a child forked from this
    process it begins anew, with what that opens: the parent counts the work of its DataLoader workers.

    Args:
        live: what is read; None is every adapter and loader of this process.
        rank: the value of the label `rank`; None asks the variable RANK at each scrape, and is "0" without it.
        clock: seconds since 1970, asked once, for `start_time_seconds`.
    """

    def __init__(
        self,
        live: Live | None = None,
        rank: int | str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._live = live
        self._rank = rank
        self._clock = clock
        self._begin()
        _collectors.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._roster = Roster(self._live or live_in_process(), partial(_hear, weakref.ref(self)))
        self._process = ProcessReader(self._clock)
        self._errors: dict[str, int] = {}

    def _book_news(self) -> None:
        """Book the last readings of what closed, unless a scrape is just doing it: also where nobody scrapes, they
        shall not pile up."""
        if self._roster.news > MOST_NEWS and self._lock.acquire(blocking=False):
            try:
                self._roster.follow()
            finally:
                self._lock.release()

    @property
    def rank(self) -> str:
        """The value of the label `rank`."""
        return rank_of_process() if self._rank is None else str(self._rank)

    def describe(self) -> Iterator[Metric]:
        """The families without numbers: a registry asks for their names when this is registered."""
        for family in FAMILIES:
            yield _exposed(family, {}, self.rank)

    def collect(self) -> Iterator[Metric]:
        """Every family that has numbers at this moment, in the order of `FAMILIES`."""
        reading, rank = self.read(), self.rank
        for family in FAMILIES:
            values = reading.get(family.key)
            if values:
                yield _exposed(family, values, rank)

    def read(self) -> MetricsSnapshot:
        """The same as a reading: `{key of a family: {values of its labels without rank: number}}`."""
        began = perf_counter()
        with self._lock:
            members = self._follow()
            self._ask(members)
            reading = self._summed(members)
            reading["scrape_errors"] = {(name,): count for name, count in self._errors.items()}
        for key, values in self._process.metrics_snapshot().items():
            _merge(reading, BY_KEY[key], values)
        reading["scrape_duration_seconds"] = {(): perf_counter() - began}
        return reading

    def _follow(self) -> list[Member]:
        try:
            return self._roster.follow()
        except Exception as exc:  # then those of the last time are asked
            logger.debug("scrape_incomplete error=%s", exc)
            return self._roster.members

    def _ask(self, members: Iterable[Member]) -> None:
        asked = []
        for member in members:
            self._errors.setdefault(member.name, 0)
            try:
                member.flight.begin()
                asked.append(member)
            except Exception as exc:
                self._failed(member, exc)
        for member in asked:
            try:
                member.track.take(member.flight.end())
            except Exception as exc:
                self._failed(member, exc)

    def _failed(self, member: Member, error: Exception) -> None:
        self._errors[member.name] += 1
        logger.debug("scrape_failed dataset=%s error=%s", member.name, error)

    def _summed(self, members: Iterable[Member]) -> dict[str, Values]:
        reading: dict[str, Values] = {}
        for name, sums in self._roster.sums().items():
            for key, values in sums.values.items():
                _merge(reading, BY_KEY[key], values, name)
        for member in members:
            for key, values in member.track.gauges.items():
                _merge(reading, BY_KEY[key], values, member.name)
        return reading


def _merge(reading: dict[str, Values], family: Family, values: Values, dataset: str = "") -> None:
    """Add numbers of one data set; of a process' the sum of bytes counts, and the most of anything else."""
    mine = reading.setdefault(family.key, {})
    if "dataset" in family.labels:
        mine.update({(dataset, *labels): value for labels, value in values.items()})
        return
    for labels, value in values.items():
        if value is not None:
            before = mine.get(labels, 0)
            mine[labels] = before + value if family.key.endswith("_bytes") else max(before, value)


def _exposed(family: Family, values: Mapping[tuple[str, ...], Any], rank: str) -> Metric:
    names = (*family.labels, "rank")
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(PREFIX + family.key, family.help, labels=names)
        for labels, (*buckets, total) in values.items():
            counts = zip(BOUNDS, accumulate(buckets), strict=True)
            histogram.add_metric((*labels, rank), list(counts), total)
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric: Any = kind(PREFIX + family.key, family.help, labels=names)
    for labels, value in values.items():
        metric.add_metric((*labels, rank), value)
    return metric  # type: ignore[no-any-return]


def _hear(collector: weakref.ref[Collector]) -> None:
    found = collector()
    if found is not None:
        try:
            found._book_news()
        except Exception as exc:  # closing a data set never fails for its metrics
            logger.debug("scrape_close_failed error=%s", exc)


_collectors: weakref.WeakSet[Collector] = weakref.WeakSet()


def _begin_anew() -> None:
    for collector in list(_collectors):
        collector._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
