"""The sample cache: decoded samples in shared memory, under a hard budget of bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streaming.cache.sample import CacheMetrics, SmartLRUCache

if TYPE_CHECKING:
    from streaming.prefetch.async_prefetcher import AsyncPrefetcher

__all__ = ["AsyncPrefetcher", "CacheMetrics", "SmartLRUCache"]


if not TYPE_CHECKING:  # or type checkers would take any name for one of this package

    def __getattr__(name: str) -> Any:
        if name == "AsyncPrefetcher":  # is in streaming.prefetch; older code imports it from here
            from streaming.prefetch.async_prefetcher import AsyncPrefetcher

            return AsyncPrefetcher
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
