"""Metrics and processes: DataLoader workers that are killed, owners of their own, forks, and a trainer killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client import CollectorRegistry
from torch.utils.data import DataLoader

from streaming.adapter import StreamingDatasetAdapter
from streaming.loader.data_loader import StreamingDataLoader
from streaming.monitoring.metrics import Collector, metrics_registry, start_metrics_server
from tests.monitoring.metrics.parts import COUNT, in_child, memory_source, numbers, scraping

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def registry() -> CollectorRegistry:
    """A registry of its own for each test."""
    return metrics_registry(CollectorRegistry())


def _as_list(samples: Any) -> Any:
    return samples


class _KilledOnce:
    """A transform in which its process is killed at the third sample, if a file exists, which it removes.

    A worker that is killed from outside may hold a lock of torch, for which its trainer would then wait forever.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        if sample["idx"] == 2 and self.file.exists():
            self.file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return sample


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("is_persistent", [True, False])
def test_a_killed_worker_is_neither_lost_nor_counted_twice(
    registry: CollectorRegistry, method: str, is_persistent: bool, tmp_path: Path
) -> None:
    """A worker's reads count when they are made; nothing is lost when it is killed; the next one continues."""
    transform = _KilledOnce(tmp_path / "kill")
    transform.file.touch()
    with StreamingDatasetAdapter(memory_source(), transform=transform) as adapter:
        options: Any = {
            "num_workers": 1,
            "batch_size": 1,
            "prefetch_factor": 1,
            "persistent_workers": is_persistent,
            "multiprocessing_context": method,
            "collate_fn": _as_list,
        }
        batches = iter(DataLoader(adapter, **options))
        with pytest.raises(RuntimeError, match=r"DataLoader worker .* (exited unexpectedly|is killed by signal)"):
            list(batches)
        del batches
        served = 3  # two batches that came, and one that was on its way
        assert numbers(registry).of("reads_total", dataset="data") == served
        list(DataLoader(adapter, **options))
        after = numbers(registry)
        assert after.of("reads_total", dataset="data") == served + COUNT
        assert after.of("fetched_objects_total", dataset="data") == COUNT
        assert after.of("source_requests_total", dataset="data", source="data", outcome="ok") == COUNT


def _numbers_in_worker(index: int) -> Any:
    """List the metrics of data sets that a collector finds in the current process."""
    return [key for key in numbers(metrics_registry()) if any(label == "dataset" for label, _ in key[1])]


class _WorkerMetrics:
    """A data set whose samples list the metrics that exist in the worker."""

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        assert self.adapter[index]["idx"] == index
        return _numbers_in_worker(index)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_nothing_is_collected_in_workers(registry: CollectorRegistry, method: str) -> None:
    """A worker has no numbers of data sets or loaders, however it was started: the trainer has them."""
    with StreamingDatasetAdapter(memory_source()) as adapter:
        parents = StreamingDataLoader(adapter, 4)
        list(parents)
        assert _numbers_in_worker(0) != []
        found = list(
            DataLoader(_WorkerMetrics(adapter), num_workers=1, multiprocessing_context=method, collate_fn=_as_list)  # type: ignore[arg-type]
        )
        assert found == [[[]], [[]]]
        assert numbers(registry).of("reads_total", dataset="data") == COUNT + 2


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_fork_starts_at_zero() -> None:
    """A collector that a child inherits has nothing of what its parent counted, also while the parent is scraped."""
    collector = Collector()
    with StreamingDatasetAdapter(memory_source()) as adapter:
        adapter.__getitems__(range(COUNT))
        assert numbers(collector).of("reads_total", dataset="data") == COUNT
        with scraping(lambda: numbers(collector)):
            codes = [in_child(lambda: numbers(collector).total("reads_total") == 0) for _ in range(10)]
        assert codes == [0] * 10
        assert numbers(collector).of("reads_total", dataset="data") == COUNT


