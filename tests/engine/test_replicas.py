"""The replica that a part is read from: mirrors of one source, and sources that hold the same folders."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from streaming.adapter import StreamingDatasetAdapter
from streaming.core.source_config import DataSourceConfig
from streaming.engine.replicas import ReplicaReader, open_entries
from streaming.errors import ConfigError, ObjectChanged, ObjectNotFoundError, SourceError
from streaming.index import Row, SampleIndex
from streaming.resilience import Retry, stack
from streaming.sources import LocalDataSource, register_scheme
from streaming.sources.base import Blob
from streaming.testing import FakeClock, Fault, FaultySource, LatencySource, MemorySource
from tests.resilience.parts import Held, driven, in_time_of, memory, settle


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def test_the_wrappers_of_a_source(tmp_path: Path) -> None:
    """Local disk without a mirror stays bare, source objects are used as they are, all else gets retries."""
    memory = MemorySource("memory")
    bare, mirrored, web, given = open_entries(
        [str(tmp_path), {"path": str(tmp_path), "mirrors": ["http://127.0.0.1:1/"]}, "http://127.0.0.1:1/", memory]
    )
    assert isinstance(bare.source, LocalDataSource)
    assert isinstance(mirrored.source, Retry)
    assert [replica.config.source_type for replica in mirrored.replicas] == ["local", "http"]
    assert isinstance(web.source, Retry)
    assert given.source is memory


def test_an_unknown_constant_is_refused_with_the_nearest(tmp_path: Path) -> None:
    """A constant that does not exist, or is out of its range, is a ConfigError."""
    with pytest.raises(ConfigError, match="did you mean 'deadline_s'"):
        open_entries([str(tmp_path)], {"deadlines": 1})
    with pytest.raises(ConfigError, match="deadline_s=-1"):
        open_entries([str(tmp_path)], {"deadline_s": -1})


def test_a_mirror_on_disk_serves_what_the_first_replica_lost(tmp_path: Path) -> None:
    """The index is of the first replica; an object that vanishes there comes from the mirror."""
    first = write(tmp_path / "first", "a.bin", "b.bin")
    mirror = write(tmp_path / "mirror", "a.bin", "b.bin")
    with StreamingDatasetAdapter({"name": "data", "path": str(first), "mirrors": [str(mirror)]}) as adapter:
        assert len(adapter) == 2
        (first / "b.bin").unlink()
        assert [adapter[i]["data"] for i in range(2)] == [b"a.bin", b"b.bin"]


def test_sources_with_the_same_folders_are_replicas(tmp_path: Path) -> None:
    """Each sample comes from the first source that has it, and from the other if that one fails."""
    part = write(tmp_path / "part", "latents/a.bin", "conditions/a.bin")
    names = [f"{folder}/{name}.bin" for folder in ("latents", "conditions") for name in "ab"]
    whole = write(tmp_path / "whole", *names)
    sources = [{"name": "part", "path": str(part)}, {"name": "whole", "path": str(whole)}]
    with StreamingDatasetAdapter(sources, data_mapping=["latents", "conditions"]) as adapter:
        assert len(adapter) == 2
        (part / "latents" / "a.bin").unlink()
        samples = [adapter[i] for i in range(2)]
    assert [sample["latents"] for sample in samples] == [b"latents/a.bin", b"latents/b.bin"]
    assert [sample["conditions"] for sample in samples] == [b"conditions/a.bin", b"conditions/b.bin"]


def test_a_replaced_object_of_the_same_size_is_noticed(tmp_path: Path) -> None:
    """If listings give ETags, a read with another one is an error that names the object."""
    root = write(tmp_path / "data", "a.bin", "b.bin")
    with StreamingDatasetAdapter(str(root)) as adapter:
        assert len(adapter) == 2
        (root / "new").write_bytes(b"A.BIN")
        (root / "new").replace(root / "a.bin")
        with pytest.raises(ObjectChanged, match=r"'a\.bin' .* was replaced since it was indexed"):
            adapter[0]
        assert adapter[1]["data"] == b"b.bin"


class HeldSource(MemorySource):
    """A dict in which the read of one range waits for a signal; for use in an adapter, on any loop.

    Attributes:
        held_start: first byte of the range that waits.
        begun: set once that read has started.
        signal: releases it.
    """

    def __init__(self, config: DataSourceConfig) -> None:
        super().__init__(config)
        self.held_start: int | None = None
        self.begun = threading.Event()
        self.signal = threading.Event()

    read_blocking = None  # type: ignore[assignment]  # as if it were remote

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        if start == self.held_start:
            self.begun.set()
            await asyncio.to_thread(self.signal.wait, 60)
        return MemorySource.read_blocking(self, path, start, end)


@pytest.fixture
def held_sources() -> dict[str, HeldSource]:
    """Register `held://NAME`, and return the sources made for it, by URL."""
    made: dict[str, HeldSource] = {}

    def make(config: DataSourceConfig) -> HeldSource:
        source = made[config.path_or_uri] = HeldSource(config)
        source.put("rows/a.jsonl", b'{"n": 0}\n{"n": 1}\n')
        return source

    register_scheme("held", make)
    return made


@pytest.mark.parametrize(
    "sources",
    [
        [{"name": "primary", "path": "held://primary", "mirrors": ["held://mirror"]}],
        [{"name": "primary", "path": "held://primary"}, {"name": "mirror", "path": "held://mirror"}],
    ],
    ids=["a mirror", "the same folders"],
)
def test_rows_of_one_object_in_flight_at_once_are_each_checked(
    held_sources: dict[str, HeldSource], sources: list[dict[str, Any]]
) -> None:
    """The primary was replaced since it was indexed: both rows are read from the mirror, whichever ends first."""
    with StreamingDatasetAdapter(sources, ["rows"]) as adapter, ThreadPoolExecutor() as pool:
        assert len(adapter) == 2
        primary = held_sources["held://primary"]
        primary.put("rows/a.jsonl", b'{"n": 7}\n{"n": 8}\n{"n": 9}\n')
        primary.held_start = len(b'{"n": 7}\n')
        late = pool.submit(adapter.__getitem__, 1)
        assert primary.begun.wait(60)
        first = adapter[0]
        primary.signal.set()
        assert [first["rows"], late.result()["rows"]] == [{"n": 0}, {"n": 1}]
        assert adapter.metrics_snapshot()["source_integrity_failures"]["primary",] == 2
        assert adapter.get_cache_stats()["fetched_bytes"] == 18 * len(sources) + 4 * 8, "with the index"


def test_a_given_source_gets_no_retries() -> None:
    """The maker of a source decides which wrappers it has: its failure is the reader's at once."""
    source = FaultySource(MemorySource("data", {"a.bin": b"a"}), [Fault(error=SourceError("planted"))])
    with StreamingDatasetAdapter(source) as adapter:
        with pytest.raises(SourceError, match="planted"):
            adapter[0]
        assert adapter[0]["data"] == b"a"


