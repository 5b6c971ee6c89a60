"""Servers whose bodies are longer than announced: no engine reads more than it expects."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from streaming import StreamingDatasetAdapter
from streaming.core.source_config import DataSourceConfig
from streaming.errors import DecodeError, ObjectTooLargeError, SourceError
from streaming.sources.base import DataSource
from tests.security.engines import ENGINES, each_engine
from tests.security.hostile_server import HostileServer, Request, endless, head, respond

ENOUGH = 40_000_000  # bytes that a server may push into the sockets and the clients' own buffers

# What obstore believes, and a chunked body does not keep.
SMALL = "Content-Length: 10"
PART = "Content-Range: bytes 5-14/100"


async def read_all(source: DataSource, *range_: int) -> None:
    async with source:
        await source.read("a.bin", *range_)


@each_engine
async def test_whole_object_that_does_not_end(engine: str) -> None:
    """A body is given up soon after the length that was announced for it, or after the limit."""
    with HostileServer(endless(200, SMALL)) as server:
        with pytest.raises((SourceError, ObjectTooLargeError)):
            await read_all(ENGINES[engine](server.url, max_object_bytes=1_000_000))
        assert server.requests
    assert server.sent < ENOUGH


@each_engine
async def test_part_that_does_not_end(engine: str) -> None:
    """A part is given up soon after its end, however large objects may be."""
    with HostileServer(endless(206, SMALL, PART)) as server:
        with pytest.raises(SourceError, match=r"a\.bin"):
            await read_all(ENGINES[engine](server.url), 5, 15)
        assert server.requests
    assert server.sent < ENOUGH


async def test_part_that_does_not_end_after_honest_ones() -> None:
    """obstore reads parts once the server has shown that it cuts them."""
    honest = respond(206, "Content-Range: bytes 5-14/100", body=b"x" * 10)
    with HostileServer(respond(200, body=b"whole")) as server:
        async with ENGINES["http-obstore"](server.url) as source:
            await source.read("whole.bin")
            server.answer = honest
            for _ in range(2):
                assert bytes((await source.read("a.bin", 5, 15)).data) == b"x" * 10
            server.answer, server.sent = endless(206, SMALL, PART), 0
            with pytest.raises(SourceError, match=r"a\.bin"):
                await source.read("a.bin", 5, 15)
    assert server.sent < ENOUGH


@each_engine
async def test_part_without_a_length_that_does_not_end(engine: str) -> None:
    """The same if only the range gives the length."""
    with HostileServer(endless(206, PART)) as server:
        with pytest.raises(SourceError, match=r"a\.bin"):
            await read_all(ENGINES[engine](server.url), 5, 15)
        assert server.requests
    assert server.sent < ENOUGH


@each_engine
async def test_size_beyond_the_limit(engine: str) -> None:
    """An object that says it is too large is refused before its body is taken."""

    def large(request: Request) -> list[bytes]:
        return [head(200, f"Content-Length: {LARGE}"), *[b"x" * 65_536] * (LARGE // 65_536)]

    with HostileServer(large) as server:
        with pytest.raises(ObjectTooLargeError, match=r"a\.bin"):
            await read_all(ENGINES[engine](server.url, max_object_bytes=1_000_000))
    assert server.sent < ENOUGH


LARGE = 200 * 2**20


# obstore reads the whole body of an error response before it raises; only `timeout_s` limits that.
@pytest.mark.parametrize("engine", [name for name in ENGINES if "obstore" not in name])
async def test_refusal_that_does_not_end(engine: str) -> None:
    """The body of an error is not read without a limit."""
    with HostileServer(endless(403)) as server:
        with pytest.raises(SourceError, match=r"a\.bin"):
            await read_all(ENGINES[engine](server.url))
    assert server.sent < ENOUGH


@each_engine
async def test_honest_bodies_of_every_size(engine: str) -> None:
    """Empty, small and large bodies of correct servers are read completely."""
    bodies = [b"", b"x", bytes(range(256)) * 80, bytes(range(256)) * 50_000]
    for body in bodies:
        with HostileServer(respond(200, "X-Repo-Commit: c", body=body)) as server:
            async with ENGINES[engine](server.url) as source:
                blob = await source.read("a.bin")
                assert (bytes(blob.data), blob.size) == (body, len(body))


async def test_adapter_limit_is_not_that_of_an_index() -> None:
    """A file that names the objects may be larger than each of them."""
    names = [f"{i:04d}.json" for i in range(1_000)]

    def answer(request: Request) -> list[bytes]:
        body = "\n".join(names).encode() if request.target == "/index.txt" else b"{}"
        return [head(200, f"Content-Length: {len(body)}"), body]

    with HostileServer(answer) as server:
        web = DataSourceConfig("web", "http", server.url, storage_options={"index": "index.txt"})
        with StreamingDatasetAdapter([web], max_object_bytes=100) as dataset:
            assert len(dataset) == len(names)


def _answer(body: list[bytes], request: Request) -> list[bytes]:
    return body


async def test_adapter_limit_bounds_the_download() -> None:
    """The adapter's limit is that of each source and mirror too, where that is the smaller one."""
    given: tuple[dict[str, Any], ...] = ({"max_object_bytes": 1_000_000}, {})
    for limits in given:
        body = [head(200, f"Content-Length: {LARGE}"), *[b"x" * 65_536] * (LARGE // 65_536)]
        with HostileServer(partial(_answer, body)) as server:
            web = DataSourceConfig("web", "http", server.url, storage_options={"urls": ["a.json"]}, **limits)
            with StreamingDatasetAdapter([web], max_object_bytes=1_000_000 if not limits else "8GB") as dataset:
                with pytest.raises(DecodeError, match=r"a\.json.*max_object_bytes=1000000"):
                    await asyncio.to_thread(dataset.__getitem__, 0)
        assert server.sent < ENOUGH
