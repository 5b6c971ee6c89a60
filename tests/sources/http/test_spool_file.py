"""Servers that answer a range with the whole object: each object crosses the wire once, and every byte is counted."""

from __future__ import annotations

import asyncio
import functools
import gzip
import http.server
import json
import os
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from streaming.adapter import StreamingDatasetAdapter
from streaming.core.source_config import DataSourceConfig
from streaming.errors import BadRequest, ClosedError, SourceError, TruncatedRead
from streaming.sources import HTTPDataSource, HuggingFaceDataSource
from streaming.sources.base import DataSource
from tests.conftest import WebServer
from tests.fault_server import FaultServer, Request, in_turn, ranged, respond

ROWS = 400
BODY = bytes(range(200)) * 500
COMMIT = "c0ffee" * 6 + "0000"


class CountingServer:
    """Python's own web server over a folder, which counts requests and sent bytes.

    Attributes:
        url: of the folder, with a final slash.
        requests: how often each path was requested.
        sent: bytes of files that it sent, without headers and listings.
    """

    def __init__(self, root: Path) -> None:
        self.requests: Counter[str] = Counter()
        self.sent = 0
        counting = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                """Say nothing."""

            def do_GET(self) -> None:
                counting.requests[self.path] += 1
                super().do_GET()

            def copyfile(self, source: Any, outputfile: Any) -> None:
                while data := source.read(65_536):
                    outputfile.write(data)
                    if not self.path.endswith("/"):
                        counting.sent += len(data)

        handler = functools.partial(Handler, directory=str(root))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> CountingServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[CountingServer]:
    """Such a server over the folder `www`."""
    (tmp_path / "www").mkdir()
    with CountingServer(tmp_path / "www") as server:
        yield server


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    """A server whose answers each test sets."""
    async with FaultServer() as server:
        yield server


@pytest.fixture(params=["obstore", "aiohttp", "hub"])
async def source(request: pytest.FixtureRequest, server: FaultServer) -> AsyncIterator[DataSource]:
    """A source of objects below `/`, by each engine of HTTP, and through the Hub."""
    made = over(server.url, request.param)
    async with made:
        yield made


def over(url: str, engine: str, **options: Any) -> DataSource:
    """A source over a server's root."""
    if engine != "hub":
        return HTTPDataSource(DataSourceConfig("web", "http", url, engine=engine, **options))
    given = {"endpoint": url, "token": False, "revision": COMMIT}
    return HuggingFaceDataSource(DataSourceConfig("web", "huggingface", "org/data", storage_options=given, **options))


def paths_of(source: DataSource, name: str) -> str:
    """Return the path in a request for an object."""
    return f"/{name}" if isinstance(source, HTTPDataSource) else f"/datasets/org/data/resolve/{COMMIT}/{name}"


def write_rows(root: Path, name: str, rows: int = ROWS) -> int:
    """Lines of JSON of about a kilobyte; gives the size."""
    text = "".join(json.dumps({"n": number, "pad": "x" * 1000}) + "\n" for number in range(rows))
    (root / name).write_text(text)
    return len(text)


def open_files() -> set[str]:
    """Return the files below the temporary folder that this process has open."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    return {name for name in found if name.startswith(tempfile.gettempdir())}


@pytest.mark.parametrize("engine", ["obstore", "aiohttp"])
def test_rows_cost_one_download_of_their_object(counting: CountingServer, tmp_path: Path, engine: str) -> None:
    """In two passes over three objects Python's server sends each once, and the byte count is right."""
    names = [f"{name}.jsonl" for name in "abc"]
    size = sum(write_rows(tmp_path / "www", name) for name in names)
    source = {"name": "web", "path": counting.url, "engine": engine}
    with StreamingDatasetAdapter(source, cache_size_gb=0.0002) as adapter:
        for _ in range(2):
            samples = [adapter[number] for number in range(len(adapter))]
        stats, readings = adapter.get_cache_stats(), adapter.metrics_snapshot()
    assert [sample["web"]["n"] for sample in samples] == 3 * list(range(ROWS))
    assert stats["fetched_samples"] > 3 * ROWS, "the cache holds a part only, so the second pass fetched too"
    assert [counting.requests[f"/{name}"] for name in names] == [1, 1, 1]
    assert counting.sent == size == stats["fetched_bytes"] == readings["source_bytes"]["web",]
    assert readings["fetched_bytes"][()] == size