async def open_reader(sources: list[Any], **mapping: Any) -> tuple[ReplicaReader, list[Row]]:
    """Return a reader of the sources, and the rows of all samples."""
    entries = open_entries(sources)
    index = await SampleIndex.build([entry.source for entry in entries], **mapping)
    return ReplicaReader(entries, index), [row for number in range(len(index)) for row in index.rows(number)]


def requests(reader: ReplicaReader) -> dict[tuple[str, ...], int]:
    """Return the requests by replica and outcome, without zeros."""
    return {labels: count for labels, count in reader.metrics_snapshot()["source_requests"].items() if count}


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let threads switch as often as they can."""
    seconds = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(seconds)


@pytest.mark.usefixtures("hasty_threads")
async def test_reads_in_several_threads_are_all_counted(tmp_path: Path) -> None:
    """Four pool threads read local files while this one looks: no read is lost, whichever way they read."""
    names = [f"{number}.bin" for number in range(8)]
    reader, rows = await open_reader([str(write(tmp_path / "data", *names))])
    missing = rows[0]._replace(path="gone.bin")
    threads, rounds = 4, 60
    start = threading.Barrier(threads)

    def read() -> None:
        buffer = memoryview(bytearray(5))
        start.wait()
        for _ in range(rounds):
            for number, row in enumerate(rows):
                reader.read_blocking(row, buffer if number % 2 else None, perf_counter())
            with pytest.raises(ObjectNotFoundError):
                reader.read_blocking(missing, None, perf_counter())

    reading = [threading.Thread(target=read) for _ in range(threads)]
    for thread in reading:
        thread.start()
    while any(thread.is_alive() for thread in reading):
        numbers = reader.metrics_snapshot()
        assert sum(numbers["source_request_duration_seconds"]["data",][:-1]) == numbers["source_requests"]["data", "ok"]
        assert 0 <= numbers["source_in_flight"]["data",] <= threads
    assert requests(reader) == {("data", "ok"): threads * rounds * 8, ("data", "not_found"): threads * rounds}
    assert reader.metrics_snapshot()["source_bytes"] == {("data",): threads * rounds * 8 * 5}
    assert reader.metrics_snapshot()["source_in_flight"] == {("data",): 0}
    await reader.aclose()


async def test_threads_that_count_at_the_same_moment_lose_nothing() -> None:
    """Two threads meet in the middle of counting their bytes: both are in the sum."""
    meeting = threading.Barrier(2, timeout=30)

    class Met(bytes):
        def __len__(self) -> int:
            meeting.wait()
            return super().__len__()

    class Source(MemorySource):
        def read_blocking(self, path: str, start: int = 0, end: int | None = None) -> Blob:
            return Blob(Met(b"12345"), None, 5, None, self.name)

    reader, rows = await open_reader([Source("data", {"a.bin": b"12345"})])
    await asyncio.gather(*(asyncio.to_thread(reader.read_blocking, rows[0], None, perf_counter()) for _ in range(2)))
    assert reader.metrics_snapshot()["source_bytes"] == {("data",): 10}
    assert requests(reader) == {("data", "ok"): 2}


async def test_reads_in_a_thread_take_from_one_moment_to_the_next(tmp_path: Path) -> None:
    """The moment after one read is the start of the next: together they took the sum of the latencies."""
    reader, rows = await open_reader([str(write(tmp_path / "data", "a.bin"))])
    began = ended = perf_counter()
    for _ in range(3):
        blob, ended = reader.read_blocking(rows[0], None, ended)
        assert bytes(blob.data) == b"a.bin"
    *answered, seconds = reader.metrics_snapshot()["source_request_duration_seconds"]["data",]
    assert sum(answered) == 3
    assert seconds == pytest.approx(ended - began)
    await reader.aclose()


def test_each_part_of_a_sample_has_its_own_latency() -> None:
    """The latencies of parts that a thread reads in sequence do not include the wait for the parts before."""
    took = []

    class Slow(MemorySource):
        def read_blocking(self, path: str, start: int = 0, end: int | None = None) -> Blob:
            began = perf_counter()
            threading.Event().wait(0.05)
            blob = super().read_blocking(path, start, end)
            took.append(perf_counter() - began)
            return blob

    source = Slow("data", {f"{part}/0.bin": b"12345" for part in "abc"})
    with StreamingDatasetAdapter(source, {part: part for part in "abc"}) as adapter:
        assert adapter[0]["c"] == b"12345"
        *_, seconds = adapter.metrics_snapshot()["source_request_duration_seconds"]["data",]
    assert len(took) == 3
    assert sum(took) <= seconds < 1.5 * sum(took), "in sequence it would be twice as long"


async def test_a_given_source_is_counted_where_it_is_read() -> None:
    """A bare source has requests, bytes and latencies, and no breaker or limit."""
    held = Held(memory("held"), rest="hold")
    faulty = FaultySource(memory("faulty"), [Fault(error=SourceError("planted"))])
    reader, rows = await open_reader([held, faulty])
    read = asyncio.ensure_future(reader.read(rows[0]))
    with pytest.raises(SourceError, match="planted"):
        await reader.read(rows[1])
    blob = await reader.read(rows[1])
    await settle()
    reading = reader.metrics_snapshot()
    assert reading["source_in_flight"] == {("held",): 1, ("faulty",): 0}
    assert reading["source_bytes"] == {("held",): 0, ("faulty",): len(blob.data)}
    assert not {"source_breaker_state", "source_concurrency_limit", "source_retries"} & set(reading)
    read.cancel()
    await asyncio.gather(read, return_exceptions=True)
    assert requests(reader) == {("held", "cancelled"): 1, ("faulty", "other"): 1, ("faulty", "ok"): 1}
    await reader.aclose()


async def test_a_given_stack_counts_its_requests() -> None:
    """Requests that its guards count are not counted again by the reader; latencies are by its clock."""
    clock = FakeClock()
    source = stack([LatencySource(memory("data"), 0.3, sleep=clock.sleep)], in_time_of(clock))
    reader, rows = await open_reader([source])
    await driven(clock, reader.read(rows[0]), step_s=0.3)
    assert requests(reader) == {("data", "ok"): 1}
    assert reader.metrics_snapshot()["source_request_duration_seconds"]["data",][-1] == pytest.approx(0.3)
    await reader.aclose()


async def test_shared_parts_add_to_their_replicas() -> None:
    """A replica read alone, and as one of two, is one replica; wrappers around both are reported under the first."""
    one = FaultySource(
        MemorySource("one", {"latents/a.bin": b"12", "conditions/a.bin": b"345"}),
        [
            Fault("latents/a.bin", error=SourceError("planted")),
            Fault("latents/a.bin", error=ObjectNotFoundError("gone")),
        ],
    )
    two = MemorySource("two", {"latents/a.bin": b"12"})
    reader, rows = await open_reader([one, two], data_mapping=["latents", "conditions"])
    own, shared = sorted(rows, key=lambda row: row.part)
    assert bytes((await reader.read(own)).data) == b"345"
    with pytest.raises(SourceError, match="planted"):
        await reader.read(shared)
    assert bytes((await reader.read(shared)).data) == b"12"
    assert requests(reader) == {("one", "ok"): 1, ("one", "other"): 1, ("one", "not_found"): 1, ("two", "ok"): 1}
    assert reader.metrics_snapshot()["source_failovers"] == {("one",): 1}
    assert set(reader.metrics_snapshot()["source_concurrency_limit"]) == {("one",), ("two",)}
    await reader.aclose()


async def test_a_mirror_with_the_name_of_its_primary_gets_a_number(tmp_path: Path) -> None:
    """Both are folders called "data"; an object lost in the first is read from the second."""
    first, mirror = (write(tmp_path / folder / "data", "a.bin") for folder in ("first", "mirror"))
    reader, rows = await open_reader([{"path": str(first), "mirrors": [str(mirror)]}])
    (first / "a.bin").unlink()
    await reader.read(rows[0])
    assert requests(reader) == {("data", "not_found"): 1, ("data-2", "ok"): 1}
    await reader.aclose()


def test_an_adapter_reports_its_sources(tmp_path: Path) -> None:
    """Through the public interface: each sample read once is one request."""
    names = [f"{number}.bin" for number in range(6)]
    with StreamingDatasetAdapter(str(write(tmp_path / "data", *names))) as adapter:
        for number in range(6):
            adapter[number]
        reading = adapter.metrics_snapshot()
    assert reading["source_requests"]["data", "ok"] == 6
    assert reading["source_bytes"]["data",] == 6 * 5
    *buckets, seconds = reading["source_request_duration_seconds"]["data",]
    assert sum(buckets) == 6
    assert seconds > 0
