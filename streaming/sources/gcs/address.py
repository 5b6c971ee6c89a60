"""Parse and check the configuration of a GCS source."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from streaming.core.config_model import suggest
from streaming.core.masking import mask_secrets, remember_secrets
from streaming.errors import AccessDenied, ConfigError, InvalidPath, ObjectNotFoundError
from streaming.sources.ambient_credentials import GOOGLE, may_receive_ambient_credentials
from streaming.sources.base import check_prefix
from streaming.sources.config_checks import check_engine_and_options

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig

ENGINES = ("obstore", "gcsfs")
_OPTIONS = ("anon", "endpoint_url", "project", "requester_pays", "token")
_CREDENTIALS = ("service_account_file", "service_account_json", "token")
_NAMED_TOKENS = ("anon", "cloud", "google_default")
_SERVICE_ACCOUNT_FIELDS = ("client_email", "private_key")

_SECRET_FIELDS = ("private_key", "client_secret", "refresh_token")
_AMBIENT_LOGINS = ("google_default", "cloud", "file")  # the configuration only points at them

LoginKind = Literal["default", "anon", "google_default", "cloud", "file", "json", "token"]


@dataclass(frozen=True)
class Login:
    """How to log in.

    Attributes:
        kind: `default` leaves it to the engine; `google_default` is Google's application default credentials; `cloud`
            the account of the machine; `file` and `json` a service account; `token` an access token.
        value: the file's path, the account as JSON text, or the token; never printed.
    """

    kind: LoginKind
    value: str = field(default="", repr=False)

    def account(self, source: str) -> dict[str, Any]:
        """Return the service account, or other kind of credentials file, of `file` and `json`.

        Raises:
            ConfigError: if it cannot be read, or is not a key as Google's console creates it.
        """
        what = f"service account of source {source!r}"
        if self.kind == "file":
            what = f"credentials file {self.value!r} of source {source!r}"
        try:
            text = Path(self.value).read_text(encoding="utf-8") if self.kind == "file" else self.value
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ConfigError(f"the {what} cannot be read: {reason}; check its path", source=source) from error
        try:
            account = json.loads(text)
        except ValueError:  # not chained: its text is the secret
            account = None
        if not isinstance(account, dict) or not isinstance(account.get("type", "service_account"), str):
            raise ConfigError(f"the {what} is not a JSON object; download the key again", source=source)
        if account.get("type", "service_account") == "service_account":
            for name in _SERVICE_ACCOUNT_FIELDS:
                if not isinstance(account.get(name), str):
                    raise ConfigError(f"the {what} has no {name!r}; download the key again", source=source)
        remember_secrets({name: account.get(name) for name in _SECRET_FIELDS})
        return account


@dataclass(frozen=True)
class GCSAddress:
    """Where a GCS source reads, and how it logs in.

    Attributes:
        bucket: its name.
        prefix: of the name of each object: empty, or a folder that ends in `/`.
        login: how to log in.
        endpoint: URL of the server without a final slash; None: Google's own.
        user_project: the project that pays for requests to a requester-pays bucket; None: the bucket's owner pays.
    """

    bucket: str
    prefix: str
    login: Login
    endpoint: str | None = field(repr=False)  # may hold a login
    user_project: str | None


def parse_address(config: DataSourceConfig) -> GCSAddress:
    """Parse a configuration; settings that it leaves out come from the environment as it is now.

    Raises:
        ConfigError: for an unknown engine, option or credential, a URL without a bucket, settings that contradict, or a
            login of this machine for a server that may not get it.
    """
    check_engine_and_options(config, "GCS", ENGINES, _OPTIONS)
    bucket, prefix = _root(config)
    explicit = _explicit_login(config)
    endpoint, is_emulator = _endpoint(config)
    is_trusted = endpoint is None or may_receive_ambient_credentials(
        endpoint, GOOGLE, [os.environ.get("STORAGE_EMULATOR_HOST")]
    )
    if explicit is not None and explicit.kind in _AMBIENT_LOGINS and not is_trusted:
        text = (
            f"the login of source {config.name!r} was found on this machine, and is not sent to "
            f"{mask_secrets(str(endpoint))!r}: it goes to Google, or to the server that STORAGE_EMULATOR_HOST names, "
            "over https"
        )
        raise ConfigError(f"{text}; give service_account_json or token in credentials, or anon", source=config.name)
    login = explicit or Login("anon" if is_emulator or not is_trusted else "default")
    if login.kind != "anon" and "@" in (endpoint or ""):
        text = (
            f"source {config.name!r} has a login in its endpoint_url and another in its settings; keep one, or set anon"
        )
        raise ConfigError(text, source=config.name)
    return GCSAddress(bucket, prefix, login, endpoint, _user_project(config))


def _root(config: DataSourceConfig) -> tuple[str, str]:
    scheme, mark, rest = config.path_or_uri.rpartition("://")
    bucket, _, prefix = rest.partition("/")
    if (mark and scheme.lower() not in ("gs", "gcs")) or not bucket:
        text = f"{config.shown_uri!r} of source {config.name!r} names no bucket; write gs://bucket/prefix"
        raise ConfigError(text, source=config.name)
    prefix = prefix.strip("/")
    try:
        check_prefix(prefix)
    except InvalidPath as error:
        raise ConfigError(f"root of source {config.name!r}: {error}", source=config.name) from error
    return bucket, f"{prefix}/" if prefix else ""


def _explicit_login(config: DataSourceConfig) -> Login | None:
    """Return the login in the settings, or None."""
    found = _logins_of_credentials(config) + _logins_of_options(config)
    if len(found) > 1:
        text = f"source {config.name!r} has more than one of credentials, token and anon; keep one"
        raise ConfigError(text, source=config.name)
    return found[0] if found else None


def _logins_of_credentials(config: DataSourceConfig) -> list[Login]:
    kinds: Mapping[str, LoginKind] = dict(zip(_CREDENTIALS, ("file", "json", "token"), strict=True))
    found = []
    for name, secret in (config.credentials or {}).items():
        if name not in kinds:
            text = f"unknown credential {name!r} of GCS source {config.name!r}: {suggest(name, _CREDENTIALS)}"
            raise ConfigError(text, source=config.name)
        found.append(Login(kinds[name], secret.get_secret_value()))
        if kinds[name] == "json":
            found[-1].account(config.name)  # refuses invalid JSON
    return found


def _logins_of_options(config: DataSourceConfig) -> list[Login]:
    options = config.storage_options
    anon, token = options.get("anon"), options.get("token")
    if anon not in (None, True, False):
        raise ConfigError(f"anon={anon!r} of source {config.name!r} must be true or false", source=config.name)
    found = [Login("anon")] if anon and token != "anon" else []
    if token is None:
        return found
    login = _login_of_token(token, config.name)
    return [*found, login]


def _login_of_token(token: object, source: str) -> Login:
    """Return the login for a `token` of gcsfs: a name, a path, a service account as a dict, or an access token."""
    if isinstance(token, Mapping):
        login = Login("json", json.dumps(dict(token), default=str))
        login.account(source)
        return login
    if not isinstance(token, str | os.PathLike):
        _refuse_token(source)
    text = os.fspath(token)
    if text in _NAMED_TOKENS:
        return Login(text)  # type: ignore[arg-type]  # the names are kinds
    if text.startswith("ya29."):  # as every access token of Google does
        return Login("token", text)
    if os.sep in text or text.endswith(".json") or os.path.exists(text):
        return Login("file", text)
    _refuse_token(source)


def _refuse_token(source: str) -> NoReturn:
    # Without its value, which may be a secret.
    names = ", ".join(_NAMED_TOKENS)
    text = f"token of GCS source {source!r} must be one of {names}, a file, or a service account as a dict"
    raise ConfigError(f"{text}; give an access token as credentials={{'token': ...}}", source=source)


def _endpoint(config: DataSourceConfig) -> tuple[str | None, bool]:
    """Return the URL of the server, and whether it is an emulator, which needs no login.

    An explicit URL without TLS counts as an emulator.
    """
    given = config.storage_options.get("endpoint_url")
    url = str(given if given is not None else os.environ.get("STORAGE_EMULATOR_HOST", ""))
    if not url or (given is None and url == "default"):  # gcsfs treats it as unset
        return None, False
    if "://" not in url:
        url = f"http://{url}"
    if not url.startswith(("http://", "https://")):
        text = f"endpoint_url of source {config.name!r} is not an HTTP URL; write http://host:port"
        raise ConfigError(text, source=config.name)
    return url.rstrip("/"), given is None or url.startswith("http://")


def _user_project(config: DataSourceConfig) -> str | None:
    pays = config.storage_options.get("requester_pays", False)
    if isinstance(pays, str) or not pays:
        return pays or None
    project = config.storage_options.get("project") or os.environ.get("GOOGLE_CLOUD_PROJECT")
    if not project:
        text = f"requester_pays of source {config.name!r} needs a project that pays: set project in storage_options"
        raise ConfigError(f"{text}, or GOOGLE_CLOUD_PROJECT", source=config.name)
    return str(project)


def no_bucket(address: GCSAddress, source: str) -> ObjectNotFoundError:
    """Return the error for a bucket that does not exist."""
    text = f"bucket {address.bucket!r} of source {source!r} does not exist; check its name and the endpoint"
    return ObjectNotFoundError(text, source=source)


def access_denied(status: int, path: str, source: str, login: Login) -> AccessDenied:
    """Return the error for a refused login, with the next step."""
    if login.kind == "anon":
        message = "without a login; give one in credentials, or check the name: without a login GCS answers the same"
    else:
        message = "with this login; give it the role Storage Object Viewer on the bucket, or check its key and expiry"
    return AccessDenied(f"GCS answered {status} for {path!r} of source {source!r}, {message}", path=path, source=source)
