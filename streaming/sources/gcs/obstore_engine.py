"""A store of obstore for a bucket of GCS, with the login of a source's settings."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from obstore.exceptions import BaseError
from obstore.store import GCSStore

from streaming.errors import ConfigError, ObjectNotFoundError
from streaming.sources.base import Blob, FileInfo
from streaming.sources.gcs.address import access_denied, no_bucket
from streaming.sources.obstore.error_translation import status_of
from streaming.sources.obstore.reader import ObjectStoreReader, client_settings, signed

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig
    from streaming.sources.gcs.address import GCSAddress
    from streaming.telemetry.skipped_objects import Skips

GOOGLE_URL = "https://storage.googleapis.com"
_LOGIN_TIMEOUT_S = 10.0  # the metadata server is close by
_OWN_LOGINS = ("GOOGLE_BEARER_TOKEN", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH")


class GcsObstoreReader(ObjectStoreReader):
    """Reads and lists the objects of one bucket below a prefix.

    Args:
        config: limits, and the name for messages.
        address: the bucket, and how to log in.
        receive: see `ObjectStoreReader`.
    """

    def __init__(self, config: DataSourceConfig, address: GCSAddress, receive: Callable[[int], None]) -> None:
        super().__init__(config, GCSStores(config, address), address.prefix, receive)
        self._address = address

    async def iter_files(self, prefix: str, skips: Skips) -> AsyncGenerator[FileInfo, None]:
        """Yield files as `ObjectStoreReader` does; the error for a missing bucket names it."""
        try:
            async with aclosing(super().iter_files(prefix, skips)) as files:
                async for info in files:
                    yield info
        except ObjectNotFoundError as error:
            raise no_bucket(self._address, self._source) from error

    async def _read_metadata(self, *request: Any) -> Blob:
        # Follows an answer 416, after which a server may close the connection: of 300 such requests to
        # fake-gcs-server, 101 were reset. So it is tried once more.
        try:
            return await super()._read_metadata(*request)
        except BaseError as error:
            if status_of(error) or "kind: Timeout," in str(error):
                raise
        return await super()._read_metadata(*request)

    def _to_source_error(self, error: Exception, path: str) -> Exception:
        status = status_of(error)
        if status == 500 and "no bucket named" in str(error):  # the answer of fake-gcs-server, where GCS says 404
            return no_bucket(self._address, self._source)
        if status in (401, 403):
            return access_denied(status, path, self._source, self._address.login)
        return super()._to_source_error(error, path)


class GCSStores:
    """Makes stores for one bucket.

    Args:
        config: time limits, and the name for messages.
        address: the bucket, and how to log in.

    Attributes:
        bucket_url: URL of the bucket.
    """

    def __init__(self, config: DataSourceConfig, address: GCSAddress) -> None:
        self._config = config
        self._address = address
        self.bucket_url = f"{address.endpoint or GOOGLE_URL}/{quote(address.bucket, safe='')}"

    def open(self) -> GCSStore:
        """Return a store over the whole bucket."""
        return make_store(self._config, self._address)

    async def list_request(self, query: str) -> tuple[str, dict[str, str]]:
        """Return URL and headers of a listing, with a token or signed by the service account."""
        login = self._address.login
        if self._address.user_project is not None:
            query = f"{query}&userProject={quote(self._address.user_project, safe='')}"
        url = f"{self.bucket_url}?{query}"
        if login.kind == "anon":
            return url, {}
        if login.kind in ("token", "cloud"):
            token = login.value if login.kind == "token" else (await _machine_login())["token"]
            return url, {"Authorization": f"Bearer {token}"}
        # obstore appends the bucket to its endpoint: here to the fragment, which is not sent.
        there = replace(self._address, endpoint=f"{url}#")
        return await signed(await asyncio.to_thread(make_store, self._config, there), self._config.name), {}

    async def trial_url(self, store: GCSStore, key: str) -> None:
        """Return None: on a redirect obstore leaves out the only login that GCS has."""


def make_store(config: DataSourceConfig, address: GCSAddress) -> GCSStore:
    """Return a store over the whole bucket.

    Raises:
        ConfigError: if obstore cannot use the login, or its own environment variables contradict it.
    """
    settings = client_settings(config, address.endpoint or GOOGLE_URL, _login_hosts(address))
    # If gzip is allowed, GCS sends a compressed object as it is stored and listed, so ranges and sizes are right.
    headers = {"accept-encoding": "gzip"}
    if address.user_project is not None:
        headers["x-goog-user-project"] = address.user_project
    settings["client_options"]["default_headers"] = headers
    login = _login(config.name, address)
    try:
        return GCSStore(address.bucket, **settings, **login)
    except (BaseError, ValueError) as error:
        # Not chained, and without its text: a parser may quote what it could not read, here a key.
        text = f"the credentials of source {config.name!r} cannot be used by obstore ({type(error).__name__})"
        raise ConfigError(f"{text}; check their file, or download the key again", source=config.name) from None


def _login_hosts(address: GCSAddress) -> list[str]:
    """Return the servers that obstore may ask for a token."""
    if address.login.kind in ("anon", "token", "cloud"):  # these need no token, or fetch it without obstore
        return []
    hosts = ["googleapis.com", "accounts.google.com"]
    if address.login.kind in ("default", "google_default"):
        named = (os.environ.get(name) for name in ("GCE_METADATA_HOST", "GCE_METADATA_IP"))
        hosts += ["169.254.169.254", "metadata.google.internal", "metadata", *(each for each in named if each)]
    return hosts


def _login(source: str, address: GCSAddress) -> dict[str, Any]:
    """Return the arguments of `GCSStore` for the server and the login."""
    login, url = address.login, address.endpoint
    there: dict[str, Any] = {"base_url": url} if url else {}
    if login.kind in ("token", "cloud"):
        provider = _machine_login if login.kind == "cloud" else lambda: {"token": login.value, "expires_at": None}
        return {"config": there, "credential_provider": provider}
    if login.kind == "default" or login.kind == "google_default":
        return {"config": there}
    if own := [name for name in _OWN_LOGINS if name in os.environ]:
        text = f"source {source!r} has a login in its settings, and obstore finds another in the variable {own[0]}"
        raise ConfigError(f"{text}; unset that, or set engine to 'gcsfs'", source=source)
    if login.kind == "anon":
        # Not `skip_signature`, which still opens the file of GOOGLE_APPLICATION_CREDENTIALS and fails if it is
        # missing. With `disable_oauth` no login is sent.
        no_login = {"gcs_base_url": url or GOOGLE_URL, "disable_oauth": True}
        no_login |= dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        return {"config": {"service_account_key": json.dumps(no_login)}}
    account = login.account(source)
    if account.get("type", "service_account") == "service_account":
        account = {"private_key_id": "", **account, **({"gcs_base_url": url} if url else {})}
        return {"config": {"service_account_key": json.dumps(account)}}
    if login.kind == "json":
        text = f"obstore cannot use credentials of type {account['type']!r} given to source {source!r}"
        raise ConfigError(f"{text}; give them as a file, or set engine to 'gcsfs'", source=source)
    return {"config": {**there, "application_credentials": login.value}}


async def _machine_login() -> dict[str, Any]:
    """Return a token for the account of this machine in Google's cloud.

    obstore itself would prefer any credentials file.
    """
    import aiohttp  # 0.15 s that other logins do not need

    host = os.environ.get("GCE_METADATA_HOST") or "metadata.google.internal"
    url = f"http://{host}/computeMetadata/v1/instance/service-accounts/default/token"
    timeout = aiohttp.ClientTimeout(total=_LOGIN_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session:
        async with session.get(url, headers={"Metadata-Flavor": "Google"}) as answer:
            token = await answer.json(content_type=None)
    expires_at = datetime.now(UTC) + timedelta(seconds=token["expires_in"])
    return {"token": token["access_token"], "expires_at": expires_at}
