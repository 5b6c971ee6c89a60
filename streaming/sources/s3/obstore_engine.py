"""Stores of obstore for one bucket of S3: one to read from, others to sign listing requests."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

from obstore.store import S3Store

from streaming.sources.obstore.reader import client_settings, signed
from streaming.sources.s3.credentials import Connection, ProfileLogin, as_async_provider, connection_of

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig
    from streaming.sources.s3.address import S3Address

__all__ = ["S3Stores"]

_OF_AMAZON = re.compile(r"https://([\w-]+\.)*amazonaws\.com(\.cn)?(/|$)")
_LOGIN_HOSTS = (
    *("169.254.169.254", "fd00:ec2::254", "169.254.170.2", "169.254.170.23", "fd00:ec2::23"),
    *("amazonaws.com", "amazonaws.com.cn"),
)
_LOGIN_URLS = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_ENDPOINT_URL_STS", "AWS_METADATA_ENDPOINT")
RENEW_BEFORE = timedelta(minutes=5)  # as obstore does


class S3Stores:
    """Makes stores for one bucket.

    Args:
        config: times, and the name for messages.
        address: where, and how to log in.

    Attributes:
        bucket_url: URL of the bucket; empty before the first `open`.
    """

    def __init__(self, config: DataSourceConfig, address: S3Address) -> None:
        self._config = config
        self._address = address
        self._bucket = address.bucket
        self._settings: dict[str, Any] = {}
        self._may_have_token = False
        self.bucket_url = ""

    def open(self) -> S3Store:
        """Return a store over the whole bucket, with the login that the configuration and the environment give now."""
        connection = connection_of(self._address, self._config.name)
        self.bucket_url = _bucket_url(connection)
        address = connection.address
        has_token = not address.anon and (address.keys is None or address.keys.token is not None)
        self._may_have_token = has_token and connection.endpoint is not None and not _OF_AMAZON.match(self.bucket_url)
        self._settings = _settings_of(connection, self._config, self.bucket_url)
        endpoint = self.bucket_url.removesuffix(f"/{self._bucket}") if connection.path_style else self.bucket_url
        there: dict[str, Any] = _endpoint(endpoint) if connection.endpoint else {}
        return S3Store(self._bucket, **self._settings, **there, virtual_hosted_style_request=not connection.path_style)

    async def list_request(self, query: str) -> tuple[str, dict[str, str]]:
        """Return the URL of a listing, signed unless reads are anonymous."""
        url = f"{self.bucket_url}?{query}"
        if self._settings.get("skip_signature"):
            return url, {}
        # obstore appends a slash to its endpoint: here to the fragment, which is not sent.
        there = {**self._settings, **_endpoint(f"{url}#"), "virtual_hosted_style_request": True}
        return await signed(await asyncio.to_thread(S3Store, self._bucket, **there), self._config.name), {}

    async def trial_url(self, store: Any, key: str) -> str | None:
        """Return the signed URL of an object, if there may be a session token and the endpoint is not Amazon's own."""
        from streaming.sources.obstore.list_objects_v2 import ListingRefused

        if not self._may_have_token:
            return None
        try:
            return await signed(store, self._config.name, key)
        except (ListingRefused, TypeError):  # it cannot be signed, or obstore cannot have such a name
            return None


def _endpoint(url: str) -> dict[str, str]:
    return {"endpoint": url, "aws_endpoint_url_s3": url}  # without the second, the environment's would win


def _settings_of(connection: Connection, config: DataSourceConfig, bucket_url: str) -> dict[str, Any]:
    """Return the settings that all stores share: region, time limits and login."""
    address = connection.address
    has_login = address.anon or address.keys or address.provider or connection.session is not None
    client = client_settings(config, bucket_url, () if has_login else _hosts_of_own_login())
    settings = {"region": connection.region, "request_payer": address.requester_pays, **client}
    if address.anon:
        settings["skip_signature"] = True
    elif address.keys is not None:
        # A provider, as obstore would combine plain keys with a session token from the environment.
        keys = {
            "access_key_id": address.keys.key,
            "secret_access_key": address.keys.secret,
            "token": address.keys.token,
            "expires_at": None,
        }
        settings["credential_provider"] = lambda: keys
    elif address.provider is not None:
        settings["credential_provider"] = _cached_provider(as_async_provider(address.provider))
    elif connection.session is not None:
        settings["credential_provider"] = ProfileLogin(connection.session, config.name)
    return settings


def _hosts_of_own_login() -> list[str]:
    """Return the servers that obstore may ask for the role of a machine, a container or a web identity."""
    named = (os.environ.get(name) for name in _LOGIN_URLS)
    return [*_LOGIN_HOSTS, *(urlsplit(url).hostname or "" for url in named if url)]


def _cached_provider(ask: Callable[[], Awaitable[dict[str, Any]]]) -> Callable[[], Awaitable[dict[str, Any]]]:
    """Cache what a provider gives until shortly before it expires, as several stores share it."""
    last: dict[str, Any] = {}

    async def give() -> dict[str, Any]:
        nonlocal last
        if not last or (last["expires_at"] and last["expires_at"] < datetime.now(UTC) + RENEW_BEFORE):
            last = await ask()
        return last

    return give


def _bucket_url(connection: Connection) -> str:
    bucket = connection.address.bucket
    parts = urlsplit(connection.endpoint or f"https://s3.{connection.region}.amazonaws.com")
    path = parts.path.rstrip("/")
    if connection.path_style:
        return urlunsplit(parts._replace(path=f"{path}/{quote(bucket)}"))
    return urlunsplit(parts._replace(netloc=f"{bucket}.{parts.netloc}", path=path))
