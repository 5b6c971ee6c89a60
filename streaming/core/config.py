"""What YAML, dicts and keyword arguments become: checked, frozen settings.

Sizes are written "8GB" (10^9 bytes) or "8GiB" (2^30), times "250ms", "10m" or "1h30m". A bad value is refused on
construction by a `ConfigError` that holds the value; an unknown name is refused with the nearest valid one. Secrets are
masked wherever a setting is printed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BeforeValidator, Field, SecretStr, field_serializer, field_validator

from streaming.core.browser_urls import source_url
from streaming.core.config_model import Settings, is_near, suggest
from streaming.core.globs import Selection, check_globs, selection
from streaming.core.masking import mask_options, mask_secrets
from streaming.core.units import GB, parse_duration, parse_size
from streaming.errors import ConfigError

__all__ = [
    "DEFAULT_MAPPING",
    "AdapterConfig",
    "DataSourceConfig",
    "is_near",
    "load_config",
    "mask_secrets",
    "parse_duration",
    "parse_mapping",
    "parse_size",
    "parse_source",
    "suggest",
]

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
DEFAULT_MAPPING = {"latents": "latent_conditions", "conditions": "text_conditions"}
"""The keys of parts of these names where `data_mapping` is left out; other parts keep their own names."""

SOURCE_ALIASES = {"type": "source_type", "path": "path_or_uri", "url": "path_or_uri", "uri": "path_or_uri"}


def parse_mapping(value: Mapping[str, str] | Sequence[str] | None) -> dict[str, str] | None:
    """`{name: key in the sample}` from such a mapping, or from a list of names that are their own keys.

    Raises:
        ConfigError: if it is empty, names one thing twice, uses the reserved key ``idx``, or is no mapping at all.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        if isinstance(value, str) or len(set(value)) < len(value):
            raise ConfigError(f"data_mapping={value!r}: give {{name: key in the sample}} or a list of different names")
        value = {name: name for name in value}
    keys = list(value.values())
    if not keys or not all(isinstance(text, str) and text for text in [*value, *keys]):
        raise ConfigError(f"data_mapping={dict(value)!r}: give at least one name and its key, both as text")
    if len(set(keys)) < len(keys) or "idx" in keys:
        raise ConfigError(
            f"data_mapping={dict(value)!r}: the keys must differ, and 'idx' is taken by the sample's number"
        )
    return dict(value)


_Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
_Seconds = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]


