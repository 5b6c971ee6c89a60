"""GET by aiohttp with the logins and endpoints of gcsfs.

gcsfs's own reads retry a failed request six times, and drop the size and ETag of the answer. Here each read is one
request, and the resilience layer retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
import yarl

from streaming.errors import (
    AccessDenied,
    BadRequest,
    ConfigError,
    ObjectNotFoundError,
    SourceError,
    SourceUnavailable,
    StreamingError,
)
from streaming.sources.base import Blob, FileInfo, beyond_object, too_large
from streaming.sources.gcs.address import access_denied, no_bucket
from streaming.sources.gcs.listing_page import parse_items, parse_object
from streaming.sources.header_values import content_range, plain_etag
from streaming.sources.http.error_translation import translate_errors
from streaming.sources.http.response import range_header
from streaming.sources.listing_limits import page_too_large
from streaming.sources.parallel_listing import PAGE, PagedListing, list_in_parallel
from streaming.sources.per_loop import PerLoop
from streaming.sources.proxies import Proxy, proxy_for, proxy_url
from streaming.sources.response_bodies import length_mismatch, read_aiohttp_body
from streaming.sources.status_codes import UnusableAnswer, error_for_status

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig
    from streaming.sources.gcs.address import GCSAddress, Login
    from streaming.sources.listing_page import ListingPage
    from streaming.telemetry.skipped_objects import Skips

_FIELDS = "items(name,size,etag,updated),prefixes,nextPageToken"


def _import_gcsfs() -> Any:
    # Otherwise gcsfs asks for the kind of each bucket by gRPC, which emulators do not support: 60 s for each bucket.
    # It reads this variable once, while it is imported.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    return import_module("gcsfs")


@dataclass(slots=True)
class _Client:
    """A file system of gcsfs, a session, and a lock for renewing the login; for one event loop."""

    files: Any
    session: aiohttp.ClientSession
    renewing: asyncio.Lock = field(default_factory=asyncio.Lock)


class GcsfsReader:
    """Reads and lists the objects of one bucket below a prefix.

    Args:
        config: limits, and the name for messages.
        address: the bucket, and how to log in.
        receive: called with the number of bytes of each body, as soon as its length is known.
    """

    def __init__(self, config: DataSourceConfig, address: GCSAddress, receive: Callable[[int], None]) -> None:
        self._receive = receive
        self._proxy: Proxy | None = None
        self._gcsfs = _import_gcsfs()
        self._config = config
        self._source = config.name
        self._limit = config.max_object_bytes
        self._page_limit = config.max_listing_page_bytes
        self._timeout_s = config.timeout_s
        self._connect_timeout_s = config.connect_timeout_s
        self._address = address
        self._bucket_path = f"b/{quote(address.bucket, safe='')}/o"
        self._clients = PerLoop(self._source, self._open, lambda client: client.session.close())

    async def get(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        """Read bytes `start` to `end` of an object, in one request.

        HTTP has no empty ranges. For those, the metadata of the object is requested.
        """
        async with self._limited(path):
            if end is not None and start == end:
                return await self._read_metadata(path, start)
            headers = range_header(start, end)
            async with await self._request(self._object_path(path), {"alt": "media"}, headers) as answer:
                if answer.status != 416:
                    return await self._read(answer, path, start, end)
            return await self._read_metadata(path, start)

    def iter_files(self, prefix: str, skips: Skips) -> AsyncGenerator[FileInfo, None]:
        """Yield all objects whose path below the root begins with `prefix`. Folders are listed in parallel.

        Raises:
            ObjectNotFoundError: at the first step, if the bucket does not exist.
        """
        return list_in_parallel(PagedListing(self._page), prefix, skips, self._config)

    async def aclose(self) -> None:
        """Close the sessions of all loops."""
        await self._clients.aclose()

    def _object_path(self, path: str) -> str:
        try:
            return f"{self._bucket_path}/{quote(self._address.prefix + path, safe='')}"
        except UnicodeEncodeError as error:
            text = f"{path!r} of source {self._source!r} does not exist: names in GCS are text of valid UTF-8"
            raise ObjectNotFoundError(text, path=path, source=self._source) from error

    async def _request(
        self, path: str, parameters: dict[str, str], headers: dict[str, str]
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        client = self._clients.current() or await self._clients.open()
        if self._address.user_project is not None:
            parameters = {**parameters, "userProject": self._address.user_project}
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
        # If gzip is allowed, GCS sends a compressed object as it is stored and listed, so ranges and sizes are right.
        headers = {"Accept-Encoding": "gzip", **headers, **await _authorization(client)}
        url = yarl.URL(f"{client.files.base}{path}?{query}", encoded=True)
        return client.session.get(url, headers=headers, allow_redirects=False)  # GCS never redirects

    async def _read(self, answer: aiohttp.ClientResponse, path: str, start: int, end: int | None) -> Blob:
        self._check_status(answer, path)
        size = answer.content_length
        if start or end is not None:
            first, size = content_range(answer.headers.get("Content-Range"))
            if answer.status != 206 or first != start or size is None:
                text = f"the server of source {self._source!r} sent another range of {path!r} than requested"
                raise UnusableAnswer(f"{text}; read it whole", path=path, source=self._source)
        if size is None:
            text = f"the server of source {self._source!r} does not give the size of {path!r}; store it uncompressed"
            raise BadRequest(text, path=path, source=self._source)
        length = (size if end is None or end > size else end) - start
        if length > self._limit:
            raise too_large(path, length, self._limit, self._source)
        self._receive(length)
        data = await read_aiohttp_body(answer.content, length)
        if len(data) != length:
            raise length_mismatch(path, len(data), length, self._source)
        etag, generation = plain_etag(answer.headers.get("ETag")), answer.headers.get("X-Goog-Generation")
        return Blob(data, etag, size, generation, self._source)

    async def _read_metadata(self, path: str, start: int) -> Blob:
        """Read no bytes, only the metadata of an object; an error if it ends before `start`."""
        parameters = {"fields": "size,etag,generation"}
        async with await self._request(self._object_path(path), parameters, {}) as answer:
            self._check_status(answer, path)
            known = parse_object(await self._page_body(answer, path))
        if known is None:
            text = f"{path!r} of source {self._source!r}: the server does not give its size; check the endpoint"
            raise UnusableAnswer(text, path=path, source=self._source)
        if start > known.size:
            raise beyond_object(path, start, known.size, self._source)
        return Blob(b"", known.etag, known.size, known.generation, self._source)

    async def _page(self, prefix: str, token: str, is_level: bool) -> ListingPage:
        parameters = {"prefix": self._address.prefix + prefix, "maxResults": str(PAGE), "fields": _FIELDS}
        if token:
            parameters["pageToken"] = token
        if is_level:
            parameters["delimiter"] = "/"
        async with self._limited(prefix):
            async with await self._request(self._bucket_path, parameters, {"Accept-Encoding": "identity"}) as answer:
                if answer.status == 404:
                    raise no_bucket(self._address, self._source)
                self._check_status(answer, prefix)
                body = await self._page_body(answer, prefix)
            try:
                return await asyncio.to_thread(parse_items, body, len(self._address.prefix))
            except ValueError as error:
                text = (
                    f"the listing of {prefix!r} in source {self._source!r} is not an answer of GCS; check the endpoint"
                )
                raise SourceUnavailable(text, path=prefix, source=self._source) from error

    async def _page_body(self, answer: aiohttp.ClientResponse, prefix: str) -> bytes:
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > self._page_limit:
                raise page_too_large(prefix, self._page_limit, self._source)
        return bytes(body)

    def _check_status(self, answer: aiohttp.ClientResponse, path: str) -> None:
        if answer.status in (200, 206):
            return
        if answer.status in (401, 403):
            raise access_denied(answer.status, path, self._source, self._address.login)
        raise error_for_status(answer.status, path, self._source, answer.headers)

    async def _open(self) -> _Client:
        files = await self._log_in()
        return _Client(files, self._new_session(files.base))

    async def _log_in(self) -> Any:
        token = _token_of(self._address.login, self._source)
        try:
            # In a thread, as it logs in by blocking requests.
            return await asyncio.to_thread(
                self._gcsfs.GCSFileSystem,
                token=token,
                access="read_only",
                endpoint_url=self._address.endpoint,
                asynchronous=True,
                skip_instance_cache=True,  # which would keep it forever
            )
        except (ValueError, KeyError, TypeError) as error:
            text = f"the credentials of source {self._source!r} cannot be used ({type(error).__name__})"
            raise ConfigError(f"{text}; download the key again", source=self._source) from error

    def _new_session(self, base: str) -> aiohttp.ClientSession:
        origin = yarl.URL(base).origin()
        self._proxy = proxy_for(origin.scheme, origin.host or "")
        # No limit here: the caller decides how many requests are in flight.
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=proxy_url(self._proxy, self._source),
        )

    @contextlib.asynccontextmanager
    async def _limited(self, path: str) -> AsyncIterator[None]:
        """Limit the time, and translate errors to those of this library."""
        with self._translate_errors(path):
            async with asyncio.timeout(self._timeout_s):
                yield

    @contextlib.contextmanager
    def _translate_errors(self, path: str) -> Iterator[None]:
        with translate_errors(path, self._source, self._timeout_s, self._proxy, "endpoint"):
            try:
                yield
            except (StreamingError, aiohttp.ClientError, OSError):
                raise
            except Exception as error:
                raise self._login_failed(path, error) from error

    def _login_failed(self, path: str, error: Exception) -> Exception:
        """Return the error of this library for one of google-auth or gcsfs; others are returned unchanged."""
        exceptions = import_module("google.auth.exceptions")
        retry = import_module("gcsfs.retry")
        kind: type[SourceError] = AccessDenied
        if isinstance(error, exceptions.TransportError):
            kind, message = SourceUnavailable, "could not be renewed, as Google's login server cannot be reached"
        elif isinstance(error, exceptions.GoogleAuthError | retry.HttpError | retry.NonRetryableError):
            message = "was refused; check the service account, that it is not expired, and the clock of this machine"
        elif isinstance(error, ValueError):
            text = f"{path!r} of source {self._source!r} was answered with what aiohttp cannot read or follow"
            return UnusableAnswer(
                f"{text} ({type(error).__name__}); check the endpoint", path=path, source=self._source
            )
        else:
            return error
        text = f"the login of source {self._source!r} for {path!r} {message} ({type(error).__name__})"
        return kind(text, path=path, source=self._source)


async def _authorization(client: _Client) -> dict[str, str]:
    """Return the header with the login. One caller renews a login that is about to expire, in a thread."""
    credentials = client.files.credentials
    if credentials.credentials is None:
        return {}
    if not credentials.credentials.valid:
        async with client.renewing:
            if not credentials.credentials.valid:
                await asyncio.to_thread(credentials.maybe_refresh)
    headers: dict[str, str] = {}
    credentials.credentials.apply(headers)
    return headers


def _token_of(login: Login, source: str) -> Any:
    """Return the `token` argument of gcsfs."""
    if login.kind in ("file", "json"):
        return login.account(source)
    if login.kind == "token":  # given as text, gcsfs would send it to a Google server first
        return import_module("google.oauth2.credentials").Credentials(login.value)
    if login.kind == "cloud":  # gcsfs refuses it for other endpoints than Google's own
        return import_module("google.auth.compute_engine").Credentials()
    return None if login.kind == "default" else login.kind
