"""GET by aiohttp: listings, signed URLs, and every answer that obstore does not take.

It copes with servers that encode bodies without being asked, or leave out the length; objects of those that ignore
ranges are kept whole in a `SpoolFile`. One session per event loop, opened at the first read in it.
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
from streaming.sources.http.response import SentWhole, content_range, range_header, unpacked
from streaming.sources.http.signed_urls import is_signed, refusal_of_signature
from streaming.sources.http.spool_file import WRITE_BYTES, SpoolFile
from streaming.sources.listing_limits import page_too_large
from streaming.sources.per_loop import close_in
from streaming.sources.response_bodies import check_nothing_left, wrong_length
from streaming.sources.status_codes import UnusableAnswer, error_of_status

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig

MAX_PAGE_BYTES = 64_000_000  # of a listing or index file, where objects must be smaller


@dataclass(slots=True)
class Page:
    """A whole answer: its body, where it came from after redirects (without query), and its type without parameters."""

    body: bytes
    url: str
    content_type: str


class AiohttpClient(AiohttpRequests):
    """Reads URLs of one source.

    Args:
        config: limits, times, and the name for messages.
        root: URL whose scheme, host and port `headers` are for.
        headers: sent there, and to no other server.
        receive: told of the bytes of each body as they come.

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
        self._with_ranges: set[yarl.URL] = set()  # servers whose last answer to a range was that range

    async def get(self, url: str, path: str, start: int = 0, end: int | None = None) -> Blob:
        """Read bytes `start` to `end` of the object at `url`, percent-encoded; `path` is its name in messages."""
        target = yarl.URL(url, encoded=True)
        if start or end is not None:
            return await self._part(target.origin(), path, start, end, partial(self._get, target, path, start, end))
        return await self._get(target, path, start, end)

    def sends_range(self, path: str) -> bool:
        """Whether a part of an object below the root is best asked for: its server has lately cut parts."""
        return self._origin in self._with_ranges and path not in self._spool()

    def doubt_ranges(self) -> None:
        """Take note that the root's server answered a range in another way."""
        self._with_ranges.discard(self._origin)

    async def _get(
        self, target: yarl.URL, path: str, start: int, end: int | None, spool: SpoolFile | None = None
    ) -> Blob:
        """One request; see `_answered` for the arguments."""
        headers = range_header(start, end)
        with self._translated(path):
            async with self._send(target, headers, path) as answer:
                if answer.status not in (200, 206, 416):
                    raise self._refusal(answer, path)
                if answer.history and answer.url.raw_path == f"{target.raw_path}/":
                    text = f"{path!r} of source {self._source!r} is a folder; name an object in it, or list it"
                    raise ObjectNotFoundError(text, path=path, source=self._source)
                return await self._answered(answer, path, start, end, spool)

    def _refusal(self, answer: aiohttp.ClientResponse, path: str) -> SourceError:
        if answer.status in (400, 401, 403) and is_signed(answer.url.query):
            told = refusal_of_signature(answer.url.query)
            text = f"the server of source {self._source!r} answered {answer.status} for {path!r}: {told}"
            error = AccessDenied(text, path=path, source=self._source)
            error.status = answer.status
            return error
        return error_of_status(answer.status, path, self._source, answer.headers)

    async def _part(
        self,
        origin: yarl.URL,
        path: str,
        start: int,
        end: int | None,
        request: Callable[..., Coroutine[Any, Any, Blob]],
    ) -> Blob:
        """A part of an object, by a request of its own where the server is known to cut parts.

        Otherwise all who want a part of the object wait for one request. Where that brings the whole object, it is
        kept for them.

        Args:
            origin: of the server.
            request: makes one request; its answer goes through `_answered` with the `spool` given to it.
        """
        spool = self._spool()
        while path not in spool:
            try:
                if origin in self._with_ranges:
                    return await request()
                blob, is_mine = await spool.join(path, partial(request, spool=spool))
            except SentWhole:
                self._with_ranges.discard(origin)
                continue
            self._with_ranges.add(origin)
            if is_mine:
                return blob
        return await spool.read(path, start, end)

    async def _answered(
        self, answer: aiohttp.ClientResponse, path: str, start: int, end: int | None, spool: SpoolFile | None
    ) -> Blob:
        """What a success brought, or a range beyond the end.

        Args:
            spool: takes the object if all of it was sent where a part was asked for.

        Raises:
            SentWhole: if that is so; with a spool once the object is there, without one before the body is read.
        """
        if answer.status == 416:
            return self._blob_beyond(answer, path, start)
        if answer.status == 200 and (start or end is not None):
            if spool is not None:
                await self._keep(answer, path, spool)
            raise SentWhole
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            return await self._read_encoded(answer, path)
        return await self._read(answer, path, start, end)

    async def get_page(self, url: str, path: str) -> Page:
        """Read the whole answer of `url`, a listing; `path` is its name in messages."""
        target = yarl.URL(url, encoded=True)
        with self._translated(path):
            async with self._send(target, {}, path) as answer:
                if answer.status != 200:
                    raise error_of_status(answer.status, path, self._source, answer.headers)
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    body = bytes((await self._read_encoded(answer, path, is_object=False)).data)
                else:
                    body = await self._body(answer, path, is_object=False)
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
        """Where objects of servers without ranges are kept on the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._spools:
            for ended in [each for each in self._spools if each.is_closed()]:
                self._spools.pop(ended).close_file()
            self._spools[loop] = SpoolFile(self._source, self._spool_bytes, self._limit)
        return self._spools[loop]

    def _etag_of(self, answer: aiohttp.ClientResponse, size: int) -> str | None:
        """The validator of an object of so many bytes."""
        return stable_etag(answer.headers.get("ETag"), size)

    async def _read(self, answer: aiohttp.ClientResponse, path: str, start: int, end: int | None) -> Blob:
        """A plain body: what was asked for."""
        size = answer.content_length
        if answer.status == 206:
            first, size = content_range(answer)
            if first != start or size is None:
                text = f"the server of source {self._source!r} sent another range of {path!r} than asked"
                raise UnusableAnswer(f"{text}; read it whole", path=path, source=self._source)
        elif size is None:
            data = await self._body(answer, path)
            return Blob(data, self._etag_of(answer, len(data)), len(data), None, self._source)
        length = (size if end is None or end > size else end) - start
        is_empty = start == end  # for which one byte was asked
        data = await self._body(answer, path, 1 if is_empty else length)
        if is_empty:
            data = b""
        if len(data) != length:
            raise wrong_length(path, len(data), length, self._source)
        return Blob(data, self._etag_of(answer, size), size, None, self._source)

    async def _keep(self, answer: aiohttp.ClientResponse, path: str, spool: SpoolFile) -> None:
        """Take the whole object into the spool; in pieces, if its size is announced."""
        server = str(answer.url.origin())
        size = answer.content_length
        is_encoded = answer.headers.get("Content-Encoding", "identity") != "identity"
        if size is None or is_encoded:
            data = (await self._read_encoded(answer, path)).data if is_encoded else await self._body(answer, path)
            size = len(data)
            spool.take_room(path, size, server)
            await spool.write(path, size, 0, data)
        else:
            spool.take_room(path, size, server)
            at = 0
            async for piece in self._pieces(answer):
                if at + len(piece) > size:  # the room behind is another object's
                    raise wrong_length(path, at + len(piece), size, self._source)
                await spool.write(path, size, at, piece)
                at += len(piece)
        spool.keep(path, size, self._etag_of(answer, size))

    async def _pieces(self, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """A body in pieces of about `WRITE_BYTES`."""
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

    async def _body(
        self, answer: aiohttp.ClientResponse, path: str, length: int | None = None, *, is_object: bool = True
    ) -> bytes:
        """A body, of which at most so many bytes are expected. Never takes more than that or the limit into memory.

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
                raise wrong_length(path, kept, length, self._source)
            if not is_object and kept > self._page_limit:
                raise page_too_large(path, self._page_limit, self._source)
            if is_object and kept > self._limit:
                raise too_large(path, kept, self._limit, self._source)
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _read_encoded(self, answer: aiohttp.ClientResponse, path: str, *, is_object: bool = True) -> Blob:
        """The object or page behind a body that the server compressed although it was asked not to."""
        encoding = answer.headers["Content-Encoding"]
        if answer.status != 200 or encoding not in ("gzip", "x-gzip", "deflate"):
            text = f"the server of source {self._source!r} sends {path!r} with Content-Encoding {encoding!r}"
            raise UnusableAnswer(f"{text}, of which no part can be read; turn that off", path=path, source=self._source)
        packed = await self._body(answer, path, is_object=is_object)
        limit = self._limit if is_object else self._page_limit
        try:
            data = await asyncio.to_thread(unpacked, packed, path, self._source, limit)
        except ObjectTooLargeError as error:
            if is_object:
                raise
            raise page_too_large(path, limit, self._source) from error
        return Blob(data, self._etag_of(answer, len(data)), len(data), None, self._source)

    def _blob_beyond(self, answer: aiohttp.ClientResponse, path: str, start: int) -> Blob:
        """The answer to a range from the end of the object on: empty just there, an error beyond."""
        size = content_range(answer)[1]
        if size is None:
            text = f"the server of source {self._source!r} answered 416 for {path!r}, so it has no byte {start}"
            raise UnusableAnswer(f"{text}; ask within it", path=path, source=self._source)
        check_nothing_left(path, start, None, size, self._source)
        return Blob(b"", self._etag_of(answer, size), size, None, self._source)
