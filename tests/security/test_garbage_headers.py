"""Garbage in headers: ignored if it does not matter, else an error of the library that fails over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from streaming.errors import SourceError
from streaming.resilience import Context, ResilienceConfig, stack
from streaming.sources.base import DataSource
from streaming.testing import MemorySource
from tests.fault_server import Answer, FaultServer, Request
from tests.security.listing_servers import ENGINES, Always, source_over

LISTERS = [*(name for name in ENGINES if name != "http"), "http by obstore", "http by aiohttp"]
EACH = pytest.mark.parametrize("lister", LISTERS)
BODY = b"0123456789"
ENDLESS = "9" * 5_000
DATES = ["Wed, 21 Oct 2015 07:28:00 +99999999999999999999", "Wed, 99 Oct 2015 99:28:00 GMT", "yesterday", ENDLESS, "-1"]
NUMBERS = [ENDLESS, "9" * 20, "-1", "²", "٣", "1e9", "0x10", ""]
LINKS = [
    "http://[",
    "http://host.example:99999999/",
    f"http://h:{ENDLESS}/",
    "//",
    "\x7f",
    "file:///etc/passwd",
    "http://",
]
RANGES = [
    f"bytes 2-5/{ENDLESS}",
    f"bytes 2-{ENDLESS}/10",
    f"bytes {ENDLESS}-5/10",
    "bytes 2-5/²",
    "bytes",
    "2-5/10",
    "\xff",
]
PLAIN = {"ETag": '"e"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}


def garbled(status: int, name: str, value: str, body: bytes = BODY) -> Answer:
    """Answers everything with a status and plain headers, of which one is garbage."""

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        sent = BODY[2:6] if status == 206 else body
        headers = {**PLAIN, "Content-Length": str(len(sent)), "Connection": "close"}
        if status == 206:
            headers["Content-Range"] = f"bytes 2-5/{len(BODY)}"
        lines = [f"{key}: {text}" for key, text in {**headers, name: value}.items()]
        head = "\r\n".join([f"HTTP/1.1 {status} Status", *lines, "", ""])
        writer.write(head.encode("utf-8", "surrogateescape") + sent)

    return answer


@contextlib.contextmanager
def noted(*case: object) -> Iterator[None]:
    """Says in an error which of many cases it is of."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"{case!r}"[:200])
        raise


READS: list[Any] = [
    *((200, "Content-Length", value) for value in NUMBERS),
    *((200, "Last-Modified", value) for value in DATES),
    *((200, "Date", value) for value in DATES),
    *((200, "ETag", value) for value in ("", '"', "\udcff", ENDLESS)),
    *((200, name, "\udcff") for name in ("Content-Type", "Content-Encoding", "x-amz-version-id", "X-Goog-Generation")),
    *((206, "Content-Range", value) for value in RANGES),
    *((416, "Content-Range", f"bytes */{value}") for value in NUMBERS),
    *((503, "Retry-After", value) for value in (*NUMBERS, *DATES, "86400")),
    *((302, "Location", value) for value in LINKS),
    *((301, "x-amz-bucket-region", value) for value in ("\udcff", ENDLESS)),
    *((404, "X-Error-Code", value) for value in ("\udcff", ENDLESS)),
]


def over(url: str, lister: str, **settings: Any) -> DataSource:
    """A source by one of `LISTERS`."""
    if lister.startswith("http "):
        return source_over(url, "http", engine=lister.removeprefix("http by "), **settings)
    return source_over(url, lister, **settings)


@EACH
async def test_garbage_around_an_object(lister: str) -> None:
    """A read gives the bytes or an error of the library, and a mirror's bytes where there is one."""
    async with FaultServer() as server, over(server.url, lister, timeout_s=5) as bad:
        for status, name, value in READS:
            start, end = (2, 6) if status in (206, 416) else (0, None)
            server.answers = Always(garbled(status, name, value))
            with noted(status, name, value):
                await _reads_or_refuses(bad, start, end)


async def _reads_or_refuses(bad: DataSource, start: int, end: int | None) -> None:
    try:
        data = bytes((await bad.read("a.bin", start, end)).data)
    except SourceError as error:
        message = str(error)
        copies = stack([bad, MemorySource("good", {"a.bin": BODY})], Context(ResilienceConfig(deadline_s=5.0)))
        data = bytes((await copies.read("a.bin", start, end)).data)
    else:
        message = ""
    assert data == BODY[start:end]
    assert len(message) < 2_000


