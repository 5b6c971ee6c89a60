"""Parse and check the configuration of an HTTP source."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from streaming.core.masking import mask_secrets
from streaming.errors import ConfigError
from streaming.sources.base import check_path
from streaming.sources.config_checks import check_engine_and_options
from streaming.sources.http.html_listing import path_below
from streaming.sources.proxies import proxy_for

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig

_ENGINES = ("obstore", "aiohttp")
_OPTIONS = ("headers", "index", "urls")
_CREDENTIALS = ({"token"}, {"username", "password"})


@dataclass(frozen=True)
class HTTPAddress:
    """Where an HTTP source reads.

    Attributes:
        root: URL of the folder, percent-encoded, ending in `/`, without login and query.
        query: appended to each URL: empty, or `?` and the root's query.
        headers: sent with requests to the root's host.
        index: URL of the index file, or None.
        urls: URL by path, for URLs in the configuration that are not simply below the root.
        paths: the paths of all URLs in the configuration, sorted; None if it lists none.
    """

    root: str
    query: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    index: str | None = field(repr=False)
    urls: dict[str, str] = field(repr=False)
    paths: list[str] | None

    @property
    def suits_obstore(self) -> bool:
        """Whether obstore may have the headers, although it follows redirects on its own.

        On a redirect it leaves out the login, but no other header. Behind a proxy, `redirect_guard` cannot stop it.
        """
        parts = urlsplit(self.root)
        return {name.lower() for name in self.headers} <= {"authorization"} and (
            proxy_for(parts.scheme, parts.hostname or "") is None
        )

    def url_of(self, path: str) -> str:
        """Return the URL of an object or folder."""
        return self.urls.get(path) or self.root + quote(path, errors="surrogateescape") + self.query


def parse_address(config: DataSourceConfig) -> HTTPAddress:
    """Parse a configuration.

    Raises:
        ConfigError: for an unknown engine, option or credential, or two URLs for one path.
    """
    parts = urlsplit(config.path_or_uri)
    root = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], _encoded_folder(parts.path), "", ""))
    query = f"?{parts.query}" if parts.query else ""
    _check_settings(config, query)
    options = config.storage_options
    login = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
    index = options.get("index")
    paths = None if options.get("urls") is None else _paths_of_urls(options["urls"], root, config.name)
    return HTTPAddress(
        root,
        query,
        {**_authorization(config, login), **options.get("headers", {})},
        None if index is None else _index_url(index, root, query),
        {path: url for path, url in (paths or {}).items() if path_below(url, root) is None},
        None if paths is None else sorted(paths),
    )


def _encoded_folder(path: str) -> str:
    return quote(unquote(path, errors="surrogateescape").removesuffix("/"), errors="surrogateescape") + "/"


def _index_url(index: str, root: str, query: str) -> str:
    return index if "://" in index else root + quote(index, errors="surrogateescape") + query


def _check_settings(config: DataSourceConfig, query: str) -> None:
    check_engine_and_options(config, "HTTP", _ENGINES, _OPTIONS)
    if config.engine == "obstore" and query:
        text = f"source {config.name!r}: obstore cannot send the query of a URL; leave out engine, or set it to aiohttp"
        raise ConfigError(text, source=config.name)
    if "urls" in config.storage_options and "index" in config.storage_options:
        raise ConfigError(f"source {config.name!r} has both urls and index; keep one", source=config.name)
    if config.credentials and set(config.credentials) not in _CREDENTIALS:
        names = ", ".join(sorted(config.credentials))
        text = f"credentials of HTTP source {config.name!r} must be token, or username and password, not: {names}"
        raise ConfigError(text, source=config.name)


def _authorization(config: DataSourceConfig, login: tuple[str, str] | None) -> dict[str, str]:
    secrets = {name: secret.get_secret_value() for name, secret in (config.credentials or {}).items()}
    if "token" in secrets:
        return {"Authorization": f"Bearer {secrets['token']}"}
    if secrets:
        login = secrets["username"], secrets["password"]
    if login is None:
        return {}
    return {"Authorization": "Basic " + b64encode(":".join(login).encode()).decode()}


def _paths_of_urls(urls: Iterable[str], root: str, source: str) -> dict[str, str]:
    """Return the URLs by path: relative to the root for those below it, else the whole path of the URL."""
    found: dict[str, str] = {}
    for given in urls:
        url = given if "://" in given else root + quote(given, errors="surrogateescape")
        parts = urlsplit(url)
        path = path_below(url.partition("?")[0], root) or unquote(parts.path, errors="surrogateescape").lstrip("/")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{mask_secrets(url)!r} in urls of source {source!r} is not an HTTP URL", source=source)
        if found.setdefault(check_path(path), url) != url:
            text = f"two urls of source {source!r} have the path {path!r}; make two sources of them"
            raise ConfigError(text, path=path, source=source)
    return found
