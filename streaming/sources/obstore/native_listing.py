"""obstore's own listing, for servers that refuse the requests of `list_objects_v2`.

obstore has paths, not keys: a key with a control character or an empty folder fails its page, and a slash at either end
of a key is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import pairwise
from typing import Any

from obstore.exceptions import BaseError

from streaming.sources.base import FileInfo
from streaming.sources.header_values import plain_etag, timestamp
from streaming.sources.listing_limits import ListingLimits
from streaming.sources.obstore.process_lifetime import begin_read, end_read
from streaming.sources.parallel_listing import PAGE

__all__ = ["FAILURES", "ObstoreListing"]

FAILURES = (BaseError, OSError, ValueError, OverflowError)


class ObstoreListing:
    """Lists the objects of a store below a root.

    Args:
        store: of obstore, over the whole bucket.
        root: prefix of each key: empty, or ending in `/`.
        source: the name of the source.
        to_source_error: translates an error of obstore, given the prefix that was listed.
    """

    def __init__(
        self, store: Any, root: str, source: str, to_source_error: Callable[[Exception, str], Exception]
    ) -> None:
        self._store = store
        self._root = root
        self._source = source
        self._to_source_error = to_source_error

    async def pages(self, folder: str, limits: ListingLimits) -> AsyncIterator[list[FileInfo]]:
        """Yield all objects below a folder, in pages."""
        last: list[FileInfo] = []  # held back until the next is known, as it may be a marker of that one's folder
        stream = self._store.list((self._root + folder) or None, chunk_size=PAGE)
        while True:
            begin_read(self._source)
            try:
                async with asyncio.timeout(limits.remaining_s):  # obstore follows empty pages itself
                    metas = await anext(stream, None)
            except TimeoutError as error:
                raise limits.stalled_error() from error
            except FAILURES as error:
                raise self._to_source_error(error, folder) from error
            finally:
                end_read()
            found = [*last, *self._infos(metas or ())]
            if metas is None:
                if found and not _is_folder_marker(found[0], "", folder):
                    yield found
                return
            last = found[-1:]
            if page := [
                info for info, after in pairwise(found) if info.size or not _is_folder_marker(info, after.path, folder)
            ]:
                yield page

    async def level(self, folder: str, start: str, limits: ListingLimits) -> tuple[list[FileInfo], list[str]]:
        """Return the objects and folders directly in a folder."""
        begin_read(self._source)
        try:
            async with asyncio.timeout(limits.remaining_s):  # obstore follows all pages of a folder itself
                found = await self._store.list_with_delimiter_async((self._root + folder) or None)
        except TimeoutError as error:
            raise limits.stalled_error() from error
        except FAILURES as error:
            raise self._to_source_error(error, folder + start) from error
        finally:
            end_read()
        skip = len(self._root)
        objects = [info for info in self._infos(found["objects"]) if not _is_folder_marker(info, "", folder)]
        folders = [f"{each[skip:]}/" for each in found["common_prefixes"]]
        limits.count(len(objects), len(folders))
        return objects, folders

    def _infos(self, metas: Iterable[Any]) -> list[FileInfo]:
        skip = len(self._root)
        return [
            FileInfo(meta["path"][skip:], meta["size"], plain_etag(meta["e_tag"]), timestamp(meta["last_modified"]))
            for meta in metas
        ]


def _is_folder_marker(info: FileInfo, after: str, folder: str) -> bool:
    """Whether this is the empty object `x/` by which web consoles represent a folder; obstore names it `x`.

    Args:
        after: the path of the next object, as listings are sorted.
        folder: what is listed.
    """
    return not info.size and (not info.path or f"{info.path}/" == folder or after.startswith(f"{info.path}/"))
