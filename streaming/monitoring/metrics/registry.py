"""The registry that all ways out share, unless they are given another."""

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
    """A registry that has the families of this library.

    Args:
        registry: yours, such as `prometheus_client.REGISTRY`, to give your own metrics beside these: a `Collector` is
            added unless it has one. None is one of the library's own, the same at each call in a process.
    """
    global _registry
    with _lock:
        if registry is None:
            registry = _registry = CollectorRegistry() if _registry is None else _registry
        if registry not in _known:
            with contextlib.suppress(ValueError):  # the names are there: you registered a `Collector`
                registry.register(Collector())
            _known.add(registry)
        return registry


def _forget_in_child() -> None:
    global _lock, _registry
    _lock, _registry = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
