"""Configuration that an index depends on: the sources, `data_mapping`, `rename` and `missing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import xxhash

from streaming.core.adapter_config import DEFAULT_MAPPING, parse_mapping
from streaming.core.masking import mask_secrets

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig
    from streaming.sources.base import DataSource

__all__ = ["configuration", "rules"]


def configuration(
    sources: Sequence[DataSource],
    *,
    data_mapping: Mapping[str, str] | Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    missing: str = "raise",
) -> str:
    """Return a digest of the settings that an index depends on, for `SampleIndex.open(path, expect=...)`."""
    roots = [
        (each.name, each.source_type, mask_secrets(each.path_or_uri), each.include, each.exclude, _etag_engine(each))
        for each in (source.config for source in sources)
    ]
    mapping = parse_mapping(data_mapping)
    keys = list(mapping.items()) if mapping else ("default", DEFAULT_MAPPING)
    rules = [keys, list((rename or {}).items()), missing]
    return xxhash.xxh3_128_hexdigest(repr((roots, rules)).encode("utf-8", "surrogateescape"))


def rules(
    sources: Sequence[DataSource],
    *,
    data_mapping: Mapping[str, str] | Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    missing: str = "raise",
) -> dict[str, Any]:
    """Return the settings in the header of an index: `configuration`, and those that `revalidate` needs."""
    mapping, renamed = parse_mapping(data_mapping), dict(rename or {})
    return {
        "configuration": configuration(sources, data_mapping=mapping, rename=renamed, missing=missing),
        "sources": [source.name for source in sources],
        "data_mapping": mapping,
        "rename": renamed,
        "missing": missing,
    }


def _etag_engine(config: DataSourceConfig) -> str:
    """Return the engine if it has ETags of its own: those of gcsfs differ from obstore's."""
    return "gcsfs" if config.engine == "gcsfs" else ""
