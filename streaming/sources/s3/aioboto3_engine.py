"""S3 by aioboto3: slower than obstore, but with every way to log in that boto has. One client per event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from streaming.errors import AccessDenied, SourceError, SourceUnavailable
from streaming.sources.base import Blob, FileInfo, too_large
from streaming.sources.header_values import LARGEST, content_range, plain_etag, timestamp
from streaming.sources.http.response import range_header
from streaming.sources.listing_limits import page_too_large
from streaming.sources.listing_page import MAX_PAGE_BYTES, ListingPage
from streaming.sources.obstore.error_translation import EXPIRED_LOGIN_CODES
from streaming.sources.parallel_listing import PAGE, PagedListing, list_in_parallel
from streaming.sources.per_loop import PerLoop
from streaming.sources.proxies import proxy_for, proxy_url
from streaming.sources.response_bodies import check_nothing_left, length_mismatch, read_aiohttp_body
from streaming.sources.s3.credentials import Connection, as_async_provider, connection_of
from streaming.sources.s3.error_translation import code_of, to_source_error
from streaming.sources.status_codes import UnusableAnswer

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig
    from streaming.sources.s3.address import S3Address
    from streaming.telemetry.skipped_objects import Skips

CONNECTIONS = 1024  # more than a caller has in flight: this is not the concurrency limit
REOPEN_AFTER_S = 10.0  # the least time between two searches for a login after one was refused


class Aioboto3Reader:
    """Reads and lists the objects below one prefix.

    Args:
        config: limits, times, and the name for messages.
        address: the bucket, and how to log in.
        receive: announced of the bytes of each body.
    """

    def __init__(self, config: DataSourceConfig, address: S3Address, receive: Callable[[int], None]) -> None:
        self._receive = receive
        self._config = config
        self._source = config.name
        self._limit = config.max_object_bytes
        self._timeout_s = config.timeout_s
        self._connect_timeout_s = config.connect_timeout_s
        self._address = address
        self._root = f"{address.prefix}/" if address.prefix else ""
        self._clients: PerLoop[Any] = PerLoop(self._source, self._new_client, lambda client: client.close())
        self._reopened_at = -REOPEN_AFTER_S
        self._payer = {"RequestPayer": "requester"} if address.requester_pays else {}

    async def get(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        """Read bytes `start` to `end` (half-open) of an object, in one request.

        Raises:
            BadRequest: if `start` is beyond the object.
            ObjectTooLargeError: if the answer exceeds `max_object_bytes`; its body is not read.
            TruncatedRead: if fewer bytes came than announced.
            SourceError: or one of its other kinds.
            ClosedError: if it was opened before this process was forked.
        """
        client: Any = None
        try:
            with self._translate_errors(path):
                # Outside the time limit: the first client takes 0.4 s of computing, which is not the server's.
                client = self._clients.current() or await self._clients.open()
                async with asyncio.timeout(self._timeout_s):
                    return await self._get(client, path, start, end)
        except SourceError as error:
            if client is None or code_of(error.__cause__) not in EXPIRED_LOGIN_CODES or not self._retire(client):
                raise
        return await self.get(path, start, end)

    def iter_files(self, prefix: str, skips: Skips) -> AsyncGenerator[FileInfo, None]:
        """Yield all objects whose path below the root begins with `prefix`. Folders are listed in parallel."""
        return list_in_parallel(PagedListing(self._page), prefix, skips, self._config)

    async def aclose(self) -> None:
        """Close the clients of all loops."""
        await self._clients.aclose()

    async def _new_client(self) -> Any:
        from aiobotocore.config import AioConfig
        from botocore import UNSIGNED

        from streaming.sources.s3.aioboto3_session import NoRedirectSession, stop_redirect_loop

        connection = connection_of(self._address, self._source)
        settings: dict[str, Any] = {
            "retries": {"total_max_attempts": 1},  # the resilience layer retries
            "max_pool_connections": CONNECTIONS,
            "connect_timeout": self._connect_timeout_s,
            "read_timeout": self._timeout_s,
            "s3": {"addressing_style": "path" if connection.path_style else "virtual"},
        }
        if connection.address.anon:
            settings["signature_version"] = UNSIGNED
        parts = urlsplit(connection.endpoint or "https://s3.amazonaws.com")
        proxy = proxy_for(parts.scheme, parts.hostname or "")
        if proxy is not None and proxy.variable == "ALL_PROXY":  # boto finds the others itself
            settings["proxies"] = {parts.scheme: proxy_url(proxy, self._source)}
        for name in ("request_checksum_calculation", "response_checksum_validation"):
            if name in AioConfig.OPTION_DEFAULTS:  # newer versions would read objects in pieces for checksums
                settings[name] = "when_required"
        session = await self._session(connection)
        config = AioConfig(http_session_cls=NoRedirectSession, **settings)
        opening = session.client("s3", endpoint_url=connection.endpoint, region_name=connection.region, config=config)
        client = await opening.__aenter__()
        client.meta.events.register_first("needs-retry.s3", stop_redirect_loop)
        self._bound_listings(client)
        return client

    async def _session(self, connection: Connection) -> Any:
        import aioboto3

        address = connection.address
        if address.keys is not None:
            keys = address.keys
            return aioboto3.Session(keys.key, keys.secret, keys.token)
        if address.provider is None:
            return aioboto3.Session(profile_name=address.profile)
        session = aioboto3.Session()
        session._session._credentials = await _credentials_of(as_async_provider(address.provider), self._source)
        return session

    def _retire(self, refused: Any) -> bool:
        """Replace a client whose login was refused. Return False if that was done just now."""
        if self._clients.current() is refused:
            now = time.monotonic()
            if now < self._reopened_at + REOPEN_AFTER_S:
                return False
            self._reopened_at = now
            self._clients.retire()
        return True

    async def _get(self, client: Any, path: str, start: int, end: int | None) -> Blob:
        if start == end:
            return await self._read_metadata(client, path, start, end)
        arguments = {**self._arguments(path), **range_header(start, end)}
        try:
            answer = await client.get_object(**arguments)
        except Exception as error:
            if code_of(error) not in ("InvalidRange", "416"):
                raise
            return await self._read_metadata(client, path, start, end)
        body = answer["Body"]
        size = answer.get("ContentLength")
        announced = content_range(answer.get("ContentRange")).size
        if announced is not None:
            size = announced
        elif "Range" in arguments:
            body.close()
            text = (
                f"the server of source {self._source!r} sent all of {path!r} where a part was requested; read it whole"
            )
            raise UnusableAnswer(text, path=path, source=self._source)
        if size is None:
            body.close()
            text = f"the server of source {self._source!r} does not give the size of {path!r}; try again"
            raise SourceUnavailable(f"{text}, then check the endpoint", path=path, source=self._source)
        length = (size if end is None or end > size else end) - start
        if length > self._limit:
            body.close()
            raise too_large(path, length, self._limit, self._source)
        self._receive(length)
        async with body as stream:
            data = await read_aiohttp_body(stream.content, length)
        if len(data) != length:
            raise length_mismatch(path, len(data), length, self._source)
        return Blob(data, plain_etag(answer.get("ETag")), size, _version(answer), self._source)

    async def _read_metadata(self, client: Any, path: str, start: int, end: int | None) -> Blob:
        """Read no bytes, only the size of an object."""
        answer = await client.head_object(**self._arguments(path))
        size = answer["ContentLength"]
        check_nothing_left(path, start, end, size, self._source)
        return Blob(b"", plain_etag(answer.get("ETag")), size, _version(answer), self._source)

    def _arguments(self, path: str) -> dict[str, Any]:
        arguments = {"Bucket": self._address.bucket, "Key": self._root + path, **self._payer}
        if path in self._address.versions:
            arguments["VersionId"] = self._address.versions[path]
        return arguments

    @contextlib.contextmanager
    def _translate_errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except SourceError:
            raise
        except Exception as error:
            known = to_source_error(error, path, self._source, self._timeout_s)
            if known is None:
                raise
            raise known from error

    async def _page(self, prefix: str, token: str, is_level: bool) -> ListingPage:
        arguments = {"Bucket": self._address.bucket, "Prefix": self._root + prefix, "MaxKeys": PAGE, **self._payer}
        if token:
            arguments["ContinuationToken"] = token
        if is_level:
            arguments["Delimiter"] = "/"
        with self._translate_errors(prefix):
            client = self._clients.current() or await self._clients.open()
            async with asyncio.timeout(self._timeout_s):
                return self._page_of(await client.list_objects_v2(**arguments))

    def _page_of(self, answer: Any) -> ListingPage:
        skip = len(self._root)
        page = ListingPage(folders=[each["Prefix"][skip:] for each in answer.get("CommonPrefixes", ())])
        if answer.get("IsTruncated"):
            page.next_token = answer["NextContinuationToken"]
        for each in answer.get("Contents", ()):
            key, size = each["Key"], each["Size"]
            if not 0 <= size <= LARGEST:
                raise ValueError(f"{key!r} cannot have {size} bytes")
            if size or not key.endswith("/"):  # a folder marker of web consoles
                time = timestamp(each.get("LastModified"))
                page.objects.append(FileInfo(key[skip:], size, plain_etag(each.get("ETag")), time))
        return page

    def _bound_listings(self, client: Any) -> None:
        """Limit the size of listings and refuse document types. boto itself reads and parses answers of any size."""
        limit = min(MAX_PAGE_BYTES, self._config.max_listing_page_bytes)

        async def send(request: Any, **_: Any) -> Any:
            request.stream_output = True  # otherwise boto reads the whole body at once
            answer = await client._endpoint.http_session.send(request)
            if answer.status_code >= 300:  # `NoRedirectSession` has limited its size
                return answer
            body = bytearray()
            async for chunk in answer.raw.content.iter_any():
                body += chunk
                if len(body) > limit:
                    answer.raw.close()
                    raise page_too_large(self._root, limit, self._source)
            if b"<!DOCTYPE" in body:  # entities expand a few bytes to gigabytes
                raise ValueError("a document type")
            answer._content = bytes(body)
            return answer

        client.meta.events.register("before-send.s3.ListObjectsV2", send)


def _version(answer: Any) -> str | None:
    version = answer.get("VersionId")
    return None if version in (None, "null") else str(version)


async def _credentials_of(ask: Callable[[], Awaitable[dict[str, Any]]], source: str) -> Any:
    """Return botocore credentials that are renewed before they expire."""
    from aiobotocore.credentials import AioCredentials, AioRefreshableCredentials

    async def refresh() -> dict[str, Any]:
        try:
            given = await ask()
        except Exception as error:
            text = f"the credential_provider of source {source!r} failed ({type(error).__name__}); check it"
            raise AccessDenied(text, source=source) from error
        ends = given["expires_at"] or datetime.max.replace(tzinfo=UTC)
        return {
            "access_key": given["access_key_id"],
            "secret_key": given["secret_access_key"],
            "token": given["token"],
            "expiry_time": ends.isoformat(),
        }

    first = await refresh()
    if first["expiry_time"].startswith("9999"):
        return AioCredentials(first["access_key"], first["secret_key"], first["token"])
    return AioRefreshableCredentials.create_from_metadata(first, refresh, "credential_provider")
