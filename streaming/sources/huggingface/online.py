"""One repository of a Hub at one commit, over this library's own HTTP client.

huggingface_hub gives the token and the headers. Its listing is not used: `list_repo_tree` has no timeout (it still
waited after 40 s for a silent Hub, and its thread keeps the process from exiting), retries for up to 23 s, and cannot
be cancelled. The same pages are read here, within `timeout_s`.
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
from streaming.sources.header_values import next_link, parse_json
from streaming.sources.http.aiohttp_engine import AiohttpClient
from streaming.sources.http.response import range_header
from streaming.sources.http.spool_file import SpoolFile
from streaming.sources.huggingface.address import HubAddress
from streaming.sources.huggingface.listing_page import HubPage, page_of
from streaming.sources.huggingface.status_codes import (
    EntryNotFound,
    RepositoryNotFound,
    error_for_hub,
    revision_not_found,
)
from streaming.sources.listing_limits import ListingLimits
from streaming.sources.path_filter import drop_unreadable
from streaming.telemetry.skipped_objects import Skips

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig

# The answers to an expired signed URL: CloudFront and S3 403, Google 400, some proxies 401.
_EXPIRED = (400, 401, 403)


class _SignedUrlRefused(Exception):
    """The storage behind the Hub refused the URL that the Hub signed."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class OnlineRepo(AiohttpClient):
    """Reads and lists one repository at `commit`.

    Args:
        config: limits, and the name for messages.
        address: the repository.
        endpoint: URL of the Hub, without a final slash.
        headers: sent to the Hub alone, with the token.
        commit: the commit of the revision; None: `pin` asks the Hub.
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
        """Ask the Hub for the commit of the revision, unless it is known."""
        if self.commit:
            return
        try:
            answer, _ = await self._get_json(self._address.revision_url(self._endpoint), self._address.repo_id)
        except ObjectNotFoundError as error:
            raise await self._missing_error(error, self._address.repo_id) from error
        commit = answer.get("sha") if isinstance(answer, dict) else None
        if not isinstance(commit, str) or not commit:
            raise self._not_a_hub(self._address.repo_id)
        self._use(commit)

    async def read(self, path: str, start: int, end: int | None) -> Blob:
        """Read bytes `start` to `end` of a file. If storage refuses the signed URL, ask the Hub once for another."""
        try:
            return await self._read_once(path, start, end)
        except RepositoryNotFound as error:
            raise await self._missing_error(error, path) from error
        except _SignedUrlRefused:
            pass  # it may have expired: the Hub signs another
        try:
            return await self._read_once(path, start, end)
        except _SignedUrlRefused as error:
            text = f"{path!r} of source {self._source!r}: storage refused two URLs fresh from the Hub ({error.status})"
            message = f"{text}; check this machine's clock, and proxies that may cache redirects"
            raise AccessDenied(message, path=path, source=self._source) from error

    async def _read_once(self, path: str, start: int, end: int | None) -> Blob:
        """Read as `get` does, with the Hub's errors, and its ETag in place of the storage's."""
        url = yarl.URL(self._files + quote(path, errors="surrogateescape"), encoded=True)
        if start or end is not None:
            blob = await self._read_part(self._origin, path, start, end, partial(self._get, url, path, start, end))
        else:
            blob = await self._get(url, path, start, end)
        blob.version = self.commit
        return blob

    async def _get(
        self, target: yarl.URL, path: str, start: int, end: int | None, spool: SpoolFile | None = None
    ) -> Blob:
        with self._translate_errors(path):
            async with self._send(target, range_header(start, end), path) as answer:
                if answer.status not in (200, 206, 416):
                    if answer.status in _EXPIRED and answer.url.origin() != self._origin:
                        raise _SignedUrlRefused(answer.status)
                    raise self._error(answer, path)
                return await self._read_answer(answer, path, start, end, spool)

    async def iter_files(self, prefix: str, skips: Skips) -> AsyncIterator[FileInfo]:
        """Yield the readable files below the source's folder whose path begins with `prefix`, in the Hub's order.

        Raises:
            ObjectNotFoundError: at the first step, if repository, revision or the source's folder do not exist.
            BadRequest: if the listing exceeds its limits.
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
                    limits.mark_progress()
        except RepositoryNotFound as error:
            raise await self._missing_error(error, prefix) from error
        except EntryNotFound:
            if folder == root.rstrip("/"):
                raise
            if root:
                # Nothing begins with the prefix, unless the root itself is missing, which is an error.
                await self._get_json(self._address.tree_url(self._endpoint, self.commit, root.rstrip("/")), prefix)

    async def _missing_error(self, error: ObjectNotFoundError, path: str) -> ObjectNotFoundError:
        """Return the error for a missing object. Some Hubs answer the same for an unknown revision and repository."""
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
                raise self._not_a_hub(prefix) from error
            yield page

    async def _get_json(self, url: str, path: str) -> tuple[Any, str | None]:
        """Return an answer of the API and the URL of its next page; `path` is its name in messages."""
        target = yarl.URL(url, encoded=True)
        with self._translate_errors(path):
            async with self._send(target, {}, path) as answer:
                if answer.status != 200:
                    raise self._error(answer, path)
                body = await self._read_body(answer, path, is_object=False)
                link = next_link(answer.headers.getall("Link", []), str(answer.url))
                if link is not None:
                    self._redirect_policy.check(yarl.URL(link), path, answer.url)
        try:
            page = await asyncio.to_thread(parse_json, body)  # 1,000 entries, but a mirror may send all on one page
        except ValueError as error:
            raise self._not_a_hub(path) from error
        return page, link

    def _etag_of(self, answer: aiohttp.ClientResponse, size: int) -> str | None:
        """Return the Hub's id of the content, as in listings: SHA-256 for LFS, else the git blob id."""
        if not answer.history:  # the Hub answered itself
            return _plain(answer)
        for each in (answer, *reversed(answer.history)):
            if each.url.origin() == self._origin:
                return _plain(each) or super()._etag_of(answer, size)
        return super()._etag_of(answer, size)

    def _error(self, answer: aiohttp.ClientResponse, path: str) -> SourceError:
        return error_for_hub(
            answer.status, answer.headers, self._address, self._endpoint, path, self._source, self._has_token
        )

    def _not_a_hub(self, path: str) -> SourceError:
        text = f"{path!r} of source {self._source!r}: {self._endpoint} did not answer as a Hub does"
        return SourceUnavailable(f"{text}; check endpoint and HF_ENDPOINT", path=path, source=self._source)


def _plain(answer: aiohttp.ClientResponse) -> str | None:
    etag = answer.headers.get("X-Linked-Etag") or answer.headers.get("ETag")
    return etag.removeprefix("W/").strip('"') if etag else None
