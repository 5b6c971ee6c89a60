"""What all sources of one endpoint share, per event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from streaming.core.source_config import DataSourceConfig
from streaming.resilience.settings import ResilienceConfig
from streaming.resilience.timing import Time

T = TypeVar("T")

_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, Any]] = WeakKeyDictionary()


def endpoint_of(config: DataSourceConfig) -> str:
    """The host that serves a source: an endpoint among its options, else scheme and host (or bucket) of its URL."""
    for option in ("endpoint_url", "endpoint"):
        if value := config.storage_options.get(option):
            return f"{config.source_type}:{urlsplit(str(value)).netloc.rpartition('@')[2] or value}"
    return f"{config.source_type}:{urlsplit(config.path_or_uri).netloc.rpartition('@')[2]}"


def shared(
    make: Callable[[ResilienceConfig, Time], T], config: DataSourceConfig, settings: ResilienceConfig, time: Time
) -> T:
    """The one object of its kind for an endpoint on the running loop, made at the first call."""
    objects = _shared.setdefault(asyncio.get_running_loop(), {})
    key = make, endpoint_of(config), settings, time.now
    if key not in objects:
        objects[key] = make(settings, time)
    found: T = objects[key]
    return found
