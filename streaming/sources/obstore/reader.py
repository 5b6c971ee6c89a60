"""Read and list by obstore; shared by S3 and GCS."""

from __future__ import annotations

import os
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from streaming.errors import BadRequest, SourceError, SourceTimeout, StreamingError
from streaming.sources.base import Blob, FileInfo, too_large
from streaming.sources.header_values import plain_etag
from streaming.sources.obstore.error_translation import EXPIRED_LOGIN_CODES, code_of, status_of, to_source_error
from streaming.sources.obstore.native_listing import FAILURES, ObstoreListing
from streaming.sources.obstore.process_lifetime import begin_read, claim_process, end_read
from streaming.sources.obstore.redirect_guard import same_host_options
from streaming.sources.parallel_listing import PagedListing, list_in_parallel
from streaming.sources.path_filter import is_plain, unreadable_reason
from streaming.sources.per_loop import opened_before_fork
from streaming.sources.response_bodies import check_nothing_left, length_mismatch, read_obstore_body

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig
    from streaming.sources.listing_limits import ListingLimits
    from streaming.sources.obstore.list_objects_v2 import ListObjectsClient
    from streaming.telemetry.skipped_objects import Skips

__all__ = ["ObjectStoreReader", "Stores", "client_settings", "obstore_unreadable_reason", "signed", "to_source_error"]

REOPEN_AFTER_S = 10.0  # the least time between two searches for a login after one was refused
SIGNED_FOR = timedelta(minutes=5)  # clocks may differ by that much; the request is made at once
# The last replaces characters in a listing that XML cannot represent.
_NO_PATH_OF_OBSTORE = re.compile(r"[\x00-\x1f\x7f]|(?:^|/)\.?(?:/|$)|\ufffd")


class Stores(Protocol):
    """Makes the stores of obstore for one bucket.

    Attributes:
        bucket_url: the prefix of the URLs of listing requests.
    """

    @property
    def bucket_url(self) -> str: ...

    def open(self) -> Any:
        """Return a store over the whole bucket. Called again, to look for a login, when the login has expired."""

    async def list_request(self, query: str) -> tuple[str, dict[str, str]]:
        """Return URL and headers of a listing request, with the login of the store that was opened last."""

    async def trial_url(self, store: Any, key: str) -> str | None:
        """Return the URL of an object, to test whether its server redirects; None if obstore would send no secret."""


def client_settings(config: DataSourceConfig, url: str, login_hosts: Iterable[str] = ()) -> dict[str, Any]:
    """Return `client_options` and `retry_config` for a store: the time limits of `config`, no retries, one host.

    Args:
        url: of the bucket.
        login_hosts: other hosts that the login needs.
    """
    return {
        "client_options": {
            **same_host_options(url, login_hosts),
            "timeout": timedelta(seconds=config.timeout_s),
            "connect_timeout": timedelta(seconds=config.connect_timeout_s),
        },
        "retry_config": {"max_retries": 0, "retry_timeout": timedelta(0)},  # the resilience layer retries
    }


async def signed(store: Any, source: str, key: str = "") -> str:
    """Return the signed URL of a bucket, or of an object in it.

    Raises:
        ListingRefused: if the login of the store cannot sign.
    """
    import obstore

    from streaming.sources.obstore.list_objects_v2 import ListingRefused

    begin_read(source)
    try:
        url: str = await obstore.sign_async(store, "GET", key, SIGNED_FOR)
    except (*FAILURES, NotImplementedError) as error:
        raise ListingRefused from error
    finally:
        end_read()
    return url


def obstore_unreadable_reason(path: str) -> str | None:
    """Do as `unreadable_reason`, and return `"not_in_engine"` for a path that obstore refuses or changes."""
    if is_plain(path) and "\ufffd" not in path:
        return None
    return unreadable_reason(path) or ("not_in_engine" if _NO_PATH_OF_OBSTORE.search(path) else None)


