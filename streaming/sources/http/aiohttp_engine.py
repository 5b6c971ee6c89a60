"""GET by aiohttp: listings, signed URLs, and every answer that obstore cannot read.

It supports servers that compress bodies without being asked, or leave out the length. Objects of servers that ignore
ranges are kept whole in a `SpoolFile`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import yarl

from streaming.errors import (
    AccessDenied,
    ObjectNotFoundError,
    ObjectTooLargeError,
    SourceError,
)
from streaming.sources.base import Blob, too_large
from streaming.sources.header_values import stable_etag
from streaming.sources.http.aiohttp_requests import AiohttpRequests
from streaming.sources.http.response import WholeObjectSent, content_range, decompress_body, range_header
from streaming.sources.http.signed_urls import is_signed, refusal_of_signature
from streaming.sources.http.spool_file import WRITE_BYTES, SpoolFile
from streaming.sources.listing_limits import page_too_large
from streaming.sources.per_loop import close_in
from streaming.sources.response_bodies import check_nothing_left, length_mismatch
from streaming.sources.status_codes import UnusableAnswer, error_for_status

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig


@dataclass(slots=True)
class Page:
    """A whole answer: its body, its URL after redirects (without query), and its content type without parameters."""

    body: bytes
    url: str
    content_type: str


class AiohttpClient(AiohttpRequests):
    """Reads the URLs of one source.

    Args:
        config: limits, and the name for messages.
        root: URL whose scheme, host and port `headers` are for.
        headers: sent there, and to no other server.
        receive: called with the bytes of each body as they arrive.

    Attributes:
        redirects: whether any answer so far was a redirect.
    """

    def __init__(
        self, config: DataSourceConfig, root: str, headers: Mapping[str, str], receive: Callable[[int], None]
    ) -> None:
        super().__init__(config, root, headers)
        self._receive = receive
        self._limit = config.max_object_bytes
        self._page_limit = config.max_listing_page_bytes
        self._spool_bytes = config.spool_bytes
        self._spools: dict[asyncio.AbstractEventLoop, SpoolFile] = {}
        self._with_ranges: set[yarl.URL] = set()  # servers that sent the requested range last time

    async def get(self, url: str, path: str, start: int = 0, end: int | None = None) -> Blob:
        """Read bytes `start` to `end` of the object at `url`, percent-encoded; `path` is its name in messages."""
        target = yarl.URL(url, encoded=True)
        if start or end is not None:
            return await self._read_part(
                target.origin(), path, start, end, partial(self._get, target, path, start, end)
            )
        return await self._get(target, path, start, end)

    def supports_ranges(self, path: str) -> bool:
        """Whether the root's server sent the requested range last time, and the object is not in the spool file."""
        return self._origin in self._with_ranges and path not in self._spool()

    def forget_ranges(self) -> None:
        """Note that the root's server did not answer with the requested range."""
        self._with_ranges.discard(self._origin)

    async def _get(
        self, target: yarl.URL, path: str, start: int, end: int | None, spool: SpoolFile | None = None
    ) -> Blob:
        """Make one request; see `_read_answer` for the arguments."""
        headers = range_header(start, end)
        with self._translate_errors(path):
            async with self._send(target, headers, path) as answer:
                if answer.status not in (200, 206, 416):
                    raise self._refusal(answer, path)
                if answer.history and answer.url.raw_path == f"{target.raw_path}/":
                    text = f"{path!r} of source {self._source!r} is a folder; name an object in it, or list it"
                    raise ObjectNotFoundError(text, path=path, source=self._source)
                return await self._read_answer(answer, path, start, end, spool)

    def _refusal(self, answer: aiohttp.ClientResponse, path: str) -> SourceError:
        if answer.status in (400, 401, 403) and is_signed(answer.url.query):
            message = refusal_of_signature(answer.url.query)
            text = f"the server of source {self._source!r} answered {answer.status} for {path!r}: {message}"
            error = AccessDenied(text, path=path, source=self._source)
            error.status = answer.status
            return error
        return error_for_status(answer.status, path, self._source, answer.headers)

    async def _read_part(
        self,
        origin: yarl.URL,
        path: str,
        start: int,
        end: int | None,
        request: Callable[..., Coroutine[Any, Any, Blob]],
    ) -> Blob:
        """Read a part of an object, by a request of its own if the server is known to support ranges.

        Otherwise all readers of the object wait for one request. If that brings the whole object, it is kept for them.

        Args:
            origin: of the server.
            request: makes one request, and passes its `spool` argument on to `_read_answer`.
        """
        spool = self._spool()
        while path not in spool:
            try:
                if origin in self._with_ranges:
                    return await request()
                blob, is_mine = await spool.join(path, partial(request, spool=spool))
            except WholeObjectSent:
                self._with_ranges.discard(origin)
                continue  # with a spool file, the object is in it now
            self._with_ranges.add(origin)
            if is_mine:
                return blob
        return await spool.read(path, start, end)

    async def _read_answer(
        self, answer: aiohttp.ClientResponse, path: str, start: int, end: int | None, spool: SpoolFile | None
    ) -> Blob:
        """Read a success, or a range beyond the end.

        Args:
            spool: stores the object if all of it was sent where a part was requested.

        Raises:
            WholeObjectSent: in that case: with a spool once the object is stored, without one before the body is read.
        """
        if answer.status == 416:
            return self._read_nothing(answer, path, start)
        if answer.status == 200 and (start or end is not None):
            if spool is not None:
                await self._store_whole(answer, path, spool)
            raise WholeObjectSent
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            return await self._read_encoded(answer, path)
        return await self._read(answer, path, start, end)

    async def get_page(self, url: str, path: str) -> Page:
        """Read a page of a listing from `url`; `path` is its name in messages."""
        target = yarl.URL(url, encoded=True)
        with self._translate_errors(path):
            async with self._send(target, {}, path) as answer:
                if answer.status != 200:
                    raise error_for_status(answer.status, path, self._source, answer.headers)
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    body = bytes((await self._read_encoded(answer, path, is_object=False)).data)
                else:
                    body = await self._read_body(answer, path, is_object=False)
                return Page(body, str(answer.url.with_query(None)), answer.content_type)

    async def aclose(self) -> None:
        """Close the sessions of all loops, and the files with whole objects."""
        while self._spools:
            loop, spool = self._spools.popitem()
            if self._sessions.is_inherited or not loop.is_running():
                spool.close_file()
            else:
                await close_in(loop, spool.aclose)
        await self._sessions.aclose()

    def _spool(self) -> SpoolFile:
        """Return the spool file of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._spools:
            for ended in [each for each in self._spools if each.is_closed()]:
                self._spools.pop(ended).close_file()
            self._spools[loop] = SpoolFile(self._source, self._spool_bytes, self._limit)
        return self._spools[loop]

    def _etag_of(self, answer: aiohttp.ClientResponse, size: int) -> str | None:
        """Return the ETag of an object of this size."""
        return stable_etag(answer.headers.get("ETag"), size)

    async def _read(self, answer: aiohttp.ClientResponse, path: str, start: int, end: int | None) -> Blob:
        """Read a body without content encoding."""
        size = answer.content_length
        if answer.status == 206:
            first, size = content_range(answer)
            if first != start or size is None:
                text = f"the server of source {self._source!r} sent another range of {path!r} than requested"
                raise UnusableAnswer(f"{text}; read it whole", path=path, source=self._source)
        elif size is None:
            data = await self._read_body(answer, path)
            return Blob(data, self._etag_of(answer, len(data)), len(data), None, self._source)
        length = (size if end is None or end > size else end) - start
        is_empty = start == end  # one byte was requested
        data = await self._read_body(answer, path, 1 if is_empty else length)
        if is_empty:
            data = b""
        if len(data) != length:
            raise length_mismatch(path, len(data), length, self._source)
        return Blob(data, self._etag_of(answer, size), size, None, self._source)

    async def _store_whole(self, answer: aiohttp.ClientResponse, path: str, spool: SpoolFile) -> None:
        """Store the whole object in the spool file; in pieces, if its size is announced."""
        server = str(answer.url.origin())
        size = answer.content_length
        is_encoded = answer.headers.get("Content-Encoding", "identity") != "identity"
        if size is None or is_encoded:
            data = (await self._read_encoded(answer, path)).data if is_encoded else await self._read_body(answer, path)
            size = len(data)
            spool.reserve(path, size, server)
            await spool.write(path, size, 0, data)
        else:
            spool.reserve(path, size, server)
            at = 0
            async for piece in self._read_pieces(answer):
                if at + len(piece) > size:  # the space behind it belongs to another object
                    raise length_mismatch(path, at + len(piece), size, self._source)
                await spool.write(path, size, at, piece)
                at += len(piece)
        spool.keep(path, size, self._etag_of(answer, size))

    async def _read_pieces(self, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """Yield a body in pieces of about `WRITE_BYTES`."""
        parts, held = [], 0
        async for chunk in answer.content.iter_any():
            self._receive(len(chunk))
            parts.append(chunk)
            held += len(chunk)
            if held >= WRITE_BYTES:
                yield b"".join(parts)
                parts, held = [], 0
        if parts:
            yield b"".join(parts)

    async def _read_body(
        self, answer: aiohttp.ClientResponse, path: str, length: int | None = None, *, is_object: bool = True
    ) -> bytes:
        """Read a body of at most `length` bytes, and never more than the limit.

        Args:
            is_object: False for a page of a listing, which is not counted and has a limit of its own.
        """
        if length is not None and length > self._limit:
            raise too_large(path, length, self._limit, self._source)
        parts, kept = [], 0
        async for chunk in answer.content.iter_any():
            if is_object:
                self._receive(len(chunk))
            kept += len(chunk)
            if length is not None and kept > length:
                raise length_mismatch(path, kept, length, self._source)
            if not is_object and kept > self._page_limit:
                raise page_too_large(path, self._page_limit, self._source)
            if is_object and kept > self._limit:
                raise too_large(path, kept, self._limit, self._source)
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _read_encoded(self, answer: aiohttp.ClientResponse, path: str, *, is_object: bool = True) -> Blob:
        """Read and decompress a body that the server compressed against the request."""
        encoding = answer.headers["Content-Encoding"]
        if answer.status != 200 or encoding not in ("gzip", "x-gzip", "deflate"):
            text = f"the server of source {self._source!r} sends {path!r} with Content-Encoding {encoding!r}"
            raise UnusableAnswer(f"{text}, of which no part can be read; turn that off", path=path, source=self._source)
        packed = await self._read_body(answer, path, is_object=is_object)
        limit = self._limit if is_object else self._page_limit
        try:
            data = await asyncio.to_thread(decompress_body, packed, path, self._source, limit)
        except ObjectTooLargeError as error:
            if is_object:
                raise
            raise page_too_large(path, limit, self._source) from error
        return Blob(data, self._etag_of(answer, len(data)), len(data), None, self._source)

    def _read_nothing(self, answer: aiohttp.ClientResponse, path: str, start: int) -> Blob:
        """Return an empty blob for a range that starts at the end of the object; raise for one beyond it."""
        size = content_range(answer)[1]
        if size is None:
            text = f"the server of source {self._source!r} answered 416 for {path!r}, so it has no byte {start}"
            raise UnusableAnswer(f"{text}; ask within it", path=path, source=self._source)
        check_nothing_left(path, start, None, size, self._source)
        return Blob(b"", self._etag_of(answer, size), size, None, self._source)
