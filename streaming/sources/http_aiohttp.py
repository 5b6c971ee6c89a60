"""GET by aiohttp: listings, signed URLs, and every answer that obstore does not take.

It copes with servers that ignore ranges, encode bodies without being asked, or leave out the length. One session per
event loop, opened at the first read in it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import re
import weakref
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.request import getproxies, proxy_bypass

import aiohttp
import yarl

from streaming.errors import (
    BadRequest,
    NotFound,
    ObjectChanged,
    SourceError,
    SourceTimeout,
    SourceUnavailable,
    TruncatedRead,
)
from streaming.sources.base import Blob, beyond_object, too_large
from streaming.sources.http_status import error_of_status, opened_before_fork, plain_etag

if TYPE_CHECKING:
    from streaming.config import DataSourceConfig

CLOSE_TIMEOUT_S = 2.0  # for a session of another loop, which may be stopping
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


@dataclass(slots=True)
class Page:
    """A whole answer: its body, where it came from after redirects (without query), and its type without parameters."""

    body: bytes
    url: str
    content_type: str


class AiohttpClient:
    """Reads URLs of one source.

    Args:
        config: limits, times, and the name for messages.
        root: URL whose scheme, host and port `headers` are for.
        headers: sent there, and to no other host.
    """

    def __init__(self, config: DataSourceConfig, root: str, headers: Mapping[str, str]) -> None:
        self._source = config.name
        self._limit = config.max_object_bytes
        self._headers = dict(headers)
        self._origin = yarl.URL(root, encoded=True).origin()
        self._timeout = aiohttp.ClientTimeout(total=config.timeout_s, sock_connect=config.connect_timeout_s)
        self._sessions: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}
        self._pid = os.getpid()

    async def get(self, url: str, path: str, start: int = 0, end: int | None = None) -> Blob:
        """Read bytes `start` to `end` of the object at `url`, percent-encoded; `path` is its name in messages."""
        target = yarl.URL(url, encoded=True)
        headers = {}
        if start or end is not None:
            # An empty range cannot be asked for; one byte brings the size too.
            headers["Range"] = f"bytes={start}-" if end is None else f"bytes={start}-{max(end - 1, start)}"
        with self._translated(path):
            async with (await self._session()).get(target, headers=self._headers_for(target, headers)) as answer:
                if answer.status == 416:
                    return self._blob_beyond(answer, path, start)
                if answer.status not in (200, 206):
                    raise error_of_status(answer.status, path, self._source, answer.headers)
                if answer.history and answer.url.raw_path == f"{target.raw_path}/":
                    text = f"{path!r} of source {self._source!r} is a folder; name an object in it, or list it"
                    raise NotFound(text, path=path, source=self._source)
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    return await self._read_encoded(answer, path, start, end)
                return await self._read(answer, path, start, end)

    async def get_page(self, url: str, path: str) -> Page:
        """Read the whole answer of `url`, a listing; `path` is its name in messages."""
        target = yarl.URL(url, encoded=True)
        with self._translated(path):
            async with (await self._session()).get(target, headers=self._headers_for(target, {})) as answer:
                if answer.status != 200:
                    raise error_of_status(answer.status, path, self._source, answer.headers)
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    body = bytes((await self._read_encoded(answer, path, 0, None)).data)
                else:
                    body = await self._body(answer, path, 0, None)
                return Page(body, str(answer.url.with_query(None)), answer.content_type)

    async def aclose(self) -> None:
        """Close the sessions of all loops."""
        if self._pid != os.getpid():
            self._sessions.clear()  # the parent's; see `_keep_inherited`
        while self._sessions:
            await _close(*self._sessions.popitem())

    def close_at_exit(self) -> None:
        """Close what is still open, from a thread without a loop; aiohttp complains of each open session otherwise."""
        if self._pid == os.getpid() and self._sessions:
            asyncio.run(self.aclose())

    async def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        return session if session is not None else await self._new_session(loop)

    async def _new_session(self, loop: asyncio.AbstractEventLoop) -> aiohttp.ClientSession:
        if self._sessions and self._pid != os.getpid():
            raise opened_before_fork(self._source, self._pid)
        self._pid = os.getpid()
        # No limit here: who reads decides how much is in flight.
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300)
        session = self._sessions[loop] = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=proxy_for(self._origin),
        )
        _clients.add(self)
        for ended in [each for each in self._sessions if each.is_closed()]:
            await _close(ended, self._sessions.pop(ended))
        return session

    def _headers_for(self, url: yarl.URL, extra: dict[str, str]) -> dict[str, str]:
        own = self._headers if url.origin() == self._origin else {}
        return {**own, "Accept-Encoding": "identity", **extra}

    async def _read(self, answer: aiohttp.ClientResponse, path: str, start: int, end: int | None) -> Blob:
        """The part asked for of a plain body, whether the server cut it out or sent all."""
        etag = plain_etag(answer.headers.get("ETag"))
        size, skip = answer.content_length, start
        if answer.status == 206:
            first, size = _content_range(answer)
            if first != start or size is None:
                text = f"the server of source {self._source!r} sent another range of {path!r} than asked"
                raise BadRequest(f"{text}; read it whole", path=path, source=self._source)
            skip = 0
        elif size is None:
            data = await self._body(answer, path, 0, None)
            return self._part(data, path, start, end, etag)
        if start > size:
            raise beyond_object(path, start, size, self._source)
        length = (size if end is None or end > size else end) - start
        data = await self._body(answer, path, skip, skip + length)
        if len(data) != length:
            text = f"{path!r} of source {self._source!r}: {len(data)} of {length} bytes came; read it again"
            raise TruncatedRead(text, path=path, source=self._source)
        return Blob(data, etag, size, None, self._source)

    def _part(self, data: bytes, path: str, start: int, end: int | None, etag: str | None) -> Blob:
        """The part asked for of an object that had to be read whole."""
        if start > len(data):
            raise beyond_object(path, start, len(data), self._source)
        return Blob(data[start:end], etag, len(data), None, self._source)

    async def _body(self, answer: aiohttp.ClientResponse, path: str, skip: int, stop: int | None) -> bytes:
        """Bytes `skip` to `stop` of a body; None: to its end. Never takes more than the limit into memory."""
        if stop is not None and stop - skip > self._limit:
            raise too_large(path, stop - skip, self._limit, self._source)
        parts, at, kept = [], 0, 0
        async for chunk in answer.content.iter_any():
            part = chunk[max(skip - at, 0) : None if stop is None else max(stop - at, 0)]
            at += len(chunk)
            kept += len(part)
            if kept > self._limit:
                raise too_large(path, kept, self._limit, self._source)
            parts.append(part)
            if stop is not None and at >= stop and answer.status == 200:
                break  # the rest is not wanted, so the connection is dropped
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _read_encoded(self, answer: aiohttp.ClientResponse, path: str, start: int, end: int | None) -> Blob:
        """The object behind a body that the server compressed although it was asked not to."""
        encoding = answer.headers["Content-Encoding"]
        if answer.status != 200 or encoding not in ("gzip", "x-gzip", "deflate"):
            text = f"the server of source {self._source!r} sends {path!r} with Content-Encoding {encoding!r}"
            raise BadRequest(f"{text}, of which no part can be read; turn that off", path=path, source=self._source)
        packed = await self._body(answer, path, 0, None)
        data = await asyncio.to_thread(self._unpacked, packed, path)
        return self._part(data, path, start, end, plain_etag(answer.headers.get("ETag")))

    def _unpacked(self, packed: bytes, path: str) -> bytes:
        unpacker = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # finds out whether gzip or zlib
        try:
            data = unpacker.decompress(packed, self._limit + 1)
        except zlib.error as error:
            text = f"{path!r} of source {self._source!r} came in a damaged encoding: {error}; read it again"
            raise TruncatedRead(text, path=path, source=self._source) from error
        if len(data) > self._limit:
            raise too_large(path, len(data), self._limit, self._source)
        if not unpacker.eof:
            text = f"{path!r} of source {self._source!r} came in an encoding that ends early; read it again"
            raise TruncatedRead(text, path=path, source=self._source)
        return data

    def _blob_beyond(self, answer: aiohttp.ClientResponse, path: str, start: int) -> Blob:
        """The answer to a range from the end of the object on: empty just there, an error beyond."""
        size = _content_range(answer)[1]
        if size is None:
            text = f"the server of source {self._source!r} answered 416 for {path!r}, so it has no byte {start}"
            raise BadRequest(f"{text}; ask within it", path=path, source=self._source)
        if start > size:
            raise beyond_object(path, start, size, self._source)
        if start < size:
            text = f"the server of source {self._source!r} refused bytes from {start} of {path!r}, which has {size}"
            raise ObjectChanged(f"{text}; list the source anew", path=path, source=self._source)
        return Blob(b"", plain_etag(answer.headers.get("ETag")), size, None, self._source)

    @contextlib.contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        """Turns aiohttp's errors into this library's."""
        where = f"{path!r} of source {self._source!r}"
        try:
            yield
        except SourceError:
            raise
        except TimeoutError as error:
            text = f"{where} did not come within {self._timeout.total} s (timeout_s); try again or raise that"
            raise SourceTimeout(text, path=path, source=self._source) from error
        except aiohttp.ClientPayloadError as error:
            text = f"{where} broke off before its announced end; read it again"
            raise TruncatedRead(text, path=path, source=self._source) from error
        except aiohttp.TooManyRedirects as error:
            text = f"{where} is redirected without end; check the URL of the source"
            raise BadRequest(text, path=path, source=self._source) from error
        except (aiohttp.InvalidURL, aiohttp.ClientResponseError) as error:
            text = f"{where} was answered by something that is not HTTP or leads to no URL ({type(error).__name__})"
            raise SourceUnavailable(f"{text}; try again, then check the URL", path=path, source=self._source) from error
        except (aiohttp.ClientError, OSError) as error:
            text = f"the server of {where} cannot be reached ({type(error).__name__}); check host, port and network"
            raise SourceUnavailable(text, path=path, source=self._source) from error


_clients: weakref.WeakSet[AiohttpClient] = weakref.WeakSet()
_inherited: list[aiohttp.ClientSession] = []


def _keep_inherited() -> None:
    """Let a forked child keep its parent's sessions. One that is closed or collected there takes its connections off
    the list that both wait on, and the parent's next read hangs."""
    for client in _clients:
        _inherited.extend(client._sessions.values())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_inherited)


@atexit.register
def _close_clients() -> None:
    for client in list(_clients):
        client.close_at_exit()


async def _close(loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession) -> None:
    """Close a session in its loop; where that has ended, the connections ended with it."""
    if loop is not asyncio.get_running_loop() and loop.is_running():
        closing = asyncio.run_coroutine_threadsafe(session.close(), loop)
        await asyncio.wait_for(asyncio.wrap_future(closing), CLOSE_TIMEOUT_S)
    else:
        await session.close()


def proxy_for(origin: yarl.URL) -> str | None:
    """The proxy that the environment names for a server (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`), or None.

    Looked up once: aiohttp's own `trust_env` does so for each request, and reads netrc too.
    """
    return None if proxy_bypass(origin.host or "") else getproxies().get(origin.scheme)


def _content_range(answer: aiohttp.ClientResponse) -> tuple[int | None, int | None]:
    """The first byte and the size of the whole that Content-Range tells."""
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if match is None:
        return None, None
    first, _, size = match.groups()
    return (int(first) if first else None), (int(size) if size != "*" else None)