class ObjectStoreReader:
    """Reads and lists the objects below a prefix of a bucket. The store is made at the first use in a process.

    Args:
        config: limits, and the name for messages.
        stores: makes the stores.
        prefix: of the root in the bucket, with or without slashes around it.
        receive: called with the number of bytes of each body, as soon as its length is known.
        versions: the version to read by path, if not the newest.
    """

    def __init__(
        self,
        config: DataSourceConfig,
        stores: Stores,
        prefix: str,
        receive: Callable[[int], None],
        versions: Mapping[str, str] | None = None,
    ) -> None:
        self._config = config
        self._source = config.name
        self._limit = config.max_object_bytes
        self._timeout_s = config.timeout_s
        self._stores = stores
        self._receive = receive
        self._root = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._versions = versions or {}
        self._pid = 0
        self._store: Any = None
        self._list_client: ListObjectsClient | None = None
        self._list_objects_refused = False
        self._reopened_at = -REOPEN_AFTER_S
        self._is_direct = False

    async def get(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        """Read bytes `start` to `end` (half-open) of an object, in one request.

        Raises:
            BadRequest: if `start` is beyond the object, or obstore cannot read such a name.
            ObjectTooLargeError: if the answer exceeds `max_object_bytes`; its body is not read.
            TruncatedRead: if fewer bytes came than announced.
            SourceError: or a subclass, see `to_source_error`.
            ClosedError: if obstore was used before this process was forked, or the interpreter is exiting.
        """
        store = self._store if self._pid == os.getpid() else self._open()
        if path.endswith("/"):  # obstore would drop the slash
            text = f"{path!r} of source {self._source!r} is the name of a folder; name an object in it"
            raise BadRequest(text, path=path, source=self._source)
        if not self._is_direct:
            await self._check_direct(store, path)
        begin_read(self._source)
        try:
            return await self._get(store, path, start, end)
        except StreamingError:
            raise
        except FAILURES as error:
            if code_of(error) not in EXPIRED_LOGIN_CODES:
                raise self._to_source_error(error, path) from error
            refused = error
        finally:
            end_read()
        again = self._reopened(store)
        if again is None:
            raise self._to_source_error(refused, path) from refused
        return await self.get(path, start, end)

    def iter_files(self, prefix: str, skips: Skips) -> AsyncGenerator[FileInfo, None]:
        """Yield all objects whose path below the root begins with `prefix`. Folders are listed in parallel.

        Raises:
            BadRequest: if obstore cannot read any object below the root.
        """
        if self._pid != os.getpid():
            self._open()
        if _NO_PATH_OF_OBSTORE.search(self._root.removesuffix("/") or "root"):
            raise self._to_source_error(ValueError(), self._root)
        return list_in_parallel(self, prefix, skips, self._config, obstore_unreadable_reason)

    async def pages(self, folder: str, limits: ListingLimits) -> AsyncIterator[list[FileInfo]]:
        """Yield all objects below a folder, in pages."""
        from streaming.sources.obstore.list_objects_v2 import ListingRefused

        if not self._list_objects_refused:
            try:
                async for page in PagedListing(self._list_objects_client().page).pages(folder, limits):
                    yield page
                return
            except ListingRefused:
                pass  # obstore's own listing may be answered
        async for page in self._native_listing().pages(folder, limits):
            self._list_objects_refused = True
            yield page

    async def level(self, folder: str, start: str, limits: ListingLimits) -> tuple[list[FileInfo], list[str]]:
        """Return the objects and folders directly in a folder whose path begins with `folder + start`, or more."""
        from streaming.sources.obstore.list_objects_v2 import ListingRefused

        if not self._list_objects_refused:
            try:
                return await PagedListing(self._list_objects_client().page).level(folder, start, limits)
            except ListingRefused:
                pass  # obstore's own listing may be answered
        found = await self._native_listing().level(folder, start, limits)
        self._list_objects_refused = True
        return found

    async def aclose(self) -> None:
        """Drop the store, and close the client for listings."""
        client, self._list_client = self._list_client, None
        if client is not None:
            await client.aclose()
        self._pid = 0
        self._store = None

    async def _check_direct(self, store: Any, path: str) -> None:
        """Refuse a server that redirects, as obstore would send a session token to another port of its host.

        Costs a request for one byte before the first read in a process, if there may be a token.
        """
        url = await self._stores.trial_url(store, self._root + path)
        if url is not None:
            try:
                is_redirected = await self._list_objects_client().is_redirected(url, path)
            except SourceTimeout:
                raise
            except SourceError:
                return  # the read that follows reports why there was no answer
            if is_redirected:
                text = f"{path!r} of source {self._source!r} is redirected, which is not followed"
                raise BadRequest(f"{text}; check the endpoint and the region", path=path, source=self._source)
        self._is_direct = True

    def _list_objects_client(self) -> ListObjectsClient:
        if self._list_client is None:
            from streaming.sources.obstore.list_objects_v2 import ListObjectsClient  # imports aiohttp: 0.15 s

            client = ListObjectsClient(self._config, self._root, self._stores.bucket_url, self._stores.list_request)
            # Another thread may have made one meanwhile, which must then be closed later.
            if self._list_client is None:
                self._list_client = client
        return self._list_client

    def _native_listing(self) -> ObstoreListing:
        return ObstoreListing(self._store, self._root, self._source, self._to_source_error)

    def _open(self) -> Any:
        """Make the store, at the first use in a process."""
        if self._pid:
            raise opened_before_fork(self._source, self._pid)
        claim_process(self._source)
        self._store = self._stores.open()
        self._pid = os.getpid()
        return self._store

    def _reopened(self, refused: Any) -> Any:
        """Return a store with a new login in place of the refused one; None if that was made just now."""
        if self._store is refused:
            now = time.monotonic()
            if now < self._reopened_at + REOPEN_AFTER_S:
                return None
            self._reopened_at = now
            self._store = self._stores.open()
        return self._store

    async def _get(self, store: Any, path: str, start: int, end: int | None) -> Blob:
        whole = start == 0 and end is None
        if start == end:
            return await self._read_metadata(store, path, start, end)
        options: dict[str, Any] = {}
        if not whole:
            options["range"] = {"offset": start} if end is None else (start, end)
        if path in self._versions:
            options["version"] = self._versions[path]
        try:
            answer = await store.get_async(self._root + path, options=options or None)
            meta = answer.meta
            size = meta["size"]
            length = (size if end is None or end > size else end) - start
            if length > self._limit:
                raise too_large(path, length, self._limit, self._source)
            self._receive(length)
            data = await read_obstore_body(answer, length)
        except FAILURES as error:
            if whole or status_of(error) != 416:
                raise
            return await self._read_metadata(store, path, start, end)
        if len(data) != length:
            raise length_mismatch(path, len(data), length, self._source)
        return Blob(data, plain_etag(meta["e_tag"]), size, meta["version"], self._source)

    async def _read_metadata(self, store: Any, path: str, start: int, end: int | None) -> Blob:
        """Read no bytes, only the size of an object."""
        options: dict[str, Any] = {"head": True}
        if path in self._versions:
            options["version"] = self._versions[path]
        meta = (await store.get_async(self._root + path, options=options)).meta
        size = meta["size"]
        check_nothing_left(path, start, end, size, self._source)
        return Blob(b"", plain_etag(meta["e_tag"]), size, meta["version"], self._source)

    def _to_source_error(self, error: Exception, path: str) -> Exception:
        return to_source_error(error, path, self._source, self._timeout_s)
