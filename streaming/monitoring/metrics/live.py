"""Whose numbers are collected: the data sets and loaders that are open in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from streaming.monitoring.metrics.totals import MetricsSnapshot
from streaming.telemetry.live import live_adapters, live_loaders, on_close

__all__ = ["Entry", "Live", "Readable", "live_in_process"]


class Readable(Protocol):
    """What tells its numbers; an adapter or a loader. Has to be weakly referable."""

    def metrics_snapshot(self) -> MetricsSnapshot:
        """The numbers of this moment, without the label `dataset`; called in any thread."""


@dataclass(frozen=True)
class Entry:
    """One that is open.

    Attributes:
        name: of its data set; of several with one name the later ones get a number behind it.
        reader: what is read.
        dataset: the object that has the name: entries of one object share its numbered name.
        remains: what can still be read once `reader` is gone; None of a data set, which tells its end.
    """

    name: str
    reader: Readable
    dataset: object
    remains: Readable | None = None


@dataclass(frozen=True)
class Live:
    """Where a collector finds what to read.

    Attributes:
        entries: all that are open at this moment.
        on_close: calls back with the name and the last reading of each data set that closes from then on, until what
            it returns is called.
    """

    entries: Callable[[], Iterable[Entry]]
    on_close: Callable[[Callable[[str, MetricsSnapshot], None]], Callable[[], Any]]


def live_in_process() -> Live:
    """The adapters and loaders of this process."""

    def entries() -> Iterable[Entry]:
        for adapter in live_adapters():
            yield Entry(adapter.name, adapter, adapter)
        loaders: list[Any] = live_loaders()
        for loader in loaders:
            with contextlib.suppress(Exception):  # a user's data set whose `name` fails: it has no numbers
                yield Entry(loader.dataset_name, loader, _dataset_of(loader), loader.stalls)

    return Live(entries, on_close)


def _dataset_of(loader: Any) -> object:
    """What a loader reads, without the view of it that reads groups."""
    dataset = loader.dataset
    return vars(dataset).get("dataset", dataset) if hasattr(dataset, "__dict__") else dataset
