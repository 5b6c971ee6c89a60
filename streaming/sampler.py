"""`StreamingSampler`: one rank's part of the order of the whole run, announced before it is needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch.utils.data import Sampler

from streaming.batching import Plan
from streaming.errors import ConfigError
from streaming.order import Order, Sequential, Shuffled
from streaming.progress import Progress
from streaming.ranks import check_group, rank_and_world

__all__ = ["Batching", "StreamingSampler", "order_of"]

HORIZON = 8192
"""Samples announced and not yet drawn; twice the deepest read-ahead."""

_CHUNK = 1024  # units computed at once: 64 cost 55 us, 1,024 some 80 us
_PLANNED_CHUNK = 64  # units of several samples


class Batching(Protocol):
    """What groups samples: `streaming.batching.TokenBatches` and `Packing`."""

    def over(self, order: Order) -> Plan:
        """The groups of an order, which are its units."""


class StreamingSampler(Sampler[Any]):
    """Yields the samples of one rank, in an order that is a pure function of seed and epoch.

    Rank r of w yields the units p + r, p + r + w, ... from position p, so that batches of b samples on each rank are
    together the next b * w units of one global order, whatever b and w are. All ranks yield equally many: the last
    units are dropped, or the first of the epoch follow them (at most w - 1).

    Use it in place of torch's samplers, `DataLoader(adapter, sampler=StreamingSampler(adapter))`; a
    `StreamingDataLoader` makes its own. Where `data_source` can `announce` (a `StreamingDatasetAdapter`), what comes
    next is read ahead, over the end of the epoch too.

    Args:
        data_source: the data set, or how many samples it has.
        shuffle: each epoch in an order of its own, or always from first to last.
        seed: of the order; None is the data set's own, or 0.
        order: an order to use in place of `shuffle` and `seed`, such as a `Mixture`.
        batching: groups samples into units; the sampler then yields lists of samples.
        rank, world_size: see `streaming.ranks.rank_and_world`.
        drop_last: drop the last units where they do not suffice for all ranks.

    Attributes:
        order: the order of the samples.
        rank, world_size: as found.

    Raises:
        ConfigError: fewer units than ranks, or settings that cannot be used.
    """

    def __init__(
        self,
        data_source: Any,
        *,
        shuffle: bool = True,
        seed: int | None = None,
        order: Order | None = None,
        batching: Batching | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = False,
    ) -> None:
        self.order = order_of(data_source, shuffle, seed) if order is None else order
        _check_order(self.order, data_source)
        self.plan = None if batching is None else batching.over(self.order)
        self.rank, self.world_size = rank_and_world(rank, world_size)
        self._is_told = rank is not None
        self.drop_last = drop_last
        self._planned = {} if self.plan is None else self.plan.settings()
        self._fingerprint = getattr(data_source, "fingerprint", None)
        self.progress = Progress(self.settings)
        self._ahead = _Ahead(self._chunks, data_source)
        if self.units(0) < self.world_size:
            raise ConfigError(
                f"{self.units(0)} samples or groups of samples are too few for {self.world_size} ranks: each needs one"
            )

    def settings(self, epoch: int, position: int) -> dict[str, Any]:
        """What the order before this position depends on: a later change of a mixture's weights makes no difference."""
        before = epoch * self.order.n + (position if self.plan is None else self.order.n if position else 0)
        return {**self.order.settings(before), **self._planned, "fingerprint": self._fingerprint}

    def units(self, epoch: int) -> int:
        """How many units the epoch has, over all ranks: samples, or the groups that `batching` makes."""
        return self.order.n if self.plan is None else self.plan.units(epoch)

    def left(self, epoch: int, position: int) -> int:
        """How many units each rank yields from a position to the end of the epoch."""
        rest = max(self.units(epoch) - position, 0)
        return rest // self.world_size if self.drop_last else -(-rest // self.world_size)

    @property
    def epoch(self) -> int:
        """The one under way, or that comes next: from the unit on that ends epoch e it is e + 1."""
        return self.progress.epoch

    def __len__(self) -> int:
        return self.left(self.progress.epoch, 0)

    def __iter__(self) -> Iterator[Any]:
        if not self._is_told:
            check_group(self.rank, self.world_size)
        progress = self.progress
        epoch, position = progress.begin()
        left = self.left(epoch, position)
        if not left:
            progress.finish()
            return
        for units in self._ahead.chunks(epoch, position):
            for unit in units:
                left -= 1
                if left:
                    progress.position += self.world_size
                else:
                    progress.finish()
                yield unit

    def _chunks(self, epoch: int, position: int) -> Iterator[_Chunk]:
        """This rank's units from a position on, over the end of the epoch into the next, without end."""
        while True:
            begin = position
            left = self.left(epoch, position)
            while left:
                count = min(left, _CHUNK if self.plan is None else _PLANNED_CHUNK)
                left -= count
                yield self._chunk(epoch, begin, position, count, is_last=not left)
                begin = position = position + count * self.world_size
            epoch, position = epoch + 1, 0

    def _chunk(self, epoch: int, begin: int, position: int, count: int, *, is_last: bool) -> _Chunk:
        n = self.units(epoch)
        numbers = np.arange(position + self.rank, position + count * self.world_size, self.world_size)
        stop = min(int(numbers[-1]) + 1, n)
        start = min(int(numbers[0]), stop)
        wrapped = int(np.count_nonzero(numbers >= n))  # at the end of the epoch some ranks begin it anew
        units = self._read(epoch, start, stop)
        if wrapped:
            units += [unit for number in numbers[-wrapped:] % n for unit in self._read(epoch, number, number + 1)]
        return _Chunk((epoch, begin), units, is_last)

    def _read(self, epoch: int, start: int, stop: int) -> list[Any]:
        """Every `world_size`-th unit of a range."""
        if self.plan is None:
            samples: list[Any] = self.order.samples(epoch, start, stop)[:: self.world_size].tolist()
            return samples
        return [unit.tolist() for unit in self.plan.read(epoch, start, stop)[:: self.world_size]]

    # -- state

    def set_epoch(self, epoch: int) -> None:
        """Begin this epoch next; if it is the one under way, or the one of a loaded state, nothing changes."""
        self.progress.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the run is, counted as units are drawn: JSON, valid for any `world_size` and batch size.

        A loader that draws ahead of its trainer must save the state of the batch that it gave away last, as
        `StreamingDataLoader` and torchdata's `StatefulDataLoader` do.
        """
        return self.progress.state_dict()

    def load_state_dict(self, state: Mapping[str, Any] | str | bytes) -> None:
        """Go on from a state with the next iteration.

        Raises:
            StateError: if it is damaged, of another version, or of another run; says what differs.
        """
        self.progress.load_state_dict(state)


class _Chunk(NamedTuple):
    begin: tuple[int, int]  # epoch and position of its first unit
    units: list[Any]
    is_last: bool  # of its epoch


class _Ahead:
    """Chunks that are drawn one by one and announced long before.

    Args:
        chunks: `chunks(epoch, position)` gives the chunks from there, without end.
        data_source: told of what is coming, where it has `announce` and `forget`.
    """

    def __init__(self, chunks: Callable[[int, int], Iterator[_Chunk]], data_source: Any) -> None:
        self._chunks = chunks
        self._announce: Callable[[list[int], object], None] | None = getattr(data_source, "announce", None)
        self._forget: Callable[[object], None] | None = getattr(data_source, "forget", None)
        self._pending: deque[_Chunk] = deque()
        self._announced = 0  # samples in what is pending
        self._coming: Iterator[_Chunk] = iter(())

    def chunks(self, epoch: int, position: int) -> Iterator[list[Any]]:
        """The units of an epoch from a position on."""
        if not self._pending or self._pending[0].begin != (epoch, position):
            self._drop()
            self._coming = self._chunks(epoch, position)
        is_over = False
        try:
            while not is_over:
                if not self._pending:
                    self._draw()
                chunk = self._pending.popleft()
                self._announced -= _count(chunk.units)
                if self._announce is not None:
                    self._reach(epoch)
                yield chunk.units
                is_over = chunk.is_last
        finally:
            if not is_over:  # the trainer left in the middle
                self._drop()

    def _reach(self, epoch: int) -> None:
        """Announce up to half the horizon, and at most to the end of the next epoch."""
        while self._announced < HORIZON // 2:
            if self._pending and self._pending[-1].is_last and self._pending[-1].begin[0] > epoch:
                return
            self._draw()

    def _draw(self) -> None:
        chunk = next(self._coming)
        self._pending.append(chunk)
        self._announced += _count(chunk.units)
        if self._announce is not None:
            self._announce(_samples(chunk.units), self)

    def _drop(self) -> None:
        self._pending.clear()
        self._announced = 0
        if self._forget is not None:
            self._forget(self)


def order_of(data_source: Any, shuffle: bool, seed: int | None) -> Order:
    """The order of a data set: its own, where it has one (`MixedDataset`), else of its numbers."""
    own: Order | None = getattr(data_source, "order", None)
    if own is not None:
        if seed is not None:
            raise ConfigError(f"seed={seed} is given and the data set has an order of its own: give the seed to that")
        return own
    n = data_source if isinstance(data_source, int) else len(data_source)
    return Shuffled(n, getattr(data_source, "seed", 0) if seed is None else seed) if shuffle else Sequential(n)


def _check_order(order: Order, data_source: Any) -> None:
    n = data_source if isinstance(data_source, int) else len(data_source)
    if order.size != n:
        raise ConfigError(f"the order is of {order.size} samples and the data set has {n}: make it for this data set")


def _count(units: list[Any]) -> int:
    return sum(map(len, units)) if units and isinstance(units[0], list) else len(units)


def _samples(units: list[Any]) -> list[int]:
    return [sample for unit in units for sample in unit] if units and isinstance(units[0], list) else units