def test_numbers_come_from_a_process_that_reads(registry: CollectorRegistry, tmp_path: Path) -> None:
    """With an owner in a child its numbers pass over the line; killed, it leaves the last ones, and errors."""
    for i in range(COUNT):
        (tmp_path / f"{i:03d}.bin").write_bytes(bytes([i]) * 100)
    with StreamingDatasetAdapter(str(tmp_path), owner="process", name="far") as adapter:
        adapter.__getitems__(range(COUNT))
        found = numbers(registry)
        assert found.of("reads_total", dataset="far") == COUNT
        assert found.total("source_requests_total", dataset="far", outcome="ok") == COUNT
        assert found.of("event_loop_lag_seconds", process="owner") is not None
        owner: Any = adapter._reader
        os.kill(owner._process.pid, signal.SIGKILL)
        found = numbers(registry)
        assert found.of("reads_total", dataset="far") == COUNT
        assert found.of("scrape_errors_total", dataset="far") == 1
    assert numbers(registry).of("reads_total", dataset="far") == COUNT


def test_a_stopped_owner_blocks_no_scrape(registry: CollectorRegistry, tmp_path: Path) -> None:
    """While the process that reads does not run, its last numbers are given, with fresh ones of others; then it
    continues."""
    (tmp_path / "0.bin").write_bytes(b"x")
    with (
        StreamingDatasetAdapter(str(tmp_path), owner="process") as adapter,
        StreamingDatasetAdapter(memory_source(), name="other") as other,
    ):
        assert adapter[0]["idx"] == 0
        numbers(registry)
        owner: Any = adapter._reader
        engine = psutil.Process(owner._process.pid)
        engine.suspend()
        try:
            while engine.status() != psutil.STATUS_STOPPED:  # the signal takes effect later than it is sent
                pass
            for errors in (1, 2, 3):
                assert other[0]["idx"] == 0
                found = numbers(registry)
                assert found.of("reads_total", dataset="data") == 1
                assert found.of("reads_total", dataset="other") == errors
                assert found.of("scrape_errors_total", dataset="data") == errors
                assert found.of("scrape_errors_total", dataset="other") == 0
        finally:
            engine.resume()
        assert adapter[0]["idx"] == 0
        while numbers(registry).of("reads_total", dataset="data") != 2:
            pass


def test_a_port_is_free_when_its_trainer_was_killed() -> None:
    """After `kill -9` the next run serves at the same port at once, also while a child of the dead one lives on."""
    code = """
        import os, sys
        from streaming import start_metrics_server
        server = start_metrics_server(0)
        port = server.port
        if os.fork() == 0:
            print(port, flush=True)
            sys.stdin.read()  # until the test closes it
            os._exit(0)
        sys.stdin.read()
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as trainer:
        assert trainer.stdout is not None
        port = int(trainer.stdout.readline())
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz").status == 200
        trainer.kill()
        trainer.wait()
        with start_metrics_server(port, registry=CollectorRegistry()) as server:
            assert server.port == port


def test_a_trainer_ends_cleanly_with_everything_running(tmp_path: Path) -> None:
    """Server, file and pusher need not be closed: the interpreter ends at once, and the file has the last numbers."""
    code = """
        import sys
        from streaming.adapter import StreamingDatasetAdapter
        from streaming.monitoring.metrics import Pusher, TextfileWriter, start_metrics_server
        server = start_metrics_server(0)
        writer = TextfileWriter(sys.argv[1], every_s=3600)
        pusher = Pusher("http://127.0.0.1:9", "job", every_s=3600)
        adapter = StreamingDatasetAdapter(sys.argv[2])
        assert adapter[0]["idx"] == 0
    """
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "0.bin").write_bytes(b"x")
    target = tmp_path / "metrics.prom"
    command = [sys.executable, "-c", textwrap.dedent(code), str(target), str(tmp_path / "data")]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert done.stderr.count("metrics_export_failed") <= 1  # the gateway that does not exist
    assert 'streaming_reads_total{dataset="data",rank="0"} 1.0' in target.read_text().splitlines()
