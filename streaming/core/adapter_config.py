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
"""The keys of parts of these names where `data_mapping` is left out; other parts keep their own names."""


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
        description="{name: key in the sample}, or a list of names; "
        "None: latents are latent_conditions, conditions are text_conditions, other parts keep their names",
    )
    cache_size_gb: float = Field(10.0, gt=0, allow_inf_nan=False, description="the sample cache's budget in 10^9 bytes")
    max_ttl_seconds: Seconds | None = Field(
        None, description="the age that ends an entry, more than 0 s; None: none does"
    )
    prefetch_ahead: int | None = Field(
        None,
        ge=1,
        description="most samples read ahead of the one needed now, or by prefetch_batch and unread; None: adaptive",
    )
    enable_prefetch: bool = Field(True, description="whether to read ahead at all")
    compression_type: Literal["zstd", "none"] = Field("zstd", description="of entries in the cache, where a trial pays")
    missing: Literal["raise", "drop"] = Field("raise", description="what to do with a sample that lacks a part")
    rename: dict[str, str] = Field(
        default_factory=dict, description="{text in a name: its replacement} before matching"
    )
    index_path: Path | None = Field(None, description="where the index is saved; None: it is built at each start")
    index_is_shared: bool = Field(
        False, description="whether an index_path that other users own or may write is trusted; else it is built again"
    )
    refresh: Literal["background", "always", "never"] = Field(
        "background",
        description="when what is saved at index_path is compared with the sources: after the start, at it, or not",
    )
    policy: Literal["auto", "lru", "retain"] = Field("auto", description="which entries leave the cache first")
    concurrency: int | None = Field(
        None,
        ge=1,
        description="most samples being read ahead at once; None: 256, from local disk 8 for each of decode_threads",
    )
    decode_threads: int | None = Field(
        None, ge=1, description="threads that decode and run prepare; None: one per processor"
    )
    max_object_bytes: Size = Field(
        8 * GB,
        description="a larger object, or one whose values take more, is refused before memory is taken for it; "
        "1 GB for JSON where it is left at 8 GB",
    )
    resilience: dict[str, Any] | None = Field(
        None, description="{constant: value} for what `streaming.resilience.ResilienceConfig` holds; None: the defaults"
    )
    owner: Literal["thread", "process"] = Field("thread", description="what reads: a thread, or a process of its own")
    seed: int = Field(0, ge=-(2**63), lt=2**63, description="of the order and of the generators that transform gets")
    on_error: Literal["raise", "replace"] = Field("raise", description="what to do with a sample that cannot be read")
    quarantine_path: Path | None = Field(None, description="where each replaced sample is noted, a line of JSON each")
    max_bad_share: float = Field(0.01, ge=0, le=1, description="the run stops when more samples had to be replaced")
    name: str = Field("data", min_length=1, description="what metrics and dashboards call this data set")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**_with_cache_size(settings))

    @classmethod
    def setting_names(cls) -> list[str]:
        """The names that this model knows, `cache_size` among them."""
        return [*cls.model_fields, "cache_size"]

    def replace(self, **changes: Any) -> AdapterConfig:
        """A copy with some settings changed, checked as new ones are."""
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
