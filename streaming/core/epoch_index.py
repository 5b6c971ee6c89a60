"""The epoch of a read, passed from a sampler through any data set to the adapter.

A random `transform` depends on the epoch in which a sample is read. If the index itself reaches the adapter, it carries
the epoch (`EpochIndex`). If a data set in between makes its own index, as torch's `Subset` does, the epoch is set
around the read instead (`reading_in`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch.utils.data import Dataset

__all__ = ["EpochDataset", "EpochIndex", "epoch_of", "reading_in", "with_epoch"]

_epoch: ContextVar[int | None] = ContextVar("streaming_epoch", default=None)


class EpochIndex(int):
    """Index that carries the epoch in which it is read; otherwise a plain integer.

    Attributes:
        epoch: counted from 0.
    """

    epoch: int

    def __new__(cls, index: int, epoch: int) -> EpochIndex:
        self = super().__new__(cls, index)
        self.epoch = epoch
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return EpochIndex, (int(self), self.epoch)


def with_epoch(item: Any, epoch: int) -> Any:
    """Return what a sampler yields, an index or a list of them, with the epoch in each index."""
    if isinstance(item, list | tuple):
        return [with_epoch(each, epoch) for each in item]
    return EpochIndex(item, epoch) if isinstance(item, int) else item


def epoch_of(index: Any) -> int | None:
    """Return the epoch of a read: that of the index, or of the surrounding `reading_in`; None if neither is known."""
    return index.epoch if isinstance(index, EpochIndex) else _epoch.get()


@contextmanager
def reading_in(epoch: int | None) -> Iterator[None]:
    """Set the epoch of the reads of this thread in the block."""
    token = _epoch.set(epoch)
    try:
        yield
    finally:
        _epoch.reset(token)


class EpochDataset(Dataset[Any]):
    """Reads any data set by indices with or without an epoch, or by lists of them.

    Args:
        dataset: a map-style data set.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getitem__(self, key: Any) -> Any:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Any]) -> list[Any]:
        """Return samples for indices, or lists of samples for lists of indices; all are read at once."""
        is_grouped = bool(keys) and isinstance(keys[0], list | tuple)
        indices = [index for key in keys for index in key] if is_grouped else keys
        with reading_in(epoch_of(indices[0]) if indices else None):
            samples = _read(self._dataset, [int(index) for index in indices])
        if not is_grouped:
            return samples
        rest = iter(samples)
        return [[next(rest) for _ in key] for key in keys]


def _read(dataset: Any, indices: list[int]) -> list[Any]:
    read_many = getattr(dataset, "__getitems__", None)
    samples: list[Any] = [dataset[index] for index in indices] if read_many is None else read_many(indices)
    return samples
