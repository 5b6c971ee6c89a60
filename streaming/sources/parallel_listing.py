"""List an object store folder by folder, several at once.

A store lists 1,000 objects per request, one request after the other, but folders can be listed in parallel. The first
page shows whether that pays: with one folder, or very many small ones, one plain listing is as fast.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol

from streaming.sources.base import FileInfo
from streaming.sources.listing_limits import ListingLimits
from streaming.sources.listing_page import ListingPage
from streaming.sources.path_filter import ReasonOf, drop_unreadable
from streaming.telemetry.skipped_objects import Skips

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig

PAGE = 1000  # objects in an answer of S3 and GCS
LISTINGS_AT_ONCE = 16
FOLDERS_IN_A_PAGE = 8  # with more, and so under 125 objects in each, the extra requests outweigh the overlap


class ObjectLister(Protocol):
    """Interface of a client that lists objects. Folders end in `/`; the root is empty."""

    def pages(self, folder: str, limits: ListingLimits) -> AsyncIterator[list[FileInfo]]:
        """Yield all objects below `folder`, in pages of about `PAGE`. A shorter page is the last, and none is empty.

        Folder markers, the empty objects `x/` of web consoles, are left out. Other keys are as the store has them.

        Args:
            limits: count empty pages, which could continue forever.
        """

    async def level(self, folder: str, start: str, limits: ListingLimits) -> tuple[list[FileInfo], list[str]]:
        """Return the objects directly in `folder`, and its folders, at least those that begin with `folder + start`.

        Args:
            limits: count each page.
        """


class PagedListing:
    """The `ObjectLister` of a store whose answers name the next page by a token.

    Args:
        fetch: reads one page, given a prefix, the token (empty for the first page), and whether to group what follows
            the next `/` into folders.
    """

    def __init__(self, fetch: Callable[[str, str, bool], Awaitable[ListingPage]]) -> None:
        self._fetch = fetch

    async def pages(self, folder: str, limits: ListingLimits) -> AsyncIterator[list[FileInfo]]:
        """Yield all objects below a folder, in pages."""
        page = ListingPage()
        while True:
            page = await self._fetch(folder, page.next_token, False)
            if page.objects:
                yield page.objects
            if not page.next_token:
                return
            if not page.objects:
                limits.count(0)

    async def level(self, folder: str, start: str, limits: ListingLimits) -> tuple[list[FileInfo], list[str]]:
        """Return the objects and folders directly in a folder whose path begins with `folder + start`."""
        found, page = ListingPage(), ListingPage()
        while True:
            page = await self._fetch(folder + start, page.next_token, True)
            limits.count(len(page.objects), len(page.folders))
            found.objects += page.objects
            found.folders += page.folders
            if not page.next_token:
                return found.objects, found.folders


async def list_in_parallel(
    listing: ObjectLister, prefix: str, skips: Skips, config: DataSourceConfig, why: ReasonOf | None = None
) -> AsyncGenerator[FileInfo, None]:
    """Yield all readable objects whose path begins with `prefix`, in an order that depends only on the objects.

    Args:
        skips: counts the objects that cannot be read.
        config: the limits of a listing, and the name for messages.
        why: see `drop_unreadable`.

    Raises:
        BadRequest: if the listing exceeds its limits.
        SourceTimeout: if no object comes for `listing_timeout_s`.
    """
    limits = ListingLimits(config, prefix)
    slots = asyncio.Semaphore(LISTINGS_AT_ONCE)
    folder, slash, start = prefix.rpartition("/")
    async with aclosing(_ParallelListing(listing, limits, slots).pages(folder + slash, start)) as pages:
        async for page in pages:
            for info in drop_unreadable(page, skips, why):
                yield info
            limits.mark_progress()


class _ParallelListing:
    """One listing by several requests at once."""

    def __init__(self, listing: ObjectLister, limits: ListingLimits, slots: asyncio.Semaphore) -> None:
        self._listing = listing
        self._limits = limits
        self._slots = slots

    async def pages(self, folder: str, start: str, depth: int = 0) -> AsyncGenerator[list[FileInfo], None]:
        """Yield pages, not single objects, as each layer of generators costs time for every item."""
        limits = self._limits
        limits.check_depth(depth, folder)
        if not start:
            pages = self._listing.pages(folder, limits)
            page = await self._next_page(pages)
            if not _folders_pay(page, len(folder)):
                while page:
                    yield page
                    page = await self._next_page(pages)
                return
        async with self._slots:
            objects, folders = await self._listing.level(folder, start, limits)
        yield [info for info in objects if info.path.startswith(folder + start)]
        # A folder must be longer than its parent, otherwise it would be listed again and again.
        waiting = (each for each in sorted(set(folders)) if each.startswith(folder + start) and len(each) > len(folder))
        ahead: deque[asyncio.Task[list[list[FileInfo]]]] = deque()
        try:
            while True:
                while len(ahead) < LISTINGS_AT_ONCE and (each := next(waiting, None)) is not None:
                    ahead.append(asyncio.ensure_future(self._collect(each, depth + 1)))
                if not ahead:
                    return
                found = await ahead[0]
                ahead.popleft()
                for page in found:
                    yield page
        finally:
            for task in ahead:
                task.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)

    async def _collect(self, folder: str, depth: int) -> list[list[FileInfo]]:
        return [page async for page in self.pages(folder, "", depth)]

    async def _next_page(self, pages: AsyncIterator[list[FileInfo]]) -> list[FileInfo]:
        async with self._slots:
            page: list[FileInfo] = await anext(pages, [])
        if page:
            self._limits.count(len(page))
        return page


def _folders_pay(page: list[FileInfo], skip: int) -> bool:
    if len(page) < PAGE // 2:
        return False
    folders = {info.path[skip:].partition("/")[0] for info in page if "/" in info.path[skip:]}
    return 0 < len(folders) <= FOLDERS_IN_A_PAGE
