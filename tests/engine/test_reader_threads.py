"""Healthy reads are carried by threads; the loop takes over what hangs, fails or cannot be read by a thread."""

from __future__ import annotations

import json
import multiprocessing
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from streaming.adapter import StreamingDatasetAdapter
from streaming.core.source_config import DataSourceConfig
from streaming.engine.thread_count import MOST_THREADS, START_THREADS, ThreadCount
from streaming.errors import ClosedError, SourceUnavailable
from streaming.loader.data_loader import StreamingDataLoader
from streaming.sources import register_scheme
from streaming.sources.base import Blob, NeedsLoop
from streaming.testing import MemorySource

COUNT = 96
GATED = {"name": "data", "path": "gated://data"}


class GatedSource(MemorySource):
    """Objects in memory whose reads by threads first pass a gate, as a server may answer late.

    Attributes:
        gate: called with the path in the thread that reads, before the read.
        by_threads, by_loop: the reads so far.
    """

    def __init__(self, config: DataSourceConfig) -> None:
        super().__init__(config)
        self.gate: Callable[[str], None] = lambda path: None
        self.by_threads: list[str] = []
        self.by_loop: list[str] = []
        for number in range(COUNT):
            self.put(f"{number:03d}.bin", bytes([number]) * 50)

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        self.by_loop.append(path)
        return MemorySource.read_blocking(self, path, start, end)

    def read_blocking(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        self.by_threads.append(path)
        self.gate(path)
        return super().read_blocking(path, start, end)


class Gate:
    """Lets reads of some paths through only once it is open, and counts those that wait."""

    def __init__(self, *paths: str) -> None:
        self.opened = threading.Event()
        self.waiting = threading.Semaphore(0)
        self._paths = paths

    def __call__(self, path: str) -> None:
        if not self._paths or path in self._paths:
            self.waiting.release()
            self.opened.wait(60)

    def wait_for(self, reads: int) -> None:
        """Return once this many reads wait."""
        for _ in range(reads):
            assert self.waiting.acquire(timeout=60)


@pytest.fixture
def made() -> Iterator[list[GatedSource]]:
    """Register `gated://`, and return the sources made for it."""
    sources: list[GatedSource] = []

    def make(config: DataSourceConfig) -> GatedSource:
        sources.append(GatedSource(config))
        return sources[-1]

    register_scheme("gated", make)
    yield sources
    for source in sources:
        if isinstance(source.gate, Gate):
            source.gate.opened.set()


def values(adapter: Any, positions: range) -> list[int]:
    return [sample["data"][0] for sample in adapter.__getitems__(list(positions))]


def test_healthy_reads_never_touch_the_loop(made: list[GatedSource]) -> None:
    """Each object is read once, by a thread, and the metrics count it."""
    with StreamingDatasetAdapter(GATED, cache_size_gb=0.01) as adapter:
        assert values(adapter, range(COUNT)) == list(range(COUNT))
        assert (sorted(made[0].by_threads), made[0].by_loop) == (sorted(set(made[0].by_threads)), [])
        snapshot = adapter.metrics_snapshot()
        assert snapshot["source_requests"]["data", "ok"] == COUNT
        assert snapshot["source_in_flight"]["data",] == 0


def test_a_failure_is_retried_by_the_chain(made: list[GatedSource]) -> None:
    """A thread's failed attempt is the first of the chain's, which tries again."""
    with StreamingDatasetAdapter(GATED, resilience={"backoff_base_s": 0.001}) as adapter:
        failed = []

        def fail(path: str) -> None:
            if path not in failed:
                failed.append(path)
                raise SourceUnavailable("planted", path=path)

        made[0].gate = fail
        assert values(adapter, range(COUNT)) == list(range(COUNT))
        snapshot = adapter.metrics_snapshot()
        assert snapshot["source_requests"]["data", "unavailable"] >= 1
        assert snapshot["source_requests"]["data", "ok"] == COUNT


def test_what_needs_the_loop_is_read_there(made: list[GatedSource]) -> None:
    """A thread passes it on, and nothing counts as a failure."""
    with StreamingDatasetAdapter(GATED) as adapter:

        def refuse(path: str) -> None:
            raise NeedsLoop

        made[0].gate = refuse
        assert values(adapter, range(COUNT)) == list(range(COUNT))
        assert sorted(made[0].by_loop) == [f"{number:03d}.bin" for number in range(COUNT)]
        requests = adapter.metrics_snapshot()["source_requests"]
        assert {outcome: count for (_, outcome), count in requests.items() if count} == {"ok": COUNT}


def test_a_thread_that_hangs_is_replaced(made: list[GatedSource]) -> None:
    """Reads of a server that is silent for some objects are made again by the loop; the others continue in threads."""
    resilience = {"hedge_min_samples": 1, "hedge_share": 1.0, "hedge_min_s": 0.02}
    with StreamingDatasetAdapter(GATED, resilience=resilience) as adapter:
        values(adapter, range(8))  # earns the tokens of second requests
        hanging = [f"{number:03d}.bin" for number in range(10, COUNT, 20)]
        gate = made[0].gate = Gate(*hanging)
        assert values(adapter, range(8, COUNT)) == list(range(8, COUNT))
        gate.wait_for(len(hanging))
        assert set(hanging) <= set(made[0].by_loop)
        gate.opened.set()
        assert values(adapter, range(COUNT)) == list(range(COUNT))


def test_the_number_of_threads_has_a_ceiling(made: list[GatedSource]) -> None:
    """However many reads are wanted, no more threads read than the concurrency limit of the endpoint allows."""
    with StreamingDatasetAdapter(GATED, resilience={"initial_concurrency": 4}) as adapter:
        gate = made[0].gate = Gate()
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(values, adapter, range(COUNT))
            gate.wait_for(4)
            readers = [thread for thread in threading.enumerate() if thread.name.startswith("streaming-reader")]
            assert len(readers) == 4
            gate.opened.set()
            assert reading.result() == list(range(COUNT))


def test_close_does_not_wait_for_silent_servers(made: list[GatedSource]) -> None:
    """The readers get an error at once, while threads still wait for their answers."""
    adapter = StreamingDatasetAdapter(GATED)
    gate = made[0].gate = Gate()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(values, adapter, range(COUNT))
        gate.wait_for(8)
        adapter.close()
        with pytest.raises(ClosedError):
            reading.result(60)
    assert not gate.opened.is_set()


def _report(reader: Any, connection: Connection) -> None:
    connection.send([sample["data"][0] for sample in reader.__getitems__(list(range(4)))])


def test_a_fork_while_reads_are_under_way(made: list[GatedSource]) -> None:
    """The child reads through its parent, whose threads continue."""
    ours, theirs = multiprocessing.Pipe()
    with StreamingDatasetAdapter(GATED) as adapter, ThreadPoolExecutor(1) as pool:
        assert values(adapter, range(4)) == [0, 1, 2, 3]
        gate = made[0].gate = Gate()
        reading = pool.submit(values, adapter, range(4, COUNT))
        gate.wait_for(8)
        child = multiprocessing.get_context("fork").Process(target=_report, args=(adapter, theirs))
        child.start()
        assert ours.recv() == [0, 1, 2, 3]
        child.join(60)
        assert child.exitcode == 0
        gate.opened.set()
        assert reading.result() == list(range(4, COUNT))


INTERRUPTED = """
import os, signal, sys, threading
from streaming.adapter import StreamingDatasetAdapter
from streaming.testing import MemorySource

class Silent(MemorySource):
    def read_blocking(self, path, start=0, end=None):
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(600)

adapter = StreamingDatasetAdapter(Silent("data", {"a.bin": b"a"}))
try:
    adapter[0]
except KeyboardInterrupt:
    adapter.close()
    print("interrupted")
"""


def test_an_interrupt_ends_the_wait_of_a_trainer() -> None:
    """Ctrl-C reaches a trainer that waits for a silent server, and its process ends."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    assert done.stdout == "interrupted\n"


COUNTED = """
import asyncio, json, os, sys
sys.modules["uvloop"] = None  # asyncio's own loop can be counted
counts = {"callbacks": 0, "tasks": 0}
run = asyncio.Handle._run

def counted(handle):
    counts["callbacks"] += 1
    run(handle)

asyncio.Handle._run = counted
create_task = asyncio.BaseEventLoop.create_task

def counted_task(loop, *args, **options):
    counts["tasks"] += 1
    return create_task(loop, *args, **options)

asyncio.BaseEventLoop.create_task = counted_task
from streaming.adapter import StreamingDatasetAdapter
from streaming.loader.data_loader import StreamingDataLoader

with StreamingDatasetAdapter(sys.argv[1], cache_size_gb=0.1) as adapter:
    adapter[0]
    counts.update(callbacks=0, tasks=0)
    loader = StreamingDataLoader(adapter, 50, shuffle=True, num_workers=0)
    assert sum(len(batch["idx"]) for batch in loader) == 1000
    print(json.dumps(counts))
"""


def test_healthy_samples_cost_the_loop_next_to_nothing(tmp_path: Path) -> None:
    """Over 1,000 local samples it runs a few callbacks for each batch of 50, whatever the timers add, and no task."""
    for number in range(1000):
        (tmp_path / f"{number:04d}.bin").write_bytes(b"%d" % number)
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, str(tmp_path)], capture_output=True, text=True, timeout=120, check=True
    )
    counts = json.loads(done.stdout)
    assert counts["tasks"] <= 2
    assert counts["callbacks"] <= 5 * 20


def test_a_loader_over_gated_reads_keeps_the_order(made: list[GatedSource]) -> None:
    """Threads that answer out of order do not change the order of the samples."""
    with StreamingDatasetAdapter(GATED, cache_size_gb=0.01) as adapter:
        loader: Any = StreamingDataLoader(adapter, 7, shuffle=True, seed=3)
        first = [index for batch in loader for index in batch["idx"].tolist()]
    with StreamingDatasetAdapter(GATED, cache_size_gb=0.01) as adapter:
        turn = threading.Event()

        def in_pairs(path: str) -> None:
            """Let every other read wait for a moment, until the next has come."""
            if int(path[:3]) % 2:
                turn.wait(0.01)
            else:
                turn.set()

        made[-1].gate = in_pairs
        loader = StreamingDataLoader(adapter, 7, shuffle=True, seed=3)
        assert [index for batch in loader for index in batch["idx"].tolist()] == first
    assert sorted(first) == list(range(COUNT))


# -- the number of threads


class Server:
    """Answers as many loads a second as threads ask at once, up to a limit; `look`s at a count as the engine does."""

    def __init__(self, latency_s: float, most_per_s: float) -> None:
        self.count = ThreadCount()
        self.latency_s = latency_s
        self.most_per_s = most_per_s
        self.now = 0.0
        self.loads = 0.0

    def run(self, seconds: float, *, is_limit: bool = True) -> int:
        """Let time pass in steps of 20 ms; return the number of threads then."""
        for _ in range(round(seconds / 0.02)):
            self.now += 0.02
            self.loads += 0.02 * min(self.count.threads / self.latency_s, self.most_per_s)
            self.count.look(self.now, int(self.loads), is_limit)
        return self.count.threads


def test_threads_double_while_that_is_faster() -> None:
    """Behind 30 ms all threads are in use within seconds."""
    assert Server(0.03, 1e9).run(5) == MOST_THREADS


def test_threads_stay_few_where_more_are_not_faster() -> None:
    """A server, or a processor, at its limit: trials with twice the threads become rare."""
    server = Server(0.001, 10_000)
    assert server.run(30) in (START_THREADS, 2 * START_THREADS)
    trials = 0
    for _ in range(3000):
        before = server.count.threads
        trials += server.run(0.02) > before
    assert 1 <= trials <= 4


def test_without_demand_nothing_is_tried() -> None:
    """The rate of a trainer that does not wait says nothing about threads."""
    assert Server(0.03, 1e9).run(60, is_limit=False) == START_THREADS