class DataSourceConfig(Settings):
    """Where objects lie and how to reach them.

    `DataSourceConfig(name, source_type, path_or_uri, credentials=None, ...)`; all further settings by name. Printing
    or dumping it (`model_dump`) shows no secret; a pickle of it holds them, for spawned children only.

    Raises:
        ConfigError: for an unknown setting or type, or a value out of range.
    """

    name: str = Field(min_length=1, description="how messages, metrics and data_mapping call this source")
    source_type: str = Field(description="local, http, memory, s3, gcs or huggingface")
    path_or_uri: str = Field(min_length=1, description="the root: a folder, or a URL")
    credentials: dict[str, SecretStr] | None = Field(None, description="names and secrets, all text")
    storage_options: dict[str, Any] = Field(default_factory=dict, description="options of this type of source")
    mirrors: list[DataSourceConfig] = Field(default_factory=list, description="sources that hold the same objects")
    timeout_s: _Seconds = Field(60.0, description="the longest a read may take; more than 0 s")
    connect_timeout_s: _Seconds = Field(10.0, description="the longest a connect may take; more than 0 s")
    max_object_bytes: _Size = Field(
        8 * GB,
        description="a larger object, or one whose values take more, is refused before memory is taken for it; "
        "1 GB for JSON where it is left at 8 GB",
    )
    spool_bytes: _Size = Field(
        2 * GB, description="the most temporary disk for objects of a web server that sends no ranges"
    )
    allowed_hosts: tuple[str, ...] | None = Field(
        None,
        description="hosts that redirects and listed URLs may lead to, also as *.example.org; None: all that are not "
        "of the local link",
    )
    listing_timeout_s: _Seconds = Field(
        300.0, description="the longest a listing may go on without another object; more than 0 s"
    )
    max_listing_page_bytes: _Size = Field(
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
            raise ConfigError("a root has no NUL in it")
        if kind == "local":
            return _local_path(value)
        if kind == "http" and (scheme not in ("http", "https") or not urlsplit(value).hostname):
            raise ConfigError("a source of type http needs a URL like http://host/folder/")
        if kind == "http" and (place := source_url(value)):
            raise ConfigError(f"this is a page for people; write {place} to read what it shows")
        return value

    @field_validator("mirrors", mode="before")
    @classmethod
    def _parse_mirrors(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            return value
        return [_parse_one(item, number, len(value)) for number, item in enumerate(value, 1)]

    @field_validator("mirrors")
    @classmethod
    def _has_no_globs(cls, value: list[DataSourceConfig]) -> list[DataSourceConfig]:
        if any(mirror.selection for mirror in value):
            raise ConfigError("include and exclude belong to the source, and hold for its mirrors too: give them there")
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
        """The configuration for a folder, or a `file:`, `http:`, `https:`, `s3:`, `gs:`, `hf:` or `memory:` URL.

        Args:
            name: how to call it; None: the last component of the path, or the host.
        """
        text = os.fspath(url)
        return cls(name or _last_component(text), _scheme(text) or "local", text)

    @property
    def selection(self) -> Selection | None:
        """Tells why `include` and `exclude` leave a path out; None if they leave nothing out."""
        return selection(self.include, self.exclude)

    @property
    def shown_uri(self) -> str:
        """The root as messages may show it: without user part and secret query values."""
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
    """A source's configuration from such a configuration, a mapping of its settings, a path or a URL.

    A mapping may say `type`, and `path`, `url` or `uri`, for the long names; without a type or a name both follow from
    the path.

    Raises:
        ConfigError: for anything else, an unknown setting, or a value out of range.
    """
    if isinstance(value, DataSourceConfig):
        return value
    if isinstance(value, str | os.PathLike):
        return DataSourceConfig.from_url(value)
    if not isinstance(value, Mapping):
        raise ConfigError(f"a source is a path, a URL, a mapping or a DataSourceConfig, not a {type(value).__name__}")
    settings = _long_names(value)
    root = settings.get("path_or_uri")
    if not isinstance(root, str | os.PathLike) or not os.fspath(root):
        raise ConfigError(f"the source {settings.get('name', '')!r} has no path: give path, url or path_or_uri as text")
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


class AdapterConfig(Settings):
    """Everything a `StreamingDatasetAdapter` is made from; the budget may also be given as `cache_size="8GB"`.

    Raises:
        ConfigError: for an unknown setting or a value out of range.
    """

    sources: list[Any] = Field(
        min_length=1, description="at least one path, URL, mapping, DataSourceConfig or DataSource"
    )
    data_mapping: dict[str, str] | None = Field(
        None,
        description="{name: key in the sample}, or a list of names that are keys too; a name is that of a source or "
        "of a folder under the roots of the sources. None: the folders of .precomputed/, or of a root that has latents "
        "or conditions, or else each source; latents are latent_conditions, conditions are text_conditions, others "
        "keep their names. One source that holds one part gives it to any one name",
    )
    cache_size_gb: float = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        description="hard budget of the sample cache in 10^9 bytes, including what is being read; it is that of the "
        "node, of which each of LOCAL_WORLD_SIZE ranks takes an equal share",
    )
    max_ttl_seconds: _Seconds | None = Field(
        None, description="age at which a cached sample is read again, more than 0 s; None: never"
    )
    prefetch_ahead: int | None = Field(
        None,
        ge=1,
        description="most samples read ahead of the one that is needed now (None: adaptive), and most unread samples "
        "that prefetch_batch has fetched (None: unlimited)",
    )
    enable_prefetch: bool = Field(True, description="whether look_ahead and prefetch_batch read ahead at all")
    compression_type: Literal["zstd", "none"] = Field(
        "zstd", description='"zstd" compresses cached samples where a trial shows that it pays, "none" never'
    )
    missing: Literal["raise", "drop"] = Field(
        "raise", description='a sample that lacks a part: "raise" names it, "drop" leaves it out and counts it'
    )
    rename: dict[str, str] = Field(
        default_factory=dict, description="{text in a name: its replacement} before samples are matched by name"
    )
    index_path: Path | None = Field(
        None, description="where the index is saved, and opened from at the next start; None: it is built at each start"
    )
    index_is_shared: bool = Field(
        False,
        description="whether a saved index is trusted that users other than this one and root own or may write: they "
        "then decide which objects are read; otherwise it is built again, with a warning",
    )
    refresh: Literal["background", "always", "never"] = Field(
        "background",
        description='when a saved index is compared with the sources: "background" opens it at once and reports what '
        'changed soon after, "always" lists at each start and takes the changes over, "never"',
    )
    policy: Literal["auto", "lru", "retain"] = Field(
        "auto",
        description='"retain" keeps a fixed, evenly spread set of samples and streams the rest, "lru" keeps what was '
        'read last, "auto" is "retain" from the first announced order on and "lru" until then',
    )
    concurrency: int | None = Field(
        None,
        ge=1,
        description="most samples being read ahead at once; None is 256, from local disk 8 for each of decode_threads",
    )
    decode_threads: int | None = Field(
        None, ge=1, description="threads that decode and run prepare; None: one per processor"
    )
    max_object_bytes: _Size = Field(
        8 * GB,
        description="a larger object, or one whose values take over 1 MiB more, is refused before memory is taken for "
        "it; left at 8 GB, it is 1 GB for JSON, whose values take 48 times its bytes",
    )
    resilience: dict[str, Any] | None = Field(
        None,
        description="{constant: value} of `streaming.resilience.ResilienceConfig`, such as {'deadline_s': 300}; None: "
        "the defaults",
    )
    owner: Literal["thread", "process"] = Field(
        "thread",
        description='what reads: "thread" is a thread of this process, "process" a child process, for a trainer whose '
        "Python leaves that thread too little time; prepare and the sources are then sent there",
    )
    seed: int = Field(
        0, ge=-(2**63), lt=2**63, description="seed of the order and of the generators that transform gets"
    )
    on_error: Literal["raise", "replace"] = Field(
        "raise",
        description='a sample that is missing, damaged or refused by prepare: "raise" raises at its read, "replace" '
        "gives another, the same on every rank and in every run, and counts it",
    )
    quarantine_path: Path | None = Field(
        None, description="file to which a line of JSON is appended for each replaced sample; None: no file"
    )
    max_bad_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of replaced samples above which, after the tenth, `TooManyBadSamples` is raised",
    )
    name: str = Field(
        "data", min_length=1, description='what metrics and dashboards call this data set, such as "train"'
    )

    def __init__(self, **settings: Any) -> None:
        super().__init__(**_with_cache_size(settings))

    @classmethod
    def setting_names(cls) -> list[str]:
        """The names that this model knows, `cache_size` among them."""
        return [*cls.model_fields, "cache_size"]

    @property
    def cache_bytes(self) -> int:
        """The budget of the sample cache in bytes."""
        return round(self.cache_size_gb * GB)

    def replace(self, **changes: Any) -> AdapterConfig:
        """A copy with some settings changed, checked as new ones are."""
        return AdapterConfig(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})

    @field_validator("sources", mode="before")
    @classmethod
    def _parse_sources(cls, value: object) -> object:
        items: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
        return _unique_names([_parse_one(item, number, len(items)) for number, item in enumerate(items, 1)], items)

    @field_validator("data_mapping", mode="before")
    @classmethod
    def _parse_mapping(cls, value: Any) -> dict[str, str] | None:
        return parse_mapping(value)

    @field_validator("rename", mode="before")
    @classmethod
    def _parse_rename(cls, value: object) -> object:
        return {} if value is None else value


