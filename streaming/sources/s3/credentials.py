"""Endpoint, region and login of an S3 source, from its configuration, the environment and AWS's own files.

The configuration wins over the environment, and that over the profile. botocore reads the files, as it supports their
many forms (assumed roles, SSO, processes); the extra `s3` installs it. A login that is not in the configuration goes
only to Amazon, or to the endpoint that the environment or the profile names: see `ambient_credentials`.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from streaming.core.config_model import suggest
from streaming.core.masking import mask_secrets, remember_secrets
from streaming.errors import AccessDenied, ConfigError, MissingExtra
from streaming.sources.ambient_credentials import AMAZON, may_receive_ambient_credentials
from streaming.sources.s3.address import Keys, S3Address

DEFAULT_REGION = "us-east-1"
PROFILE_LIFE = timedelta(minutes=10)  # botocore renews credentials that expire sooner before it returns them
_NAMES = {
    "key": ("access_key_id", "aws_access_key_id", "AccessKeyId", "access_key", "key"),
    "secret": ("secret_access_key", "aws_secret_access_key", "SecretAccessKey", "secret_key", "secret"),
    "token": ("token", "session_token", "aws_session_token", "SessionToken"),
    "expires_at": ("expires_at", "expiry_time", "Expiration"),
}


@dataclass(frozen=True)
class Connection:
    """An address with every setting filled in.

    Attributes:
        address: with its keys, also if they came from the environment. If `keys`, `provider` and `anon` are all unset,
            the client logs in its own way, such as by the role of the machine.
        session: of botocore, if a profile gives the login.
        endpoint: URL of the server; None: Amazon's own.
        region: to sign for.
        path_style: whether the bucket stands in the path.
    """

    address: S3Address
    session: Any
    endpoint: str | None = field(repr=False)  # may hold a login
    region: str
    path_style: bool


def connection_of(address: S3Address, source: str) -> Connection:
    """Complete an address from the environment and the profile, as they are now.

    Raises:
        AccessDenied: if there are only ambient credentials, and only the configuration names the server.
        ConfigError: if the profile does not exist.
        MissingExtra: if a profile is named and botocore is not installed.
    """
    environ = os.environ
    profile = address.profile or environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE")
    session = _session(profile, source) if profile or _has_files() else None
    settings = dict(session.get_scoped_config()) if session is not None else {}
    named = [environ.get("AWS_ENDPOINT_URL_S3"), environ.get("AWS_ENDPOINT_URL"), settings.get("endpoint_url")]
    endpoint = address.endpoint or next(filter(None, named), None)
    region = address.region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    style = address.path_style
    nested = settings.get("s3")
    if style is None and isinstance(nested, Mapping) and nested.get("addressing_style") in ("path", "virtual"):
        style = nested["addressing_style"] == "path"
    if style is None:
        style = endpoint is not None or "." in address.bucket  # a dot in a host name would not match the certificate
    has_login = address.anon or address.keys or address.provider
    if not has_login and endpoint is not None and not may_receive_ambient_credentials(endpoint, AMAZON, named):
        raise _withheld(endpoint, source)
    if not has_login and not address.profile and (keys := _keys_in(environ)) is not None:
        remember_secrets({"secret": keys.secret, "token": keys.token})
        address, has_login = replace(address, keys=keys), True
    return Connection(
        address, None if has_login else session, endpoint, region or settings.get("region") or DEFAULT_REGION, style
    )


def _withheld(endpoint: str, source: str) -> AccessDenied:
    text = (
        f"source {source!r} has no login of its own, and a login found on this machine is not sent to "
        f"{mask_secrets(endpoint)!r}: it goes to Amazon, or to the endpoint that AWS_ENDPOINT_URL names, over https"
    )
    return AccessDenied(
        f"{text}; give keys in credentials, set AWS_ENDPOINT_URL, or storage_options anon", source=source
    )


def _keys_in(environ: Mapping[str, str]) -> Keys | None:
    key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    return Keys(key, secret, environ.get("AWS_SESSION_TOKEN") or None) if key and secret else None


def _has_files() -> bool:
    paths = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}
    if not any(Path(os.environ.get(name) or default).expanduser().exists() for name, default in paths.items()):
        return False
    import importlib.util

    return importlib.util.find_spec("botocore") is not None


def _session(profile: str | None, source: str) -> Any:
    try:
        import botocore.exceptions
        import botocore.session
    except ImportError as error:
        text = f"profile {profile!r} of source {source!r} is read by botocore: pip install 'aiprod-streaming[s3]'"
        raise MissingExtra(text, source=source) from error
    session = botocore.session.Session(profile=profile)
    try:
        session.get_scoped_config()
    except botocore.exceptions.ProfileNotFound as error:
        known = suggest(profile, session.available_profiles)
        raise ConfigError(f"source {source!r}: there is no profile {profile!r}, {known}", source=source) from error
    except botocore.exceptions.ConfigParseError as error:
        raise ConfigError(
            f"source {source!r}: a file of AWS's settings cannot be read: {error}", source=source
        ) from error
    return session


class ProfileLogin:
    """Gives the credentials of a profile to obstore. botocore renews them when they expire.

    Raises:
        AccessDenied: when made, if the profile has none.
    """

    def __init__(self, session: Any, source: str) -> None:
        self._credentials = session.get_credentials()
        if self._credentials is None:
            name = session.get_config_variable("profile") or "default"
            text = f"profile {name!r} of source {source!r} has no credentials; log in, or set storage_options anon"
            raise AccessDenied(text, source=source)
        self._ends = hasattr(self._credentials, "refresh_needed")

    def __call__(self) -> dict[str, Any]:
        frozen = self._credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + PROFILE_LIFE if self._ends else None,
        }


def normalize_credentials(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return credentials under obstore's names, from those of obstore, boto or STS.

    Raises:
        KeyError: if a key is missing, with obstore's name for it.
    """
    found = {role: next((given[name] for name in names if given.get(name)), None) for role, names in _NAMES.items()}
    for role in ("key", "secret"):
        if not found[role]:
            raise KeyError(_NAMES[role][0])
    ends = found["expires_at"]
    if isinstance(ends, str):
        ends = datetime.fromisoformat(ends)
    if isinstance(ends, datetime) and ends.tzinfo is None:
        ends = ends.replace(tzinfo=UTC)
    return {
        "access_key_id": found["key"],
        "secret_access_key": found["secret"],
        "token": found["token"],
        "expires_at": ends,
    }


def as_async_provider(provider: Callable[[], Any]) -> Callable[[], Awaitable[dict[str, Any]]]:
    """Return an async provider from a user's provider, plain or async."""

    async def ask() -> dict[str, Any]:
        given = await asyncio.to_thread(provider)  # a plain one may block
        return normalize_credentials(await given if inspect.isawaitable(given) else given)

    return ask
