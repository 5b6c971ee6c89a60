"""The registry that all ways out share, unless they are given another."""

from __future__ import annotations

import os
import threading

from prometheus_client import CollectorRegistry

from streaming.metrics.collector import Collector

__all__ = ["metrics_registry"]

_lock = threading.Lock()
_registry: CollectorRegistry | None = None


def metrics_registry(registry: CollectorRegistry | None = None) -> CollectorRegistry:
    """A registry that has the families of this library.

    Args:
        registry: yours, such as `prometheus_client.REGISTRY`, to give your own metrics beside these: a `Collector` is
            added unless it has one. None is one of the library's own, the same at each call in a process.
    """
    global _registry
    with _lock:
        if registry is None:
            registry = _registry = CollectorRegistry() if _registry is None else _registry
        if not _has_collector(registry):
            registry.register(Collector())
        return registry


def _has_collector(registry: CollectorRegistry) -> bool:
    # The registry has no public question for what is registered; two collectors would be refused as duplicates.
    return any(isinstance(collector, Collector) for collector in list(registry._collector_to_names))


def _forget_in_child() -> None:
    global _lock, _registry
    _lock, _registry = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
