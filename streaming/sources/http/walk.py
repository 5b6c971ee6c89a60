"""Walk a web server's listings of folders, from the root down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from streaming.errors import AccessDenied, ObjectNotFoundError
from streaming.sources.base import FileInfo
from streaming.sources.http.html_listing import Names, TooManyNames, parse_autoindex
from streaming.sources.listing_limits import ListingLimits
from streaming.sources.path_filter import drop_unreadable, unreadable_reason
from streaming.telemetry.skipped_objects import Skips

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig
    from streaming.sources.http.aiohttp_engine import AiohttpClient, Page

PAGES_AT_ONCE = 16


async def walk_autoindex(
    client: AiohttpClient, url_of: Callable[[str], str], prefix: str, config: DataSourceConfig, skips: Skips
) -> AsyncIterator[FileInfo]:
    """Yield the readable objects whose path begins with `prefix`, level by level.

    Args:
        url_of: returns the URL of a path; paths of folders end in `/`.
        config: the limits of a listing, and the name for messages.
        skips: counts the objects that cannot be read.

    Raises:
        ObjectNotFoundError: if the root does not exist.
        AccessDenied: if a folder may not be listed.
        BadRequest: if a page is not a listing, or the listing exceeds its limits.
        SourceTimeout: if no object comes for `listing_timeout_s`.
    """
    limits = ListingLimits(config, prefix)
    pages = _Pages(client, url_of, prefix, config.name, skips, limits)
    level = [prefix[: prefix.rfind("/") + 1]]
    for depth in count():
        limits.check_depth(depth, level[0])
        below: list[str] = []
        for start in range(0, len(level), PAGES_AT_ONCE):
            for files, folders in await asyncio.gather(*map(pages.get, level[start : start + PAGES_AT_ONCE])):
                below += folders
                for info in drop_unreadable(files, skips):
                    yield info
                if files:
                    limits.mark_progress()
        level = below
        if not level:
            return


class _Pages:
    def __init__(
        self,
        client: AiohttpClient,
        url_of: Callable[[str], str],
        prefix: str,
        source: str,
        skips: Skips,
        limits: ListingLimits,
    ) -> None:
        self._client = client
        self._url_of = url_of
        self._prefix = prefix
        self._source = source
        self._skips = skips
        self._limits = limits
        self._parsing = asyncio.Lock()  # one page at a time, so that together they stay within the limit

    async def get(self, folder: str) -> tuple[list[FileInfo], list[str]]:
        """Return the files and folders in `folder` that `prefix` selects, sorted, with paths from the root."""
        try:
            page = await self._client.get_page(self._url_of(folder), folder or "/")
        except ObjectNotFoundError:
            if not folder:
                raise
            # The prefix selects nothing, or the folder vanished since. That is not an error if the root exists.
            await self._client.get_page(self._url_of(""), "/")
            return [], []
        except AccessDenied as error:
            text = f"{error}; if the server has no listings, set storage_options urls or index"
            raise AccessDenied(text, path=folder, source=self._source) from error
        async with self._parsing:
            names = await self._parsed(page)
            files, folders = self._selected(folder, names)
            self._limits.count(len(files), len(folders))
        return files, folders

    async def _parsed(self, page: Page) -> Names:
        left = self._limits.remaining
        try:
            return await asyncio.to_thread(parse_autoindex, page.body, page.content_type, page.url, self._source, left)
        except TooManyNames:
            raise self._limits.too_many_error() from None

    def _selected(self, folder: str, names: Names) -> tuple[list[FileInfo], list[str]]:
        found = {info.path: replace(info, path=folder + info.path) for info in names.files}
        inner = {folder + name for name in names.folders}
        for path in (folder + name for name in names.odd):
            if path.startswith(self._prefix):
                self._skips.add(unreadable_reason(path) or "separator_in_name", path)
        return (
            [found[name] for name in sorted(found) if found[name].path.startswith(self._prefix)],
            [path for path in sorted(inner) if path.startswith(self._prefix) or self._prefix.startswith(path)],
        )
