"""The concurrency limit and the retry budget that all sources of one host share on one event loop."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from streaming.core.source_config import DataSourceConfig
from streaming.resilience.concurrency_limit import ConcurrencyLimit
from streaming.resilience.context import Context
from streaming.resilience.retry_budget import RetryBudget


class Endpoint(NamedTuple):
    """The limits of one host."""

    limit: ConcurrencyLimit
    budget: RetryBudget


class Endpoints:
    """Owns the endpoints of each event loop; those of a loop end with it."""

    def __init__(self) -> None:
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[object, Endpoint]] = WeakKeyDictionary()

    def of(self, config: DataSourceConfig, context: Context) -> Endpoint:
        """Return the endpoint of a source on the running loop. Sources with other settings or clocks have their own."""
        endpoints = self._by_loop.setdefault(asyncio.get_running_loop(), {})
        key = host_of(config), context.settings, context.clock
        if key not in endpoints:
            endpoints[key] = Endpoint(ConcurrencyLimit(context), RetryBudget(context))
        return endpoints[key]


ENDPOINTS: Final = Endpoints()
"""The endpoints of this process. Sources share them that were made apart, such as those of two adapters."""


def host_of(config: DataSourceConfig) -> str:
    """Return the host that serves a source: the endpoint in its options, or scheme and host (or bucket) of its URL."""
    for option in ("endpoint_url", "endpoint"):
        if value := config.storage_options.get(option):
            return f"{config.source_type}:{urlsplit(str(value)).netloc.rpartition('@')[2] or value}"
    return f"{config.source_type}:{urlsplit(config.path_or_uri).netloc.rpartition('@')[2]}"