LISTINGS: list[Any] = [
    *((200, "Link", f'<{value}>; rel="next"') for value in LINKS),
    *((200, "Link", value) for value in ("<", "<<<>>>;;;", 'rel="next"', "\udcff")),
    *(
        (200, "Content-Type", value)
        for value in ("", "/", "\udcff", ";;;", "application/json; charset=\udcff", "a" * 5_000)
    ),
    *((200, "Content-Length", value) for value in NUMBERS),
    *((200, "Content-Encoding", value) for value in ("gzip", "\udcff", "")),
    *((503, "Retry-After", value) for value in (*NUMBERS, *DATES, "86400")),
    *((302, "Location", value) for value in LINKS),
    *((301, "x-amz-bucket-region", value) for value in ("\udcff", ENDLESS)),
]
BODIES: list[bytes] = [
    *(b"", b"\xff\xfe\x00", b"[", b"[" * 100_000, b"null", b"[1]", b"{}", b'{"items": 1}', b'{"items": [1]}', b"<a/>"),
    *(b'[{"type": "file"}]', b'[{"type": "file", "path": "a", "size": "x", "lfs": 1}]', b'{"items": [{"name": 1}]}'),
    *(b'[{"type": "file", "path": "a.bin", "size": ' + ENDLESS.encode() + b"}]", b'{"prefixes": [1]}'),
    b'{"items": [{"name": "a.bin", "size": "' + ENDLESS.encode() + b'", "updated": "99999-13-77"}]}',
    b'{"nextPageToken": 1}',
    b'[{"name": "\\ud800", "type": "directory"}, {"name": "\\ud800.bin", "type": "file", "size": 1}]',
    b'[{"path": "\\ud800.bin", "type": "file", "size": 1}]',
    b'{"items": [{"name": "\\ud800.bin", "size": "1"}], "prefixes": ["\\ud800/"]}',
    b"<ListBucketResult>",
    b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
    *(
        b"<ListBucketResult><Contents>" + inner + b"</Contents></ListBucketResult>"
        for inner in (
            b"<Key>a.bin</Key>",
            b"<Size>1</Size>",
            b"<Key>a.bin</Key><Size>" + ENDLESS.encode() + b"</Size>",
            b"<Key>a.bin</Key><Size>-1</Size><LastModified>2025-01-01T00:00:00Z</LastModified>",
            b"<Key>a.bin</Key><Size>1</Size><LastModified>99999-13-77T00:00:00Z</LastModified>",
            b"<Key>a.bin</Key><Size>1</Size><LastModified>" + ENDLESS.encode() + b"</LastModified>",
        )
    ),
    b"<!DOCTYPE a [<!ENTITY b 'bbbb'>]><ListBucketResult><Name>&b;</Name></ListBucketResult>",
    b"<?xml version='1.0' encoding='none'?><ListBucketResult/>",
    b"Index of <a href='http://[/x'>x</a><a href='&#" + ENDLESS.encode() + b";'>x</a>",
]


@EACH
async def test_garbage_around_a_listing(lister: str) -> None:
    """A listing is read, or fails with an error of the library that fails over."""
    bodies = {"s3": b"<ListBucketResult/>", "gcs by obstore": b"<ListBucketResult/>", "http": b"Index of", "gcs": b"{}"}
    body = next((body for begin, body in bodies.items() if lister.startswith(begin)), b"[]")
    async with FaultServer() as server, over(server.url, lister, timeout_s=5, listing_timeout_s=0.5) as bad:
        for status, name, value in LISTINGS:
            server.answers = Always(garbled(status, name, value, body))
            with noted(status, name, value):
                await _lists_or_refuses(bad)


@EACH
@pytest.mark.parametrize("status", [200, 403])
async def test_garbage_in_a_listing(lister: str, status: int) -> None:
    """So is a body that is anything at all, of a success or of a refusal."""
    async with FaultServer() as server, over(server.url, lister, timeout_s=5, listing_timeout_s=0.5) as bad:
        for body in BODIES:
            server.answers = Always(garbled(status, "Content-Type", "application/json", body))
            with noted(status, body):
                await _lists_or_refuses(bad)


async def _lists_or_refuses(bad: DataSource) -> None:
    message, paths = "", []
    try:
        paths = await bad.list_files()
    except SourceError as error:
        message = str(error)
        assert await stack([bad, MemorySource("good", {"good.bin": BODY})]).list_files() == ["good.bin"]
    for path in paths:
        with contextlib.suppress(SourceError):
            await bad.read(path)
    assert len(message) < 2_000
