"""Helpers that the tests of metrics share: data in memory, the values of a registry, and stubs that fail."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from streaming.core.source_config import DataSourceConfig
from streaming.monitoring.metrics.collector import Collector
from streaming.telemetry.counters import MetricsSnapshot
from streaming.telemetry.totals import Totals
from streaming.testing import MemorySource

COUNT = 12
NBYTES = 2000


def memory_source(name: str = "data", count: int = COUNT) -> MemorySource:
    """Return a source with `count` objects in memory."""
    source = MemorySource(DataSourceConfig(name, "memory", f"memory://{name}"))
    for i in range(count):
        source.put(f"{i:03d}.bin", bytes([i]) * NBYTES)
    return source


class Numbers(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """Values of a registry by name and labels."""

    def of(self, name: str, **labels: str) -> float | None:
        """Return the value with exactly these labels and rank 0, or None."""
        return self.get((f"streaming_{name}", frozenset({"rank": "0", **labels}.items())))

    def total(self, name: str, **labels: str) -> float:
        """The sum over all that have these labels."""
        wanted = set(labels.items())
        return sum(value for (found, has), value in self.items() if found == f"streaming_{name}" and wanted <= has)


def numbers(registry: CollectorRegistry | Collector) -> Numbers:
    """The numbers of this moment."""
    found = Numbers()
    for metric in registry.collect():
        for sample in metric.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} is given twice"
            found[key] = sample.value
    return found


class StandIn:
    """Gives a reading, or fails with an error."""

    def __init__(self, reading: MetricsSnapshot | None = None) -> None:
        self.reading: Any = reading or {}
        self.error: Exception | None = None

    def metrics_snapshot(self) -> MetricsSnapshot:
        if self.error is not None:
            raise self.error
        reading: MetricsSnapshot = self.reading
        return reading


class Stage:
    """Stand-ins that open and close as a test wants it, and the totals that count them."""

    def __init__(self) -> None:
        self.totals = Totals()
        self._held: list[StandIn] = []

    def open(self, name: str, reading: MetricsSnapshot) -> StandIn:
        """One more data set."""
        stand_in = StandIn(reading)
        self._held.append(stand_in)
        self.totals.add(stand_in, name)
        return stand_in

    def close(self, stand_in: StandIn) -> None:
        """Close it, as an adapter does."""
        self.totals.close(stand_in)
        self._held.remove(stand_in)

    def drop_all(self) -> None:
        """Forget every data set without closing it."""
        self._held.clear()


@contextmanager
def scraping(scrape: Callable[[], Any]) -> Iterator[list[Any]]:
    """Scrape again and again in the background; afterwards the list holds what was found."""
    ended, found = threading.Event(), []

    def run() -> None:
        while not ended.is_set():
            found.append(scrape())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def in_child(do: Callable[[], object]) -> int:
    """The exit code of a forked child: 0 if what it did was true."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if do() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