def _parse_one(item: Any, number: int, count: int) -> Any:
    """One of the sources; which one it is stands in the error."""
    if hasattr(item, "iter_files"):
        return item  # a ready-made DataSource, whose class lies higher up than this module
    try:
        return parse_source(item)
    except ConfigError as exc:
        name = item.get("name") if isinstance(item, Mapping) else None
        raise ConfigError(f"source {number} of {count}{f' ({name!r})' if name else ''}: {exc}") from exc


def _with_cache_size(settings: dict[str, Any]) -> dict[str, Any]:
    settings = dict(settings)
    if "cache_size" in settings:
        if "cache_size_gb" in settings:
            raise ConfigError("cache_size and cache_size_gb are both given: keep one")
        size = settings.pop("cache_size")
        try:
            settings["cache_size_gb"] = parse_size(size) / GB
        except ConfigError as exc:
            raise ConfigError(f"cache_size={size!r} cannot be used: {exc}") from exc
    return settings


def _unique_names(sources: list[Any], given: Sequence[object]) -> list[Any]:
    """Number the names that paths and URLs would otherwise share; names that were given stay as they are."""
    taken = {
        source.name for source, value in zip(sources, given, strict=True) if not isinstance(value, str | os.PathLike)
    }
    for place, (source, value) in enumerate(zip(sources, given, strict=True)):
        if isinstance(value, str | os.PathLike):
            names = [source.name, *(f"{source.name}-{number}" for number in range(2, len(sources) + 2))]
            name = next(name for name in names if name not in taken)
            taken.add(name)
            sources[place] = source.model_copy(update={"name": name})
    return sources


