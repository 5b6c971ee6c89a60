"""One repository of a Hub in huggingface_hub's cache on this disk, for `HF_HUB_OFFLINE=1`.

The cache holds per repository `refs/REVISION` (the commit), `snapshots/COMMIT/PATH` (links) and `blobs/ETAG`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from streaming.errors import ObjectNotFoundError
from streaming.sources.base import Blob, FileInfo
from streaming.sources.huggingface.address import HubAddress
from streaming.sources.local.source import LocalDataSource
from streaming.telemetry.skipped_objects import Skips

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig


class CachedRepo:
    """Reads and lists the cached files of one repository at `commit`.

    Args:
        config: limits, and the name for messages.
        address: the repository.
        cache: the folder of huggingface_hub's cache.
        commit: the commit of the revision; None: the one in the cache.

    Raises:
        ObjectNotFoundError: if the cache does not have this repository and revision.
    """

    def __init__(self, config: DataSourceConfig, address: HubAddress, cache: str, commit: str | None) -> None:
        self._source = config.name
        self._address = address
        self._root = os.path.join(cache, f"{address.repo_type}s--" + address.repo_id.replace("/", "--"))
        self.commit = commit or self._cached_commit()
        self._folder = f"snapshots/{self.commit}/{address.folder}"
        if not os.path.isdir(os.path.join(self._root, self._folder)):
            raise self._missing(address.folder or address.repo_id)
        self._files = LocalDataSource(
            config.model_copy(update={"source_type": "local", "path_or_uri": self._root, "storage_options": {}})
        )

    async def read(self, path: str, start: int, end: int | None) -> Blob:
        """Read bytes `start` to `end` of a file."""
        try:
            blob = await self._files.read(self._folder + path, start, end)
        except ObjectNotFoundError as error:
            raise self._missing(path) from error
        blob.etag = self._etag(path) or blob.etag
        blob.version = self.commit
        return blob

    async def iter_files(self, prefix: str, skips: Skips) -> AsyncIterator[FileInfo]:
        """Yield the files below the source's folder that are in the cache, which may be fewer than the Hub has.

        Args:
            skips: counts files that are left out, such as those whose download broke off.
        """
        skip = len(self._folder)
        async for info in self._files.iter_files(self._folder + prefix):
            path = info.path[skip:]
            yield FileInfo(path, info.size, self._etag(path) or info.etag, info.modified)
        skips.update(self._files.skipped.below(self._folder))

    async def aclose(self) -> None:
        """Nothing is open."""

    def _cached_commit(self) -> str:
        try:
            with open(os.path.join(self._root, "refs", self._address.revision), encoding="utf-8") as file:
                return file.read().strip()
        except OSError as error:
            raise self._missing(self._address.repo_id) from error

    def _etag(self, path: str) -> str | None:
        """Return the Hub's id of the content, the name of the blob; None if the cache has a copy instead of a link."""
        try:
            return os.path.basename(os.readlink(os.path.join(self._root, self._folder + path)))
        except OSError:
            return None

    def _missing(self, path: str) -> ObjectNotFoundError:
        where = f"{path!r} of source {self._source!r}: not in the cache at {self._root!r}"
        message = f"for revision {self._address.revision!r}, and offline mode is on (HF_HUB_OFFLINE)"
        text = f"{where} {message}; download it once with hf download, or unset HF_HUB_OFFLINE"
        return ObjectNotFoundError(text, path=path, source=self._source)
