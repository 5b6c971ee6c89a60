"""What the tests of metrics share: data in memory, the numbers of a registry, and stand-ins that fail or hang."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from streaming.core.source_config import DataSourceConfig
from streaming.monitoring.metrics.collector import Collector
from streaming.monitoring.metrics.live import Entry, Live
from streaming.monitoring.metrics.totals import MetricsSnapshot
from streaming.testing import MemorySource

COUNT = 12
NBYTES = 2000


def memory_source(name: str = "data", count: int = COUNT) -> MemorySource:
    """So many objects in memory."""
    source = MemorySource(DataSourceConfig(name, "memory", f"memory://{name}"))
    for i in range(count):
        source.put(f"{i:03d}.bin", bytes([i]) * NBYTES)
    return source


class Numbers(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """What a registry gives: numbers by name and labels."""

    def of(self, name: str, **labels: str) -> float | None:
        """The number with exactly these labels and rank 0, or None."""
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
    """Something that gives a reading, fails with an error, or hangs until `go` is set."""

    def __init__(self, reading: MetricsSnapshot | None = None) -> None:
        self.reading: Any = reading or {}
        self.error: Exception | None = None
        self.go = threading.Event()
        self.go.set()

    def metrics_snapshot(self) -> MetricsSnapshot:
        self.go.wait()
        if self.error is not None:
            raise self.error
        reading: MetricsSnapshot = self.reading
        return reading


class Stage:
    """Stand-ins that open and close as a test wants it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._told: list[Callable[[str, MetricsSnapshot], None]] = []

    @property
    def live(self) -> Live:
        """Where a collector finds them."""

        def on_close(tell: Callable[[str, MetricsSnapshot], None]) -> Callable[[], None]:
            self._told.append(tell)
            return lambda: self._told.remove(tell)

        return Live(lambda: list(self.entries), on_close)

    @property
    def listeners(self) -> int:
        """How many want to be told of what closes."""
        return len(self._told)

    def open(self, name: str, reading: MetricsSnapshot) -> StandIn:
        """One more data set."""
        stand_in = StandIn(reading)
        self.entries.append(Entry(name, stand_in, stand_in))
        return stand_in

    def tell_end(self, name: str, reading: MetricsSnapshot) -> None:
        """Its last reading, as an adapter tells it just before it closes."""
        for tell in self._told:
            tell(name, reading)

    def leave(self, stand_in: StandIn) -> None:
        """It is open no more."""
        self.entries = [entry for entry in self.entries if entry.reader is not stand_in]


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
