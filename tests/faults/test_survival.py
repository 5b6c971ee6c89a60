"""Whole epochs through servers that die, fall silent, refuse, cut and stall: each sample comes once and in order."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, RandomSampler

from streaming.adapter import StreamingDatasetAdapter
from streaming.errors import ObjectChanged, ObjectNotFoundError, SourceError
from tests.conftest import SERVICES, WebServer
from tests.loopback import held_port
from tests.relay import Relay

COUNT = 160
BATCH = 8


def content(number: int) -> bytes:
    return number.to_bytes(2, "big") * 10_000


@pytest.fixture
def www(nginx: WebServer, tmp_path: Path) -> str:
    """Make a folder of objects on a real web server, and return its path there."""
    folder = nginx.root / tmp_path.name
    folder.mkdir()
    for number in range(COUNT):
        (folder / f"{number:04d}.bin").write_bytes(content(number))
    return f"{tmp_path.name}/"


@pytest.fixture
def primary(nginx: WebServer) -> Iterator[Relay]:
    """A route to the server that can be broken."""
    with Relay(nginx.url) as relay:
        yield relay


@pytest.fixture
def mirror(nginx: WebServer) -> Iterator[Relay]:
    """Another route to the same server."""
    with Relay(nginx.url) as relay:
        yield relay


def adapter_of(url: str, *mirrors: str, **resilience: float) -> StreamingDatasetAdapter:
    others = [{"name": f"mirror{number}", "type": "http", "path": mirror} for number, mirror in enumerate(mirrors)]
    source: dict[str, Any] = {"name": "data", "type": "http", "path": url, "mirrors": others}
    return StreamingDatasetAdapter(source, prefetch_ahead=24, resilience=resilience or None)


def train(adapter: StreamingDatasetAdapter, at_half: Callable[[], object] = lambda: None) -> float:
    """Run one shuffled epoch, check each sample, and return the longest wait for a batch in seconds."""
    order = list(RandomSampler(range(COUNT)))
    loader = DataLoader(adapter, batch_size=BATCH, sampler=adapter.look_ahead(order), collate_fn=list)
    before = adapter.get_cache_stats()["fetched_samples"]
    seen: list[int] = []
    pauses: list[float] = []
    requested = time.perf_counter()
    for batch in loader:
        pauses.append(time.perf_counter() - requested)
        for sample in batch:
            assert sample["data"] == content(sample["idx"])
            seen.append(sample["idx"])
        if len(seen) == COUNT // 2:
            at_half()
        requested = time.perf_counter()
    assert seen == order
    assert adapter.get_cache_stats()["fetched_samples"] - before == COUNT
    return max(pauses)


def test_the_primary_dies_and_comes_back(primary: Relay, mirror: Relay, www: str) -> None:
    """The mirror serves the rest of the epoch; once the primary is back it is read again."""
    with adapter_of(primary.url + www, mirror.url + www, cooldown_s=0.05, cooldown_max_s=0.1) as adapter:
        assert train(adapter, primary.kill) < 5
        assert mirror.connections > 0
        taken = primary.connections
        primary.revive()
        for _ in range(20):  # an epoch may be over before the breaker's pause is
            adapter.clear_cache()
            train(adapter)
            if primary.connections > taken:
                break
        assert primary.connections > taken


def test_the_primary_falls_silent(primary: Relay, mirror: Relay, www: str) -> None:
    """It accepts connections and does not answer: the next replica is read, and no batch waits for 5 s."""
    with adapter_of(primary.url + www, mirror.url + www) as adapter:
        assert train(adapter, primary.silence) < 5


def test_answers_cut_at_random_bytes(primary: Relay, www: str) -> None:
    """A body that breaks off anywhere is read again, whole."""
    with adapter_of(primary.url + www, backoff_base_s=0.01, retry_ratio=1.0, retry_burst=1000) as adapter:
        len(adapter)
        primary.kill()
        primary.cut_share = 0.5
        primary.revive()
        train(adapter)


@pytest.mark.parametrize("url", ["http://no-such-host.invalid/", "http://127.0.0.1:1/"])
def test_a_primary_that_was_never_there(url: str, mirror: Relay, www: str) -> None:
    """A name that does not resolve, and a port where no one listens: listing and reading go to the mirror."""
    with adapter_of(url + www, mirror.url + www) as adapter:
        train(adapter)


def test_all_replicas_are_down(primary: Relay, mirror: Relay, www: str) -> None:
    """One error, within the deadline, lists the attempts at each replica; afterwards everything can be read."""
    resilience = {"deadline_s": 1.5, "backoff_base_s": 0.05, "cooldown_s": 0.05, "cooldown_max_s": 0.1}
    with adapter_of(primary.url + www, mirror.url + www, **resilience) as adapter:
        len(adapter)
        primary.kill()
        mirror.kill()
        started = time.perf_counter()
        with pytest.raises(SourceError, match=r"0003\.bin") as caught:
            adapter[3]
        assert time.perf_counter() - started < 5
        assert "data" in str(caught.value)
        assert "mirror0" in str(caught.value)
        primary.revive()
        mirror.revive()
        train(adapter)


def test_a_stale_mirror(nginx: WebServer, primary: Relay, mirror: Relay, www: str) -> None:
    """An object that the mirror lacks, or has in another size, is an error that names it; the rest is served."""
    stale = nginx.root / "stale" / www
    stale.mkdir(parents=True)
    for number in range(COUNT):
        (stale / f"{number:04d}.bin").write_bytes(content(number))
    (stale / "0007.bin").unlink()
    (stale / "0008.bin").write_bytes(b"old")
    resilience = {"deadline_s": 1.0, "backoff_base_s": 0.05, "cooldown_s": 0.05, "cooldown_max_s": 0.1}
    with adapter_of(primary.url + www, f"{mirror.url}stale/{www}", **resilience) as adapter:
        assert adapter[6]["data"] == content(6)
        primary.kill()
        assert adapter[9]["data"] == content(9)
        for number in (7, 8):
            with pytest.raises(SourceError, match=f"000{number}"):
                adapter[number]
        primary.revive()
        assert adapter[7]["data"] == content(7)


def test_an_object_that_vanishes_or_grows(nginx: WebServer, www: str) -> None:
    """Without another replica it is an error that names the object and says what happened."""
    with adapter_of(nginx.url + www) as adapter:
        len(adapter)
        (nginx.root / www / "0005.bin").unlink()
        (nginx.root / www / "0006.bin").write_bytes(b"more" * 30_000)
        with pytest.raises(ObjectNotFoundError, match=r"0005\.bin"):
            adapter[5]
        with pytest.raises(ObjectChanged, match=r"0006\.bin"):
            adapter[6]
        assert adapter[4]["data"] == content(4)


def test_a_changed_object_is_read_from_the_mirror(nginx: WebServer, primary: Relay, www: str) -> None:
    """A replica that still has the indexed object serves it."""
    kept = nginx.root / "kept" / www
    kept.mkdir(parents=True)
    for number in range(COUNT):
        (kept / f"{number:04d}.bin").write_bytes(content(number))
    with adapter_of(primary.url + www, f"{nginx.url}kept/{www}") as adapter:
        len(adapter)
        (nginx.root / www / "0005.bin").unlink()
        (nginx.root / www / "0006.bin").write_bytes(b"more" * 30_000)
        train(adapter)


class FaultProxy:
    """HAProxy before nginx; `set(error_pct=10)` changes its faults."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self._folder = folder

    def set(self, **faults: int) -> None:
        words = [f"{name}={value}" for name, value in faults.items()]
        subprocess.run(["bash", str(SERVICES / "fault.sh"), str(self._folder), *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def faultproxy(nginx: WebServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    """A proxy that delays, refuses and stalls requests."""
    folder = tmp_path_factory.mktemp("faultproxy")
    upstream = nginx.url.removeprefix("http://").rstrip("/")
    with held_port() as port:
        command = ["env", f"UPSTREAM={upstream}", "bash", str(SERVICES / "start-faultproxy.sh"), str(folder), str(port)]
        try:
            subprocess.run(command, check=True, capture_output=True)
            yield FaultProxy(folder, f"http://127.0.0.1:{port}/")
        finally:
            subprocess.run(["bash", str(SERVICES / "stop.sh"), str(folder)], check=True)


@pytest.fixture
def faults(faultproxy: FaultProxy) -> Iterator[FaultProxy]:
    """The proxy, without faults before and after each test."""
    yield faultproxy
    faultproxy.set(latency_ms=0, error_pct=0, close_pct=0, stall_pct=0)


def test_one_answer_in_ten_is_503(faults: FaultProxy, www: str) -> None:
    """Retry-After is respected, and every sample comes."""
    with adapter_of(faults.url + www) as adapter:
        len(adapter)
        faults.set(error_pct=10)
        train(adapter)


def test_nothing_but_503_for_a_while(faults: FaultProxy, www: str) -> None:
    """The run continues once the server does."""
    with adapter_of(faults.url + www) as adapter:
        len(adapter)
        faults.set(error_pct=100)
        fetched = adapter.prefetch_batch(range(8))
        with pytest.raises(TimeoutError):
            fetched.result(2.0)
        faults.set(error_pct=0)
        train_rest = [adapter[number] for number in range(16)]
        assert [sample["data"] for sample in train_rest] == [content(number) for number in range(16)]


def test_connections_closed_before_an_answer(faults: FaultProxy, www: str) -> None:
    """One request in five gets no answer."""
    with adapter_of(faults.url + www, backoff_base_s=0.01, retry_ratio=1.0, retry_burst=1000) as adapter:
        len(adapter)
        faults.set(close_pct=20)
        train(adapter)


def test_some_answers_stall(faults: FaultProxy, nginx: WebServer, www: str) -> None:
    """One answer in twenty comes after 30 s: it is hedged, and no batch waits that long."""
    with adapter_of(faults.url + www, nginx.url + www) as adapter:
        len(adapter)
        faults.set(stall_pct=5, stall_ms=30_000)
        assert train(adapter) < 10
