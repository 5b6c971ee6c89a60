"""Listing an object store folder by folder, several at once.

A store lists 1000 objects per request, one request after the other; folders can be listed side by side. A first page
tells whether that pays: where all objects lie in one folder, or in very many small ones, one plain listing is as fast.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from streaming.skips import Skips
from streaming.sources.base import FileInfo
from streaming.sources.readable import Why, readable

PAGE = 1000  # objects in an answer of S3 and GCS
LISTINGS_AT_ONCE = 16
FOLDERS_IN_A_PAGE = 8  # with more, so with fewer than 125 objects in each, requests per folder outweigh their overlap


class Listing(Protocol):
    """What is asked of a client. A folder is written with its final `/`; the root is empty."""

    def pages(self, folder: str) -> AsyncIterator[list[FileInfo]]:
        """All objects below `folder`, in pages of about `PAGE`; a shorter one is the last, none is empty.

        The empty objects `x/` that web consoles make of folders are left out; keys are otherwise as the store has them.
        """

    async def level(self, folder: str, start: str) -> tuple[list[FileInfo], list[str]]:
        """The objects just in `folder`, and the folders in it; of both those whose path begins with `folder + start`
        and possibly more."""


async def list_in_parallel(
    listing: Listing, prefix: str, skips: Skips, why: Why | None = None
) -> AsyncIterator[FileInfo]:
    """All readable objects whose path begins with `prefix`, in an order that depends on nothing but the objects.

    Args:
        skips: counts the others.
        why: see `readable`.
    """
    gate = asyncio.Semaphore(LISTINGS_AT_ONCE)
    folder, slash, start = prefix.rpartition("/")
    found = _pages(listing, folder + slash, start, gate)
    try:
        async for page in found:
            for info in readable(page, skips, why):
                yield info
    finally:
        await found.aclose()


async def _pages(
    listing: Listing, folder: str, start: str, gate: asyncio.Semaphore
) -> AsyncGenerator[list[FileInfo], None]:
    """The same page by page, as each layer of generators costs every item that goes through it."""
    if not start:
        pages = listing.pages(folder)
        page = await _next_page(pages, gate)
        if not _folders_pay(page, len(folder)):
            while page:
                yield page
                page = await _next_page(pages, gate)
            return
    async with gate:
        objects, folders = await listing.level(folder, start)
    yield [info for info in objects if info.path.startswith(folder + start)]
    waiting = (each for each in sorted(folders) if each.startswith(folder + start))
    ahead: deque[asyncio.Task[list[list[FileInfo]]]] = deque()
    try:
        while True:
            while len(ahead) < LISTINGS_AT_ONCE and (each := next(waiting, None)) is not None:
                ahead.append(asyncio.ensure_future(_collect(listing, each, gate)))
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


async def _collect(listing: Listing, folder: str, gate: asyncio.Semaphore) -> list[list[FileInfo]]:
    return [page async for page in _pages(listing, folder, "", gate)]


async def _next_page(pages: AsyncIterator[list[FileInfo]], gate: asyncio.Semaphore) -> list[FileInfo]:
    async with gate:
        return await anext(pages, [])


def _folders_pay(page: list[FileInfo], skip: int) -> bool:
    if len(page) < PAGE // 2:
        return False
    folders = {info.path[skip:].partition("/")[0] for info in page if "/" in info.path[skip:]}
    return 0 < len(folders) <= FOLDERS_IN_A_PAGE
