"""Where objects come from. A backend is imported when its first source is made.

`create_data_source` makes a source from a URL, a dict or a configuration; `register_scheme` adds a type of source.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from streaming.sources.base import Blob, DataSource, FileInfo

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig
    from streaming.sources.gcs.source import GCSDataSource
    from streaming.sources.http.source import HTTPDataSource
    from streaming.sources.huggingface.source import HuggingFaceDataSource
    from streaming.sources.local.source import LocalDataSource
    from streaming.sources.memory import MemorySource
    from streaming.sources.s3.source import S3DataSource

__all__ = [
    "Blob",
    "DataSource",
    "DataSourceConfig",
    "FileInfo",
    "GCSDataSource",
    "HTTPDataSource",
    "HuggingFaceDataSource",
    "LocalDataSource",
    "MemorySource",
    "S3DataSource",
    "create_data_source",
    "register_scheme",
]

_HOME_OF = {
    "DataSourceConfig": "streaming.core.source_config",
    "GCSDataSource": "streaming.sources.gcs.source",
    "HTTPDataSource": "streaming.sources.http.source",
    "HuggingFaceDataSource": "streaming.sources.huggingface.source",
    "LocalDataSource": "streaming.sources.local.source",
    "MemorySource": "streaming.sources.memory",
    "S3DataSource": "streaming.sources.s3.source",
}
_CLASS_OF = {
    "local": "LocalDataSource",
    "http": "HTTPDataSource",
    "memory": "MemorySource",
    "s3": "S3DataSource",
    "gcs": "GCSDataSource",
    "huggingface": "HuggingFaceDataSource",
}
_registered: dict[str, Callable[[DataSourceConfig], DataSource]] = {}


def create_data_source(source: DataSourceConfig | dict[str, Any] | str | DataSource) -> DataSource:
    """Make a source from its configuration, a dict of that, or a URL; a source is returned as it is.

    Raises:
        ConfigError: if it is invalid, or there is no such type of source.
    """
    if isinstance(source, DataSource):
        return source
    from streaming.core.source_config import parse_source

    config = parse_source(source)
    if config.source_type in _registered:
        return _registered[config.source_type](config)
    made: DataSource = _load(_CLASS_OF[config.source_type])(config)
    return made


def register_scheme(scheme: str, make: Callable[[DataSourceConfig], DataSource]) -> None:
    """Register `make` to create the sources of URLs `scheme://...` and of the type `scheme`."""
    from streaming.core.source_config import SOURCE_TYPES

    SOURCE_TYPES[scheme] = scheme
    _registered[scheme] = make


def _load(name: str) -> Any:
    return getattr(import_module(_HOME_OF[name]), name)


if not TYPE_CHECKING:  # or type checkers would take any name for one of this package

    def __getattr__(name: str) -> Any:
        """Import a source from the module that defines it."""
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return _load(name)
