"""The data sets and loaders of this process that have numbers for metrics, as long as somebody holds them."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import weakref
from collections.abc import Callable
from operator import itemgetter
from typing import Protocol, TypeVar

from streaming.errors import StreamingError
from streaming.telemetry.counters import MetricsSnapshot

__all__ = ["add_adapter", "add_loader", "closed", "live_adapters", "live_loaders", "on_close"]


class Adapter(Protocol):
    """A data set."""

    @property
    def name(self) -> str:
        """The value of the label `dataset`."""

    @property
    def reports_metrics(self) -> bool:
        """Whether it is open, and what it reads is not counted by another process."""

    def metrics_snapshot(self) -> MetricsSnapshot:
        """The numbers of this moment as metrics, without that label."""


class Loader(Protocol):
    """What keeps account of the steps of a trainer."""

    @property
    def dataset_name(self) -> str:
        """The value of the label `dataset`."""

    def metrics_snapshot(self) -> MetricsSnapshot:
        """The numbers of this moment as metrics, without that label."""


T = TypeVar("T")

_numbers = itertools.count()
_adapters: weakref.WeakKeyDictionary[Adapter, int] = weakref.WeakKeyDictionary()
_loaders: weakref.WeakKeyDictionary[Loader, int] = weakref.WeakKeyDictionary()
_on_close: list[Callable[[str, MetricsSnapshot], None]] = []
_changing = threading.Lock()


def add_adapter(adapter: Adapter) -> None:
    """Let metrics tell what it reads."""
    with _changing:
        _adapters[adapter] = next(_numbers)


def add_loader(loader: Loader) -> None:
    """Let metrics tell of its steps."""
    with _changing:
        _loaders[loader] = next(_numbers)


def live_adapters() -> list[Adapter]:
    """Those that have numbers of their own, the oldest first."""
    return [adapter for adapter in _oldest_first(_adapters) if adapter.reports_metrics]


def live_loaders() -> list[Loader]:
    """All of them, the oldest first."""
    return _oldest_first(_loaders)


def on_close(tell: Callable[[str, MetricsSnapshot], None]) -> Callable[[], None]:
    """Call `tell(name, last reading)` whenever an adapter is closed; until the function returned here is called."""
    _on_close.append(tell)
    return lambda: _on_close.remove(tell) if tell in _on_close else None


def closed(name: str, read: Callable[[], MetricsSnapshot]) -> None:
    """An adapter of this name is about to close, and `read` gives its last reading."""
    if _on_close:
        with contextlib.suppress(StreamingError):  # a process that has ended says nothing any more
            reading = read()
            for tell in (*_on_close,):
                tell(name, reading)


def _oldest_first(known: weakref.WeakKeyDictionary[T, int]) -> list[T]:
    with _changing:
        found = list(known.items())
    return [each for each, _ in sorted(found, key=itemgetter(1))]


def _begin_anew() -> None:
    """In a forked child: the steps of its parent's loaders are counted there, and no other thread holds the lock."""
    global _changing
    _changing = threading.Lock()
    _loaders.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