def load_config(path_or_dict: AdapterConfig | str | os.PathLike[str] | Mapping[str, Any]) -> AdapterConfig:
    """The adapter's settings from a YAML or JSON file, or from a mapping; settings are returned as they are.

    Raises:
        ConfigError: if the file cannot be read or parsed, or a setting cannot be used; the message names the file.
    """
    if isinstance(path_or_dict, AdapterConfig):
        return path_or_dict
    if isinstance(path_or_dict, Mapping):
        return _adapter_config(path_or_dict)
    path = Path(path_or_dict)
    try:
        return _adapter_config(_parse_file(path))
    except ConfigError as exc:
        raise ConfigError(f"{path}: {exc}", path=str(path)) from exc


def _adapter_config(settings: object) -> AdapterConfig:
    if not isinstance(settings, Mapping):
        raise ConfigError(f"settings are a mapping with at least 'sources', not a {type(settings).__name__}")
    if odd := [key for key in settings if not isinstance(key, str)]:
        raise ConfigError(f"unknown setting {odd[0]!r}: {suggest(odd[0], AdapterConfig.setting_names())}")
    return AdapterConfig(**settings)


def _parse_file(path: Path) -> object:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"cannot be read as a configuration: {exc}") from exc
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except json.JSONDecodeError as exc:
            problem = str(exc)
        except (ValueError, RecursionError) as exc:
            problem = type(exc).__name__
        raise ConfigError(f"is not JSON: {problem}; correct that line")  # not chained: the other holds the whole file
    import yaml  # only a YAML file needs it

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        problem = _problem_of(exc)
    # Not chained: the other quotes the file, secrets included.
    raise ConfigError(f"is not YAML: {problem}; correct that line")


def _problem_of(error: Exception) -> str:
    """What YAML's parser says and where, without the words of the file that it quotes."""
    mark = getattr(error, "problem_mark", None)
    where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    told = str(getattr(error, "problem", None) or type(error).__name__)
    if any(len(word) > 1 and word[0] != "<" for word in re.findall(r"'([^']*)'", told)):
        told = re.sub(r"'.*'", "'...'", told, flags=re.DOTALL)
    return where + told
