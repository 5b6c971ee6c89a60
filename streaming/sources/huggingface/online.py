"""One repository of a Hub at one commit, over HTTP: every request goes through this library's own client.

huggingface_hub brings the token and the headers. Its listing is not used: `list_repo_tree` sends no timeout (a Hub that
accepts and says nothing still held it after 40 s, and the thread it blocks keeps the process from ending), repeats by
itself for up to 23 s, and cannot be cancelled. The same pages are read here, under `timeout_s`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
import yarl

from streaming.errors import AccessDenied, ObjectNotFoundError, SourceError, SourceUnavailable
from streaming.sources.base import Blob, FileInfo
from streaming.sources.header_values import json_of, next_link
from streaming.sources.http.aiohttp_engine import AiohttpClient
from streaming.sources.http.response import range_header
from streaming.sources.http.spool_file import SpoolFile
from streaming.sources.huggingface.address import HubAddress
from streaming.sources.huggingface.listing_page import HubPage, page_of
from streaming.sources.huggingface.status_codes import (
    EntryNotFound,
    RepositoryNotFound,
    error_of_hub,
    revision_not_found,
)
from streaming.sources.listing_limits import ListingLimits
from streaming.sources.path_filter import drop_unreadable
from streaming.telemetry.skipped_objects import Skips

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig

# What storage says to a signed URL past its time: CloudFront and S3 403, Google 400, some proxies 401.
_EXPIRED = (400, 401, 403)


class _SignedUrlRefused(Exception):
    """The storage that the Hub sent us to does not take the URL that the Hub signed."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class OnlineRepo(AiohttpClient):
    """Reads and lists one repository at `commit`.

    Args:
        config: limits, times, and the name for messages.
        address: the repository.
        endpoint: the Hub, without a final slash; `headers` are for it alone.
        headers: sent there, with the token.
        commit: what the revision is known to be; None: `pin` asks.
        receive: see `AiohttpClient`.
    """

    def __init__(
        self,
        config: DataSourceConfig,
        address: HubAddress,
        endpoint: str,
        headers: dict[str, str],
        commit: str | None,
        receive: Callable[[int], None],
    ) -> None:
        super().__init__(config, endpoint, headers, receive)
        self._config = config
        self._address = address
        self._endpoint = endpoint
        self._has_token = any(name.lower() == "authorization" for name in headers)
        self.commit = ""
        if commit is not None:
            self._use(commit)

    def _use(self, commit: str) -> None:
        self.commit = commit
        self._files = self._address.file_url(self._endpoint, commit)

    async def pin(self) -> None:
        """Ask the Hub which commit the revision is now, unless one is known."""
        if self.commit:
            return
        try:
            answer, _ = await self._get_json(self._address.revision_url(self._endpoint), self._address.repo_id)
        except ObjectNotFoundError as error:
            raise await self._blamed(error, self._address.repo_id) from error
        commit = answer.get("sha") if isinstance(answer, dict) else None
        if not isinstance(commit, str) or not commit:
            raise self._no_hub(self._address.repo_id)
        self._use(commit)

    async def read(self, path: str, start: int, end: int | None) -> Blob:
        """Bytes `start` to `end` of a file. If storage refuses the URL that the Hub signed, the Hub signs one more."""
        try:
            return await self._read_once(path, start, end)
        except RepositoryNotFound as error:
            raise await self._blamed(error, path) from error
        except _SignedUrlRefused:
            pass
        try:
            return await self._read_once(path, start, end)
        except _SignedUrlRefused as error:
            text = f"{path!r} of source {self._source!r}: storage refused two URLs fresh from the Hub ({error.status})"
            told = f"{text}; check this machine's clock, and proxies that may keep redirects"
            raise AccessDenied(told, path=path, source=self._source) from error

    async def _read_once(self, path: str, start: int, end: int | None) -> Blob:
        """As `get`, with the meaning that the Hub gives to statuses, and its ETag in place of the storage's."""
        url = yarl.URL(self._files + quote(path, errors="surrogateescape"), encoded=True)
        if start or end is not None:
            blob = await self._part(self._origin, path, start, end, partial(self._get, url, path, start, end))
        else:
            blob = await self._get(url, path, start, end)
        blob.version = self.commit
        return blob

    async def _get(
        self, target: yarl.URL, path: str, start: int, end: int | None, spool: SpoolFile | None = None
    ) -> Blob:
        with self._translated(path):
            async with self._send(target, range_header(start, end), path) as answer:
                if answer.status not in (200, 206, 416):
                    if answer.status in _EXPIRED and answer.url.origin() != self._origin:
                        raise _SignedUrlRefused(answer.status)
                    raise self._error(answer, path)
                return await self._answered(answer, path, start, end, spool)

    async def iter_files(self, prefix: str, skips: Skips) -> AsyncIterator[FileInfo]:
        """All files below the source's folder whose path begins with `prefix`, in the Hub's order; some are skipped.

        Raises:
            ObjectNotFoundError: at the first step, if repository, revision or the source's folder do not exist.
            BadRequest: if the listing passes its bounds.
            SourceTimeout: if no file comes for `listing_timeout_s`.
        """
        limits = ListingLimits(self._config, prefix)
        root = self._address.folder
        begin = root + prefix
        folder = begin.rpartition("/")[0]
        try:
            async for page in self._pages(folder, prefix):
                files = [info for info in page.files if info.path.startswith(begin)]
                limits.count(len(files), page.entries - len(files))
                for info in drop_unreadable((replace(info, path=info.path[len(root) :]) for info in files), skips):
                    yield info
                if files:
                    limits.go_on()
        except RepositoryNotFound as error:
            raise await self._blamed(error, prefix) from error
        except EntryNotFound:
            if folder == root.rstrip("/"):
                raise
            if root:
                # Nothing begins with the prefix, unless the root itself is missing, which is an error.
                await self._get_json(self._address.tree_url(self._endpoint, self.commit, root.rstrip("/")), prefix)

    async def _blamed(self, error: ObjectNotFoundError, path: str) -> ObjectNotFoundError:
        """The error for what is missing: some Hubs answer for an unknown revision as for an unknown repository."""
        try:
            await self._get_json(self._address.repository_url(self._endpoint), path)
        except SourceError:
            return error
        return revision_not_found(self._address, self._endpoint, path, self._source)

    async def _pages(self, folder: str, prefix: str) -> AsyncIterator[HubPage]:
        url: str | None = self._address.tree_url(self._endpoint, self.commit, folder)
        while url is not None:
            answer, url = await self._get_json(url, prefix)
            try:
                page = page_of(answer)
            except ValueError as error:
                raise self._no_hub(prefix) from error
            yield page

    async def _get_json(self, url: str, path: str) -> tuple[Any, str | None]:
        """An answer of the API and the URL of its next page; `path` is its name in messages."""
        target = yarl.URL(url, encoded=True)
        with self._translated(path):
            async with self._send(target, {}, path) as answer:
                if answer.status != 200:
                    raise self._error(answer, path)
                body = await self._body(answer, path, is_object=False)
                link = next_link(answer.headers.getall("Link", []), str(answer.url))
                if link is not None:
                    self._reach.check(yarl.URL(link), path, answer.url)
        try:
            page = await asyncio.to_thread(json_of, body)  # 1,000 entries, but a mirror may send all at once
        except ValueError as error:
            raise self._no_hub(path) from error
        return page, link

    def _etag_of(self, answer: aiohttp.ClientResponse, size: int) -> str | None:
        """What the Hub calls the content in listings too: SHA-256 where it is in storage, else the git blob."""
        if not answer.history:  # so the Hub answered itself
            return _plain(answer)
        for each in (answer, *reversed(answer.history)):
            if each.url.origin() == self._origin:
                return _plain(each) or super()._etag_of(answer, size)
        return super()._etag_of(answer, size)

    def _error(self, answer: aiohttp.ClientResponse, path: str) -> SourceError:
        return error_of_hub(
            answer.status, answer.headers, self._address, self._endpoint, path, self._source, self._has_token
        )

    def _no_hub(self, path: str) -> SourceError:
        text = f"{path!r} of source {self._source!r}: {self._endpoint} answered what no Hub answers"
        return SourceUnavailable(f"{text}; check endpoint and HF_ENDPOINT", path=path, source=self._source)


def _plain(answer: aiohttp.ClientResponse) -> str | None:
    etag = answer.headers.get("X-Linked-Etag") or answer.headers.get("ETag")
    return etag.removeprefix("W/").strip('"') if etag else None