def test_fetched_bytes_begin_again_after_a_reset(counting: CountingServer, tmp_path: Path) -> None:
    """`reset_metrics` sets what was fetched back to zero; the next download counts from there."""
    write_rows(tmp_path / "www", "a.jsonl")
    (tmp_path / "www" / "raw").mkdir()
    (tmp_path / "www" / "raw" / "a.bin").write_bytes(BODY)
    with StreamingDatasetAdapter({"name": "web", "path": f"{counting.url}raw/"}) as adapter:
        assert len(adapter[0]["web"]) == len(BODY) == adapter.get_cache_stats()["fetched_bytes"]
        adapter.reset_metrics()
        assert adapter.get_cache_stats()["fetched_bytes"] == 0
        adapter.clear_cache()
        adapter[0]
        assert adapter.get_cache_stats()["fetched_bytes"] == len(BODY)


@pytest.mark.parametrize("engine", ["obstore", "aiohttp"])
def test_objects_beyond_the_temporary_file_are_refused(counting: CountingServer, tmp_path: Path, engine: str) -> None:
    """The error names server, object, size and setting, before the download, and the object is not requested again."""
    size = write_rows(tmp_path / "www", "a.jsonl")
    source = {"name": "web", "path": counting.url, "engine": engine, "spool_bytes": size - 1}
    told = rf"{counting.url[:-1]} sends no ranges.*'a\.jsonl' of source 'web' \({size} bytes\).*spool_bytes={size - 1}"
    with pytest.raises(BadRequest, match=f"{told}.*Range"):
        StreamingDatasetAdapter(source)
    assert counting.requests["/a.jsonl"] == 1


async def test_a_refused_object_is_not_requested_again(server: FaultServer) -> None:
    """An object that is sent whole and is too large is requested once."""
    server.answers["/a.bin"] = respond(body=BODY)
    async with over(server.url, "aiohttp", spool_bytes=1000) as source:
        for start in range(5):
            with pytest.raises(BadRequest, match=r"'a\.bin'"):
                await source.read("a.bin", start, start + 1)
    assert len(server.requests) == 1


