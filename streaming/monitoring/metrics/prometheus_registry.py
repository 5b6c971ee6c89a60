"""The registry that all exporters share, unless they are given another."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref

from prometheus_client import CollectorRegistry

from streaming.monitoring.metrics.collector import Collector

__all__ = ["metrics_registry"]

_lock = threading.Lock()
_registry: CollectorRegistry | None = None
_known: weakref.WeakSet[CollectorRegistry] = weakref.WeakSet()


def metrics_registry(registry: CollectorRegistry | None = None) -> CollectorRegistry:
    """Return a registry that has the families of this library.

    Args:
        registry: yours, such as `prometheus_client.REGISTRY`, to export your own metrics along with these: a
            `Collector` is added unless it has one. None is the library's own, the same at each call in a process.
    """
    global _registry
    with _lock:
        if registry is None:
            registry = _registry = CollectorRegistry() if _registry is None else _registry
        if registry not in _known:
            with contextlib.suppress(ValueError):  # the user registered a `Collector`
                registry.register(Collector())
            _known.add(registry)
        return registry


def _forget_in_child() -> None:
    global _lock, _registry
    _lock, _registry = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
