"""Reads every open data set of this process at scrape time, and gives the totals as metric families.

A scrape of two adapters with eight sources each takes some milliseconds (`benchmarks/scrape.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from time import perf_counter
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector as PrometheusCollector

from streaming.monitoring.metrics.families import BY_KEY, FAMILIES, PREFIX, Family
from streaming.monitoring.metrics.process_metrics import ProcessReader
from streaming.telemetry.counters import LATENCY_BUCKETS_S, MetricsSnapshot
from streaming.telemetry.totals import TOTALS, Totals

__all__ = ["BOUNDS", "Collector", "rank_of_process"]

BOUNDS: Final = (*map(str, LATENCY_BUCKETS_S), "+Inf")
"""Values of the label `le` of a histogram's buckets."""


def rank_of_process() -> str:
    """Return the value of the label `rank`: the variable RANK, as `torchrun` sets it, or "0"."""
    return os.environ.get("RANK") or "0"


class Collector(PrometheusCollector):
    """A collector for a `prometheus_client` registry: all families of `streaming.monitoring.metrics.families`.

    Thread-safe. Counters begin with the process and never go back: what a closed data set counted stays in the totals
    of its name. A data set that fails, closes meanwhile or does not answer in time gives its last numbers again, and
    `scrape_errors` counts that; collecting itself raises nothing. In a child forked from this process counters begin
    at zero: the parent counts the work of its DataLoader workers.

    Args:
        totals: what is read; None is every adapter and loader of this process.
        rank: value of the label `rank`; None reads the variable RANK at each scrape, and is "0" without it.
        clock: seconds since 1970, read once per process, for `start_time_seconds`.
    """

    def __init__(
        self,
        totals: Totals = TOTALS,
        rank: int | str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._totals = totals
        self._rank = rank
        self._process = ProcessReader(clock)

    @property
    def rank(self) -> str:
        """Value of the label `rank`."""
        return rank_of_process() if self._rank is None else str(self._rank)

    def describe(self) -> Iterator[Metric]:
        """Yield the families without numbers; a registry reads their names when this is registered."""
        for family in FAMILIES:
            yield _exposed(family, {}, self.rank)

    def collect(self) -> Iterator[Metric]:
        """Yield every family that has numbers at this moment, in the order of `FAMILIES`."""
        reading, rank = self.read(), self.rank
        for family in FAMILIES:
            values = reading.get(family.key)
            if values:
                yield _exposed(family, values, rank)

    def read(self) -> MetricsSnapshot:
        """Return the numbers of this moment: `{key of a family: {values of its labels without rank: number}}`."""
        began = perf_counter()
        counted, latest = self._totals.read(_check)
        reading: MetricsSnapshot = {}
        for name, snapshot in counted.items():
            for key, values in snapshot.items():
                if key in BY_KEY and BY_KEY[key].kind != "gauge":
                    _merge(reading, BY_KEY[key], values, name)
        for name, snapshot in [*latest, ("", self._process.metrics_snapshot())]:
            for key, values in snapshot.items():
                if key in BY_KEY and BY_KEY[key].kind == "gauge":
                    _merge(reading, BY_KEY[key], values, name)
        reading["scrape_duration_seconds"] = {(): perf_counter() - began}
        return reading


def _check(reading: MetricsSnapshot) -> None:
    for family in FAMILIES:
        width = len(family.labels) - ("dataset" in family.labels)
        for labels in reading.get(family.key, ()):
            if len(labels) != width:
                raise ValueError(f"{family.key} has the label values {labels!r} for {family.labels}")


def _merge(reading: MetricsSnapshot, family: Family, values: Mapping[tuple[str, ...], Any], dataset: str) -> None:
    """Add the numbers of one data set; for numbers of a process, add bytes up and take the largest of others."""
    mine = reading.setdefault(family.key, {})
    for labels, value in values.items():
        if value is None:
            continue
        if "dataset" in family.labels:
            mine[dataset, *labels] = value
        else:
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
