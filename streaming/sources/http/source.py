"""Objects behind a web server: below a root URL that lists itself, or named by an index file or a list of URLs.

Reads go through obstore, measured the faster (see `http_obstore`); listings, signed URLs and unusual answers through
aiohttp, which `engine="aiohttp"` chooses for everything.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from urllib.parse import unquote

from streaming.errors import ObjectNotFoundError
from streaming.sources.base import Blob, DataSource, FileInfo, check_path, check_prefix, check_range
from streaming.sources.http.address import parse_address
from streaming.sources.http.html_listing import parse_index
from streaming.sources.http.obstore_engine import NeedsAiohttp, ObstoreClient
from streaming.sources.http.walk import walk_autoindex
from streaming.sources.listing_limits import ListingLimits
from streaming.sources.obstore.process_lifetime import is_usable
from streaming.sources.path_filter import drop_unreadable, unreadable_reason
from streaming.sources.per_loop import opened_before_fork
from streaming.telemetry.skipped_objects import Skips

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig
    from streaming.sources.http.aiohttp_engine import AiohttpClient


class HTTPDataSource(DataSource):
    """A root URL and the objects below it.

    Objects are listed in one of three ways: by the server's listings of folders (autoindex of nginx in HTML or JSON,
    Apache, Python's `http.server`); `storage_options={"index": "index.txt"}`, a file of paths or URLs, also as a
    JSON list with optional sizes and ETags; or `storage_options={"urls": [...]}`. The path of a listed URL below the
    root is relative to the root, that of any other is its whole path; those may be signed, and on any host.

    `storage_options={"headers": {...}}` and credentials `token`, or `username` and `password`, go with each request to
    the root's host. A query in the root's URL is added to each URL below it.

    A forked child cannot use a source that its parent opened: it gets `ClosedError`, where the client would hang.

    Raises:
        ConfigError: when made, for an unknown engine, option or credential, or two URLs for one path.
    """

    def __init__(self, config: DataSourceConfig) -> None:
        super().__init__(config)
        self._address = parse_address(config)
        self._urls = self._address.urls
        self._pid = 0
        self._obstore: ObstoreClient | None = None
        # Whether obstore can read the answers of the root's server, without redirects; None: not known yet.
        self._is_plain: bool | None = None
        self._aiohttp: AiohttpClient | None = None

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        if self._pid != os.getpid():
            self._open()
        check_path(path)
        if start or end is not None:
            check_range(path, start, end, self.name)
        is_named = path in self._urls
        if path.endswith("/") and not is_named:
            # obstore would drop the slash, and the server would answer with the folder's listing.
            text = f"{path!r} of source {self.name!r} is a folder; name an object in it, or list it"
            raise ObjectNotFoundError(text, path=path, source=self.name)
        is_part = bool(start or end is not None)
        if self._obstore is not None and start != end and not is_named and self._is_for_obstore(path, is_part):
            try:
                return await self._obstore.get(path, start, end)
            except NeedsAiohttp as error:
                if is_part:
                    self._opened().forget_ranges()
                elif error.is_of_server:
                    self._is_plain = False
        client = self._opened()
        blob = await client.get(self._address.url_of(path), path, start, end)
        if client.redirects:
            self._is_plain = False
        elif self._is_plain is None:
            self._is_plain = True
        return blob

    def _is_for_obstore(self, path: str, is_part: bool) -> bool:
        """Whether obstore is known to be able to read this. aiohttp reads first, and finds out about redirects by the
        first answer, and about ranges by the first part."""
        return bool(self._is_plain) and (not is_part or self._opened().supports_ranges(path))

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        client = self._opened()
        check_prefix(prefix)
        skips = Skips()
        if self._address.paths is not None:
            listed = [FileInfo(path, -1) for path in self._address.paths]
        elif self._address.index is not None:
            listed = await self._read_index(client, self._address.index)
        else:
            async for info in walk_autoindex(client, self._address.url_of, prefix, self.config, skips):
                yield info
            listed = []
        selected = (info for info in listed if info.path.startswith(prefix))
        for info in drop_unreadable(selected, skips, self._unreadable_reason):
            yield info
        self.skipped = skips

    async def aclose(self) -> None:
        self._closed = True
        self._pid = 0
        self._obstore = None
        client, self._aiohttp = self._aiohttp, None
        if client is not None:
            await client.aclose()

    def _unreadable_reason(self, path: str) -> str | None:
        return None if path in self._urls else unreadable_reason(path)

    def _open(self) -> None:
        """Make the clients, at the first use in a process."""
        self._check_open()
        if self._pid not in (0, os.getpid()):  # another thread may have opened them meanwhile
            raise opened_before_fork(self.name, self._pid)
        engine = self.config.engine
        is_wanted = engine == "obstore" or (engine is None and not self._address.query and is_usable())
        if is_wanted and self._address.suits_obstore:
            self._obstore = ObstoreClient(self.config, self._address.root, self._address.headers, self._receive)
        self._pid = os.getpid()

    def _opened(self) -> AiohttpClient:
        if self._pid != os.getpid():
            self._open()
        if self._aiohttp is None:
            from streaming.sources.http.aiohttp_engine import AiohttpClient  # 0.15 s

            client = AiohttpClient(self.config, self._address.root, self._address.headers, self._receive)
            if self._aiohttp is None:  # otherwise another thread has made one meanwhile, and it must be closed later
                self._aiohttp = client
        return self._aiohttp

    async def _read_index(self, client: AiohttpClient, url: str) -> list[FileInfo]:
        page = await client.get_page(url, unquote(url.partition("?")[0].rpartition("/")[2]))
        entries = parse_index(page.body, page.url, self._address.root, self.name)
        found = await asyncio.to_thread(lambda: {info.path: info for info in entries})
        ListingLimits(self.config, "").count(len(found))
        return [found[path] for path in sorted(found)]
