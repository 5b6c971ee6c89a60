"""Parse and check the configuration of an S3 source."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streaming.core.config_model import suggest
from streaming.core.masking import mask_options, mask_secrets
from streaming.errors import ConfigError
from streaming.sources.base import check_path, check_prefix

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig

ENGINES = ("obstore", "aioboto3")
# The names that AWS's own tools use, and those of fsspec's s3fs.
_KEY_NAMES = {
    "aws_access_key_id": "key",
    "access_key_id": "key",
    "key": "key",
    "aws_secret_access_key": "secret",
    "secret_access_key": "secret",
    "secret": "secret",
    "aws_session_token": "token",
    "session_token": "token",
    "token": "token",
}
_OPTIONS = (
    "addressing_style",
    "anon",
    "client_kwargs",
    "config_kwargs",
    "credential_provider",
    "endpoint_url",
    "profile",
    "region",
    "requester_pays",
    "versions",
    *_KEY_NAMES,
)
_ALIASES = {"region_name": "region", "profile_name": "profile"}
_CLIENT_KWARGS = ("endpoint_url", "region_name", *(name for name in _KEY_NAMES if name.startswith("aws_")))
_STYLES = ("auto", "path", "virtual")
# Both become part of a host name, where other characters could name another host.
_BUCKET = re.compile(r"[\w.:$-]+", re.ASCII)
_REGION = re.compile(r"[\w-]+", re.ASCII)


@dataclass(frozen=True)
class Keys:
    """A login by keys; never printed."""

    key: str = field(repr=False)
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class S3Address:
    """Where an S3 source reads, as configured. What is None may come from the environment or a profile.

    Attributes:
        bucket: its name.
        prefix: of the root in the bucket, as keys are written.
        endpoint: URL of the server, or None.
        region: of the bucket, or None.
        path_style: whether the bucket is in the path of a URL and not in its host; None: only with an endpoint.
        anon: whether requests go unsigned.
        requester_pays: whether this login pays for the requests.
        keys: in the configuration, or None.
        profile: the name of a profile in AWS's files, or None.
        provider: returns credentials whenever they are needed, or None.
        versions: the version to read, by path.
    """

    bucket: str
    prefix: str
    endpoint: str | None = field(repr=False)  # may hold a login
    region: str | None
    path_style: bool | None
    anon: bool
    requester_pays: bool
    keys: Keys | None
    profile: str | None
    provider: Callable[[], Any] | None
    versions: dict[str, str]


def parse_address(config: DataSourceConfig) -> S3Address:
    """Parse a configuration.

    Raises:
        ConfigError: for an unknown engine, option or credential, two logins, or a URL without a bucket.
    """
    if config.engine is not None and config.engine not in ENGINES:
        raise _refused(config, f"engine {config.engine!r} cannot read S3: {suggest(config.engine, ENGINES)}")
    bucket, _, prefix = config.path_or_uri.removeprefix("s3://").partition("/")
    if not bucket or "://" in config.path_or_uri.removeprefix("s3://"):
        raise _refused(config, f"{config.shown_uri!r} names no bucket; write s3://bucket/folder")
    if not _BUCKET.fullmatch(bucket):
        raise _refused(config, f"no bucket can be called {mask_secrets(bucket)!r}; write s3://bucket/folder")
    options, given_keys = _options_of(config)
    keys = _keys_of(config, given_keys)
    address = S3Address(
        bucket,
        check_prefix(prefix.strip("/")),
        _text(config, options, "endpoint_url"),
        _text(config, options, "region"),
        _path_style(config, options),
        _flag(config, options, "anon"),
        _flag(config, options, "requester_pays"),
        keys,
        _text(config, options, "profile"),
        options.get("credential_provider"),
        {check_path(path): str(version) for path, version in dict(options.get("versions") or {}).items()},
    )
    if address.provider is not None and not callable(address.provider):
        raise _refused(config, "credential_provider is not a function; give one that returns keys and their expiry")
    logins = {"anon": address.anon, "keys": keys, "profile": address.profile, "credential_provider": address.provider}
    if len(several := [name for name, given in logins.items() if given]) > 1:
        raise _refused(config, f"{' and '.join(several)} are given, which are different logins; keep one")
    return address


def _options_of(config: DataSourceConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the storage options under one name each, and the keys among them."""
    options: dict[str, Any] = {}
    keys: dict[str, Any] = {}
    nested = {"client_kwargs": _CLIENT_KWARGS, "config_kwargs": ("s3",)}
    given = [(name, item, _OPTIONS) for name, item in config.storage_options.items()]
    for outer, known in nested.items():
        inner = config.storage_options.get(outer) or {}
        if not isinstance(inner, Mapping):
            raise _refused(config, f"storage option {outer} must be a mapping, not a {type(inner).__name__}")
        given += [(name, item, known) for name, item in inner.items()]
    for written, item, known in given:
        name = _ALIASES.get(written, written)
        if written not in known and name not in known:
            raise _refused(config, f"unknown storage option {written!r}: {suggest(written, known)}")
        chosen = keys if name in _KEY_NAMES else options
        if item is None or name in nested:
            continue
        if name == "s3":
            name, item = "addressing_style", item.get("addressing_style") if isinstance(item, Mapping) else item
        if name in chosen and chosen[name] != item:
            raise _refused(config, f"storage option {name} is given twice, with two values; keep one")
        chosen[name] = item
    return options, keys


def _keys_of(config: DataSourceConfig, given: Mapping[str, Any]) -> Keys | None:
    secrets = {name: secret.get_secret_value() for name, secret in (config.credentials or {}).items()}
    found: dict[str, str] = {}
    for name, secret in [*secrets.items(), *given.items()]:
        if name not in _KEY_NAMES:
            raise _refused(config, f"unknown credential {name!r}: {suggest(name, _KEY_NAMES)}")
        if found.setdefault(_KEY_NAMES[name], str(secret)) != str(secret):
            raise _refused(config, f"credential {name} is given twice, with two values; keep one")
    if not found:
        return None
    if "key" not in found or "secret" not in found:
        names = "aws_access_key_id and aws_secret_access_key"
        raise _refused(config, f"{names} belong together, and only one of them, or only a token, is given")
    return Keys(found["key"], found["secret"], found.get("token"))


def _path_style(config: DataSourceConfig, options: Mapping[str, Any]) -> bool | None:
    style = options.get("addressing_style", "auto")
    if style not in _STYLES:
        raise _refused(config, f"addressing_style {style!r}: {suggest(style, _STYLES)}")
    return None if style == "auto" else style == "path"


def _text(config: DataSourceConfig, options: Mapping[str, Any], name: str) -> str | None:
    value = options.get(name)
    if value is not None and (not isinstance(value, str) or not value):
        raise _refused(config, f"storage option {name} must be a string, not {mask_options(value)!r}")
    if name == "endpoint_url" and value is not None and not value.startswith(("http://", "https://")):
        text = f"endpoint_url {mask_secrets(value.rpartition('@')[2])!r} is not a URL"
        raise _refused(config, f"{text}; write http://host:port or https://host")
    if name == "region" and value is not None and not _REGION.fullmatch(value):
        raise _refused(config, f"no region can be called {value!r}; write for example us-east-1")
    return value


def _flag(config: DataSourceConfig, options: Mapping[str, Any], name: str) -> bool:
    value = options.get(name, False)
    if not isinstance(value, bool):
        raise _refused(config, f"storage option {name} must be true or false, not {value!r}")
    return value


def _refused(config: DataSourceConfig, text: str) -> ConfigError:
    return ConfigError(f"S3 source {config.name!r}: {text}", source=config.name)
