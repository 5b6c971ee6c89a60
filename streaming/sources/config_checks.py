"""Checks of a configuration that the backends share."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from streaming.core.config_model import suggest
from streaming.errors import ConfigError

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig

__all__ = ["check_engine_and_options"]


def check_engine_and_options(
    config: DataSourceConfig, backend: str, engines: Collection[str], options: Collection[str]
) -> None:
    """Refuse an engine or a storage option that a backend does not have.

    Raises:
        ConfigError: with the nearest name that it does have.
    """
    if config.engine is not None and config.engine not in engines:
        text = f"engine {config.engine!r} of source {config.name!r} cannot read {backend}"
        raise ConfigError(f"{text}: {suggest(config.engine, engines)}", source=config.name)
    for option in config.storage_options:
        if option not in options:
            text = f"unknown storage option {option!r} of {backend} source {config.name!r}"
            raise ConfigError(f"{text}: {suggest(option, options)}", source=config.name)
