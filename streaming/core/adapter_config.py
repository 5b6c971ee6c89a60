"""Configuration of an adapter: its settings, checked, from YAML, JSON, a mapping or keyword arguments.

Sizes are written "8GB" (10^9 bytes) or "8GiB" (2^30), times "250ms", "10m" or "1h30m". A bad value is refused on
construction by a `ConfigError` that holds the value; an unknown name is refused with the nearest valid one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from streaming.core.config_model import Seconds, Settings, Size, suggest
from streaming.core.source_config import parse_sources
from streaming.core.units import GB, parse_size
from streaming.errors import ConfigError

__all__ = ["DEFAULT_MAPPING", "AdapterConfig", "load_config", "parse_mapping"]

DEFAULT_MAPPING = {"latents": "latent_conditions", "conditions": "text_conditions"}
"""Keys of the parts with these names if `data_mapping` is left out; other parts keep their own names."""


def parse_mapping(value: Mapping[str, str] | Sequence[str] | None) -> dict[str, str] | None:
    """Return `{name: key in the sample}` from such a mapping, or from a list of names that are their own keys.

    Raises:
        ConfigError: the mapping is empty, names something twice, uses the reserved key ``idx``, or is not one.
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


class AdapterConfig(Settings):
    """Everything a `StreamingDatasetAdapter` is made from; the budget may also be given as `cache_size="8GB"`.

    Raises:
        ConfigError: a setting is unknown, or a value out of range.
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
    max_ttl_seconds: Seconds | None = Field(
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
    max_object_bytes: Size = Field(
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
        """Return the names of the settings, including `cache_size`."""
        return [*cls.model_fields, "cache_size"]

    def replace(self, **changes: Any) -> AdapterConfig:
        """Return a checked copy with some settings changed."""
        return AdapterConfig(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})

    @field_validator("sources", mode="before")
    @classmethod
    def _parse_sources(cls, value: object) -> object:
        items: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
        return _unique_names(parse_sources(items), items)

    @field_validator("data_mapping", mode="before")
    @classmethod
    def _parse_mapping(cls, value: Any) -> dict[str, str] | None:
        return parse_mapping(value)

    @field_validator("rename", mode="before")
    @classmethod
    def _parse_rename(cls, value: object) -> object:
        return {} if value is None else value


def _with_cache_size(settings: dict[str, Any]) -> dict[str, Any]:
    settings = dict(settings)
    if "cache_size" in settings:
        if "cache_size_gb" in settings:
            raise ConfigError("cache_size and cache_size_gb are both set: keep one")
        size = settings.pop("cache_size")
        try:
            settings["cache_size_gb"] = parse_size(size) / GB
        except ConfigError as exc:
            raise ConfigError(f"cache_size={size!r} cannot be used: {exc}") from exc
    return settings


def _unique_names(sources: list[Any], given: Sequence[object]) -> list[Any]:
    """Number the names that paths and URLs would share; names that were given do not change."""
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
    """Return the adapter's settings from a YAML or JSON file, or from a mapping; ready settings unchanged.

    Raises:
        ConfigError: the file cannot be read or parsed, or a setting cannot be used; the message names the file.
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
        raise ConfigError(f"settings must be a mapping with at least 'sources', not {type(settings).__name__}")
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
        raise ConfigError(f"is not JSON: {problem}; correct that line")  # not chained: the cause holds the whole file
    import yaml  # only a YAML file needs it

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        problem = _problem_of(exc)
    # Not chained: the cause quotes the file, including secrets.
    raise ConfigError(f"is not YAML: {problem}; correct that line")


def _problem_of(error: Exception) -> str:
    """Return what YAML's parser says and where, without the words of the file that it quotes."""
    mark = getattr(error, "problem_mark", None)
    where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    text = str(getattr(error, "problem", None) or type(error).__name__)
    if any(len(word) > 1 and word[0] != "<" for word in re.findall(r"'([^']*)'", text)):
        text = re.sub(r"'.*'", "'...'", text, flags=re.DOTALL)
    return where + text