async def test_objects_that_come_at_the_same_time_share_the_room(server: FaultServer) -> None:
    """If two objects are read at once and only one fits, one is kept and the other refused."""
    for name in "ab":
        server.answers[f"/{name}.bin"] = respond(body=BODY)
    async with over(server.url, "aiohttp", spool_bytes=len(BODY) + 1000) as source:
        reads = [source.read(f"{name}.bin", 1, 2) for name in "ab"]
        ends = await asyncio.gather(*reads, return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["BadRequest", "Blob"]


async def test_readers_at_the_same_time_share_one_download(source: DataSource, server: FaultServer) -> None:
    """The first concurrent reads of rows of one object make one request."""
    server.answers[paths_of(source, "a.bin")] = respond(body=BODY, ETag='"e"')
    blobs = await asyncio.gather(*(source.read("a.bin", start, start + 10) for start in range(0, 1000, 10)))
    assert b"".join(bytes(blob.data) for blob in blobs) == BODY[:1000]
    assert {(blob.size, blob.etag) for blob in blobs} == {(len(BODY), "e")}
    assert len(server.requests) == 1
    assert source.received_bytes == len(BODY)


async def test_a_server_with_ranges_sends_only_the_requested_bytes(source: DataSource, server: FaultServer) -> None:
    """Each range is one request, and the byte count is the requested length."""
    server.answers[paths_of(source, "a.bin")] = ranged(BODY)
    for start in range(0, 50, 10):
        assert bytes((await source.read("a.bin", start, start + 10)).data) == BODY[start : start + 10]
    assert len(server.requests) == 5
    assert source.received_bytes == 50


async def test_a_server_that_loses_its_ranges(source: DataSource, server: FaultServer) -> None:
    """It could cut ranges and now sends all: the object is taken once from then on, others still come in parts."""
    server.answers[paths_of(source, "a.bin")] = in_turn(ranged(BODY), respond(body=BODY))
    server.answers[paths_of(source, "b.bin")] = ranged(BODY)
    assert bytes((await source.read("a.bin", 0, 10)).data) == BODY[:10]
    for start in range(10, 200, 10):
        assert bytes((await source.read("a.bin", start, start + 10)).data) == BODY[start : start + 10]
        assert bytes((await source.read("b.bin", start, start + 10)).data) == BODY[start : start + 10]
    asked = Counter(request.target for request in server.requests)
    assert asked[paths_of(source, "a.bin")] <= 4, "one range, at most two that ended at the headers, one whole"
    assert asked[paths_of(source, "b.bin")] == 19


@pytest.mark.parametrize("length", [-1, None])
async def test_packed_and_unannounced_bodies_come_once(
    source: DataSource, server: FaultServer, length: int | None
) -> None:
    """A body without its length, or packed unasked, is kept decompress_body; what was received is what was sent."""
    packed = gzip.compress(BODY)
    server.answers[paths_of(source, "a.bin")] = respond(body=BODY, length=length)
    server.answers[paths_of(source, "b.bin")] = respond(body=packed, length=length, Content_Encoding="gzip")
    for start in range(0, 50, 10):
        for name in ("a.bin", "b.bin"):
            assert bytes((await source.read(name, start, start + 10)).data) == BODY[start : start + 10]
    assert len(server.requests) == 2
    assert source.received_bytes == len(BODY) + len(packed)


@pytest.mark.parametrize("headers", [{"length": None}, {"Content_Encoding": "gzip"}])
async def test_answers_that_obstore_cannot_read_are_requested_once(
    server: FaultServer, headers: dict[str, Any]
) -> None:
    """A server whose whole answers need aiohttp is found out by its first; from then on it gets one request a read."""
    body = gzip.compress(BODY) if "Content_Encoding" in headers else BODY
    for number in range(10):
        server.answers[f"/{number}.bin"] = respond(body=body, **headers)
    async with over(server.url, "obstore") as source:
        for number in range(10):
            assert bytes((await source.read(f"{number}.bin")).data) == BODY
    assert len(server.requests) == 11


async def test_a_download_that_breaks_off_is_counted_and_begun_again(source: DataSource, server: FaultServer) -> None:
    """Each reader gets an error of its own; what came counts, and the second attempt takes no more room."""
    target = paths_of(source, "a.bin")
    server.answers[target] = in_turn(respond(body=BODY[:5000], length=len(BODY)), respond(body=BODY))
    reads = [source.read("a.bin", start, start + 10) for start in range(5)]
    errors = await asyncio.gather(*reads, return_exceptions=True)
    assert [type(error) for error in errors] == [TruncatedRead] * 5
    assert len({id(error) for error in errors}) == 5
    assert source.received_bytes == 5000
    assert bytes((await source.read("a.bin", 5, 15)).data) == BODY[5:15]
    assert source.received_bytes == 5000 + len(BODY)


async def test_room_of_a_download_that_broke_off_is_used_again(server: FaultServer) -> None:
    """An object just as large as the limit fits after any number of broken attempts."""
    cut = respond(body=BODY[:5000], length=len(BODY))
    server.answers["/a.bin"] = in_turn(cut, cut, cut, respond(body=BODY))
    async with over(server.url, "aiohttp", spool_bytes=len(BODY)) as source:
        for _ in range(3):
            with pytest.raises(TruncatedRead):
                await source.read("a.bin", 1, 2)
        assert bytes((await source.read("a.bin", 1, 2)).data) == BODY[1:2]


class Paused:
    """An answer that stops in the middle of its body until it is released."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.proceed = asyncio.Event()
        self.ended = asyncio.Event()

    async def __call__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY[:1000])
        await writer.drain()
        self.begun.set()
        try:
            await self.proceed.wait()
            writer.write(BODY[1000:])
        finally:
            self.ended.set()


async def test_a_cancelled_reader_does_not_end_the_download_of_others(source: DataSource, server: FaultServer) -> None:
    """The reader that started the download is cancelled: the others get their bytes from the same request."""
    paused = server.answers[paths_of(source, "a.bin")] = Paused()
    first, *others = [asyncio.ensure_future(source.read("a.bin", start, start + 10)) for start in range(5)]
    await paused.begun.wait()
    first.cancel()
    await asyncio.wait([first])
    paused.proceed.set()
    assert [bytes(blob.data) for blob in await asyncio.gather(*others)] == [BODY[n : n + 10] for n in range(1, 5)]
    assert first.cancelled()
    assert len(server.requests) == 1


async def test_a_download_without_waiters_is_cancelled(source: DataSource, server: FaultServer) -> None:
    """Once its last reader is cancelled no task is left, and the next reader begins another."""
    paused = server.answers[paths_of(source, "a.bin")] = Paused()
    tasks = asyncio.all_tasks()
    reads = [asyncio.ensure_future(source.read("a.bin", start, start + 10)) for start in range(3)]
    await paused.begun.wait()
    for read in reads:
        read.cancel()
    await asyncio.wait(reads)
    ours = {task for task in asyncio.all_tasks() - tasks if "FaultServer" not in repr(task)}
    assert ours == set()
    paused.proceed.set()
    assert bytes((await source.read("a.bin", 0, 10)).data) == BODY[:10]


async def test_closing_ends_what_is_under_way_and_leaves_no_file(server: FaultServer) -> None:
    """The temporary file has no name while it is used, and is gone after `aclose`, also in the middle of a download."""
    paused = server.answers["/b.bin"] = Paused()
    server.answers["/a.bin"] = respond(body=BODY)
    before, named = open_files(), set(os.listdir(tempfile.gettempdir()))
    source = over(server.url, "aiohttp")
    await source.read("a.bin", 0, 10)
    assert len(open_files() - before) == 1
    assert set(os.listdir(tempfile.gettempdir())) <= named
    read = asyncio.ensure_future(source.read("b.bin", 0, 10))
    await paused.begun.wait()
    await source.aclose()
    with pytest.raises(ClosedError):
        await read
    assert open_files() == before


async def test_each_loop_keeps_its_own(counting: CountingServer, tmp_path: Path) -> None:
    """A source that is read on one loop after another lets go of the file of each that has ended."""
    write_rows(tmp_path / "www", "a.jsonl")
    before = open_files()
    source = over(counting.url, "aiohttp")

    async def read() -> bytes:
        return bytes((await source.read("a.jsonl", 1, 3)).data)

    for _ in range(3):
        assert await asyncio.to_thread(lambda: asyncio.run(read())) == b'"n'
        assert len(open_files() - before) == 1
    await source.aclose()
    assert open_files() == before


async def test_no_space_for_the_file_is_reported(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where temporary files cannot be written, the error names the folder and the variable that moves it."""
    server.answers["/a.bin"] = respond(body=BODY)
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    async with over(server.url, "aiohttp") as source:
        with pytest.raises(SourceError, match=r"'a\.bin' of source 'web'.*'/nowhere'.*TMPDIR") as caught:
            await source.read("a.bin", 0, 10)
    assert not caught.value.retryable


@pytest.mark.parametrize("engine", ["obstore", "aiohttp"])
def test_a_retried_body_counts_each_time(tmp_path: Path, engine: str) -> None:
    """Bytes of an attempt that broke off crossed the wire as well."""
    sent: list[int] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Say nothing."""

        def copyfile(self, source: BinaryIO, outputfile: BinaryIO) -> None:  # type: ignore[override]
            data = source.read()
            outputfile.write(data[: len(data) // 2 if self.path == "/a.bin" and not sent else None])
            if self.path == "/a.bin":
                sent.append(len(data) if sent else len(data) // 2)

    (tmp_path / "a.bin").write_bytes(BODY)
    handler = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{running.server_port}/"
        with StreamingDatasetAdapter({"name": "web", "path": url, "engine": engine}) as adapter:
            assert adapter[0]["web"] == BODY
            stats = adapter.get_cache_stats()
        running.shutdown()
        thread.join()
    assert len(sent) == 2
    if engine == "aiohttp":
        assert stats["fetched_bytes"] == sum(sent)
    else:
        assert sum(sent) <= stats["fetched_bytes"] <= 2 * len(BODY), "obstore counts the declared length of a body"


async def test_ranges_through_nginx_are_read_by_obstore(nginx: WebServer) -> None:
    """Once a server has cut one range, the faster engine reads the others."""
    (nginx.root / "spool.bin").write_bytes(BODY)
    async with over(nginx.url, "obstore") as source:
        for start in range(0, 50, 10):
            assert bytes((await source.read("spool.bin", start, start + 10)).data) == BODY[start : start + 10]
        assert source.received_bytes == 50
