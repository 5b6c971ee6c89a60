"""Configuration of a source: its settings, checked, from a path, a URL, a mapping or keyword arguments.

A bad value is refused on construction by a `ConfigError` that holds the value; an unknown name is refused with the
nearest valid one. Secrets are masked wherever a setting is printed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, field_serializer, field_validator

from streaming.core.browser_urls import source_url
from streaming.core.config_model import Seconds, Settings, Size, suggest
from streaming.core.globs import Selection, check_globs, selection
from streaming.core.masking import mask_options
from streaming.core.units import GB
from streaming.errors import ConfigError

__all__ = ["SOURCE_ALIASES", "SOURCE_TYPES", "DataSourceConfig", "parse_source", "parse_sources"]

SOURCE_TYPES = {
    "local": "local",
    "file": "local",
    "http": "http",
    "https": "http",
    "memory": "memory",
    "s3": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "hf": "huggingface",
    "huggingface": "huggingface",
}
SOURCE_ALIASES = {"type": "source_type", "path": "path_or_uri", "url": "path_or_uri", "uri": "path_or_uri"}


class DataSourceConfig(Settings):
    """Where objects are and how to reach them.

    `DataSourceConfig(name, source_type, path_or_uri, credentials=None, ...)`; all further settings by name. Printing
    or dumping it (`model_dump`) shows no secret; a pickle of it holds them, for spawned children only.

    Raises:
        ConfigError: a setting or type is unknown, or a value out of range.
    """

    name: str = Field(min_length=1, description="how messages, metrics and data_mapping call this source")
    source_type: str = Field(description="local, http, memory, s3, gcs or huggingface")
    path_or_uri: str = Field(min_length=1, description="the root: a folder, or a URL")
    credentials: dict[str, SecretStr] | None = Field(None, description="names and secrets, all text")
    storage_options: dict[str, Any] = Field(default_factory=dict, description="options of this type of source")
    mirrors: list[DataSourceConfig] = Field(default_factory=list, description="sources that hold the same objects")
    timeout_s: Seconds = Field(60.0, description="the longest a read may take; more than 0 s")
    connect_timeout_s: Seconds = Field(10.0, description="the longest a connect may take; more than 0 s")
    max_object_bytes: Size = Field(
        8 * GB,
        description="a larger object, or one whose values take more, is refused before memory is taken for it; "
        "1 GB for JSON where it is left at 8 GB",
    )
    spool_bytes: Size = Field(
        2 * GB, description="the most temporary disk for objects of a web server that sends no ranges"
    )
    allowed_hosts: tuple[str, ...] | None = Field(
        None,
        description="hosts that redirects and listed URLs may lead to, also as *.example.org; None: all that are not "
        "of the local link",
    )
    listing_timeout_s: Seconds = Field(
        300.0, description="the longest a listing may go on without another object; more than 0 s"
    )
    max_listing_page_bytes: Size = Field(
        64_000_000, description="a larger page of a listing, or index file, is refused before memory is taken for it"
    )
    max_listing_entries: int = Field(
        20_000_000, ge=1, description="a listing that names more objects and folders is refused"
    )
    max_listing_depth: int = Field(32, ge=1, description="a listing whose folders nest deeper is refused")
    engine: str | None = Field(None, description="the client library; None: the fastest for this type")
    include: tuple[str, ...] = Field((), description="globs, of which an object must match one to be part of a sample")
    exclude: tuple[str, ...] = Field((), description="globs of objects that are not part of any sample")

    def __init__(
        self,
        name: str,
        source_type: str,
        path_or_uri: str | os.PathLike[str],
        credentials: Mapping[str, str | SecretStr] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            name=name, source_type=source_type, path_or_uri=path_or_uri, credentials=credentials, **options
        )

    @field_validator("source_type", mode="before")
    @classmethod
    def _known_type(cls, value: object) -> str:
        kind = str(value).lower()
        if kind not in SOURCE_TYPES:
            raise ConfigError(f"no such type of source, {suggest(kind, SOURCE_TYPES)}")
        return SOURCE_TYPES[kind]

    @field_validator("path_or_uri", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    @field_validator("path_or_uri")
    @classmethod
    def _fits_type(cls, value: str, info: Any) -> str:
        kind, scheme = info.data.get("source_type"), _scheme(value)
        if "\0" in value:
            raise ConfigError("a root must not contain NUL")
        if kind == "local":
            return _local_path(value)
        if kind == "http" and (scheme not in ("http", "https") or not urlsplit(value).hostname):
            raise ConfigError("a source of type http needs a URL like http://host/folder/")
        if kind == "http" and (place := source_url(value)):
            raise ConfigError(f"this is a web page for people; write {place} to read what it shows")
        return value

    @field_validator("mirrors", mode="before")
    @classmethod
    def _parse_mirrors(cls, value: object) -> object:
        return parse_sources(value) if isinstance(value, list | tuple) else value

    @field_validator("mirrors")
    @classmethod
    def _has_no_globs(cls, value: list[DataSourceConfig]) -> list[DataSourceConfig]:
        if any(mirror.selection for mirror in value):
            raise ConfigError("include and exclude belong to the source and apply to its mirrors too: set them there")
        return value

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _parse_hosts(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("include", "exclude", mode="before")
    @classmethod
    def _parse_globs(cls, value: object) -> tuple[str, ...]:
        return check_globs(value)

    @classmethod
    def from_url(cls, url: str | os.PathLike[str], name: str | None = None) -> DataSourceConfig:
        """Return the configuration for a folder, or a `file:`, `http:`, `https:`, `s3:`, `gs:`, `hf:` or `memory:` URL.

        Args:
            name: name of the source; None: the last component of the path, or the host.
        """
        text = os.fspath(url)
        return cls(name or _last_component(text), _scheme(text) or "local", text)

    @property
    def selection(self) -> Selection | None:
        """Function that says why `include` and `exclude` leave a path out; None if neither is set."""
        return selection(self.include, self.exclude)

    @property
    def shown_uri(self) -> str:
        """The root for messages: without login and secret query values."""
        return str(mask_options(self.path_or_uri))

    @field_serializer("path_or_uri", "storage_options")
    def _without_secrets(self, value: Any) -> Any:
        return mask_options(value)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        masked = {"path_or_uri": self.shown_uri, "storage_options": mask_options(self.storage_options)}
        for name, value in super().__repr_args__():
            yield name, masked.get(name or "", value)


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower() if "://" in url else ""


def _local_path(value: str) -> str:
    scheme = _scheme(value)
    if not scheme:
        return os.path.expanduser(value)
    parts = urlsplit(value)
    if scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path:
        raise ConfigError("a source of type local needs a path, or a URL like file:///folder")
    return unquote(parts.path)


def _last_component(url: str) -> str:
    if not _scheme(url):
        return os.path.basename(os.path.abspath(url)) or "local"
    parts = urlsplit(url)
    return unquote(parts.path).rstrip("/").rpartition("/")[2] or parts.hostname or _scheme(url)


def parse_source(value: DataSourceConfig | Mapping[str, Any] | str | os.PathLike[str]) -> DataSourceConfig:
    """Return a source's configuration from a configuration, a mapping of its settings, a path or a URL.

    A mapping may use `type`, and `path`, `url` or `uri`, for the long names; without a type or a name, the path
    determines them.

    Raises:
        ConfigError: the value is anything else, a setting is unknown, or a value out of range.
    """
    if isinstance(value, DataSourceConfig):
        return value
    if isinstance(value, str | os.PathLike):
        return DataSourceConfig.from_url(value)
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"a source must be a path, a URL, a mapping or a DataSourceConfig, not {type(value).__name__}"
        )
    settings = _long_names(value)
    root = settings.get("path_or_uri")
    if not isinstance(root, str | os.PathLike) or not os.fspath(root):
        raise ConfigError(
            f"the source {settings.get('name', '')!r} has no path: set path, url or path_or_uri to a text"
        )
    settings["source_type"] = settings.get("source_type") or _scheme(os.fspath(root)) or "local"
    settings["name"] = settings.get("name") or _last_component(os.fspath(root))
    return DataSourceConfig(**settings)


def _long_names(value: Mapping[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for key, item in value.items():
        name = SOURCE_ALIASES.get(key, key)
        if name not in DataSourceConfig.model_fields:
            known = [*DataSourceConfig.model_fields, *SOURCE_ALIASES]
            raise ConfigError(f"unknown setting {key!r} of a source: {suggest(key, known)}")
        if name in settings:
            raise ConfigError(f"{name} of a source is given twice, once as {key!r}: keep one")
        settings[name] = item
    return settings


def parse_sources(items: Sequence[Any]) -> list[Any]:
    """Parse several sources; ready-made `DataSource` objects are returned unchanged.

    Raises:
        ConfigError: see `parse_source`; the message says which source.
    """
    return [_parse_numbered(item, f"source {number} of {len(items)}") for number, item in enumerate(items, 1)]


def _parse_numbered(item: Any, number: str) -> Any:
    if hasattr(item, "iter_files"):
        return item  # a DataSource, whose class is defined above this layer
    try:
        return parse_source(item)
    except ConfigError as exc:
        name = item.get("name") if isinstance(item, Mapping) else None
        raise ConfigError(f"{number}{f' ({name!r})' if name else ''}: {exc}") from exc
