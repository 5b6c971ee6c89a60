"""`StreamingSampler`: one rank's part of the global order, announced before it is needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch.utils.data import DistributedSampler

from streaming.core.epoch_index import with_epoch
from streaming.core.ranks import check_group, rank_and_world
from streaming.errors import ConfigError
from streaming.loader.state import LoaderState
from streaming.order.batching import BatchPlan
from streaming.order.permutation import Order, Sequential, Shuffled
from streaming.prefetch.announce_window import AnnounceWindow
from streaming.prefetch.torch_datasets import announce, counts_reads, draws, fingerprint_of, forget, reads, seed_of

__all__ = ["Batching", "LoaderSampler", "StreamingSampler", "order_of"]

FEWEST = 32
"""Fewest units computed at once."""

_CHUNK = 1024  # units computed at once: 64 cost 55 us, 1,024 some 80 us
_PLANNED_CHUNK = 64  # units of several samples


class Batching(Protocol):
    """Grouping of samples: `streaming.order.batching.TokenBudgetBatching` or `SequencePacking`."""

    def plan(self, order: Order) -> BatchPlan:
        """Return the groups of an order, which are its units."""


class StreamingSampler(DistributedSampler[Any]):
    """Sampler of one rank, in an order that is a pure function of seed and epoch.

    It is a `DistributedSampler` only by type, so that frameworks do not shard a second time.

    Rank r of w yields the units p + r, p + r + w, ... from position p, so that batches of b samples on each rank
    together are the next b * w units of one global order, for any b and w. All ranks yield the same number: the last
    units are dropped, or followed by the first of the epoch (at most w - 1).

    Use it instead of torch's samplers, `DataLoader(adapter, sampler=StreamingSampler(adapter))`; a
    `StreamingDataLoader` makes its own. If `data_source` can `announce` (a `StreamingDatasetAdapter`), the next samples
    are read ahead, also past the end of the epoch.

    Args:
        data_source: the data set, or its number of samples.
        shuffle: whether each epoch has a new order; otherwise samples come from first to last.
        seed: seed of the order; None: the data set's own, or 0.
        order: replaces `shuffle` and `seed`, for example a `Mixture`.
        batching: groups samples into units; the sampler then yields lists of samples.
        rank, world_size: see `streaming.core.ranks.rank_and_world`.
        drop_last: drop the last units if there is not one for each rank.

    Attributes:
        order: the order of the samples.
        rank, world_size: as given or detected.
        draws: whether each index carries the epoch, because samples of the data set may depend on it.

    Raises:
        ConfigError: there are fewer units than ranks, or a setting cannot be used.
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
        self.plan = None if batching is None else batching.plan(self.order)
        self.rank, self.world_size = rank_and_world(rank, world_size)
        self._is_rank_given = rank is not None
        self.drop_last = drop_last
        self._planned = {} if self.plan is None else self.plan.settings()
        self._fingerprint = fingerprint_of(data_source)
        self.progress = LoaderState(self.settings)
        self.dataset, self.num_replicas = data_source, self.world_size  # the names of torch's DistributedSampler
        self.draws = draws(data_source)
        self._window = AnnounceWindow(partial(reads, data_source) if counts_reads(data_source) else None)
        self._ahead: _Ahead | None = None
        self._restored_epoch: int | None = None
        units = self.units(0)
        if not units:
            raise ConfigError("the data set is empty: use one with samples; an adapter's `sources` list its objects")
        if units < self.world_size:
            raise ConfigError(
                f"{units} samples or groups of samples are too few for {self.world_size} ranks: each needs one"
            )

    def settings(self, epoch: int, position: int) -> dict[str, Any]:
        """Return the settings that the order before this position depends on, without later changes of weights."""
        size = self.order.epoch_size
        before = epoch * size + (position if self.plan is None else size if position else 0)
        return {**self.order.settings(before), **self._planned, "fingerprint": self._fingerprint}

    def units(self, epoch: int) -> int:
        """Return the number of units in the epoch, over all ranks: samples, or the groups of `batching`."""
        return self.order.epoch_size if self.plan is None else self.plan.num_groups(epoch)

    def left(self, epoch: int, position: int) -> int:
        """Return the number of units that each rank yields from a position to the end of the epoch."""
        rest = max(self.units(epoch) - position, 0)
        return rest // self.world_size if self.drop_last else -(-rest // self.world_size)

    @property
    def epoch(self) -> int:
        """Epoch under way, or the next one: e + 1 once the last unit of epoch e was drawn."""
        return self.progress.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.set_epoch(epoch)

    def __len__(self) -> int:
        return self.left(self.progress.epoch, 0)

    def __iter__(self) -> Iterator[Any]:
        return _Drawing(self, self._drawn())

    def _drawn(self) -> Generator[Any, None, None]:
        # A pass begins when its first unit is drawn: DataLoader makes two iterators and draws from the second.
        self.check_group()
        if self.progress.left_at is not None and self.progress.epoch == self._restored_epoch:
            self.progress.set_epoch(self._restored_epoch)
            self._restored_epoch = None
        run = self.progress.begin()
        left = self.left(run.epoch, run.position)
        if not left:
            self.progress.finish(run)
            return
        for unit in self.units_from(run.epoch, run.position):
            left -= 1
            if left:
                self.progress.advance(run, self.world_size)
            else:
                self.progress.finish(run)
            yield unit

    def check_group(self) -> None:
        """Compare a detected rank with the default process group, which may have been made since.

        Raises:
            ConfigError: they differ.
        """
        if not self._is_rank_given:
            check_group(self.rank, self.world_size)

    def units_from(self, epoch: int, position: int) -> Iterator[Any]:
        """Yield this rank's units of an epoch from a position on, announced in advance."""
        if not self.left(epoch, position):
            return
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead.begin != (epoch, position):
            if ahead is not None:
                ahead.drop()
            ahead = _Ahead(self._chunks(epoch, position), self.dataset, self._window)
        is_over = False
        try:
            for unit in ahead.units(epoch):
                yield with_epoch(unit, epoch) if self.draws else unit
            is_over = True
        finally:
            if is_over and self._ahead is None:
                self._ahead = ahead  # it has announced the first units of the next epoch
            else:
                ahead.drop()

    def _chunks(self, epoch: int, position: int) -> Iterator[_UnitChunk]:
        """Yield this rank's units from a position on, through the epochs, without end."""
        while True:
            begin = position
            left = self.left(epoch, position)
            while left:
                count = min(left, _CHUNK if self.plan is None else _PLANNED_CHUNK, max(self._window.size // 2, FEWEST))
                left -= count
                yield self._chunk(epoch, begin, position, count, is_last=not left)
                begin = position = position + count * self.world_size
            epoch, position = epoch + 1, 0

    def _chunk(self, epoch: int, begin: int, position: int, count: int, *, is_last: bool) -> _UnitChunk:
        n = self.units(epoch)
        numbers = np.arange(position + self.rank, position + count * self.world_size, self.world_size)
        stop = min(int(numbers[-1]) + 1, n)
        start = min(int(numbers[0]), stop)
        wrapped = int(np.count_nonzero(numbers >= n))  # at the end of the epoch some ranks repeat its first units
        units = self._read(epoch, start, stop)
        if wrapped:
            units += [unit for number in numbers[-wrapped:] % n for unit in self._read(epoch, number, number + 1)]
        return _UnitChunk((epoch, begin), units, is_last)

    def _read(self, epoch: int, start: int, stop: int) -> list[Any]:
        """Return every `world_size`-th unit of a range."""
        if self.plan is None:
            samples: list[Any] = self.order.samples(epoch, start, stop)[:: self.world_size].tolist()
            return samples
        return [unit.tolist() for unit in self.plan.read(epoch, start, stop)[:: self.world_size]]

    # -- state

    def set_epoch(self, epoch: int) -> None:
        """Begin the next iteration at the start of this epoch, or at the position of a loaded state of this epoch."""
        self.progress.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the progress of the run, counted as units are drawn: JSON, valid for any `world_size` and batch size.

        A loader that draws ahead of its trainer must save the state of the last batch that it returned, as
        `StreamingDataLoader` and torchdata's `StatefulDataLoader` do.
        """
        return self.progress.state_dict()

    def load_state_dict(self, state: Mapping[str, Any] | str | bytes) -> None:
        """Resume from a state with the next iteration.

        Raises:
            StateError: the state is damaged, of another version, or of another run; says what differs.
        """
        self.progress.load_state_dict(state)
        self._restored_epoch = None

    def restored(self) -> None:
        """Note that an iterator was restored at the loaded state, which may be replaced after it has drawn ahead.

        From a state at the end of an epoch torchdata first restores the iterator that had ended, whose workers draw the
        first units of the next epoch, then makes the iterator whose batches it yields: that one starts this epoch
        again.
        """
        epoch, position = self.progress.start
        self._restored_epoch = None if position else epoch


class LoaderSampler(StreamingSampler):
    """Sampler of a `StreamingDataLoader`, which counts the batches that arrive and sets where a pass begins.

    `set_epoch`, which frameworks call on a loader's sampler, and the state are those of the loader.

    Attributes:
        place: epoch and position from which the next iteration yields.
    """

    place = (0, 0)

    def __init__(self, data_source: Any, **options: Any) -> None:
        super().__init__(data_source, **options)
        self._window = AnnounceWindow(None)  # the loader reads everything that is yielded

    def __iter__(self) -> Iterator[Any]:
        return self.units_from(*self.place)


class _Drawing(Iterator[Any]):
    """Iterator over a sampler that notices when torchdata restores it: torchdata saves the states of iterators."""

    def __init__(self, sampler: StreamingSampler, units: Generator[Any, None, None]) -> None:
        self._sampler = sampler
        self._units = units

    def __next__(self) -> Any:
        return next(self._units)

    def close(self) -> None:
        """Leave the pass."""
        self._units.close()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the position is in the state of the sampler."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Notify the sampler."""
        self._sampler.restored()


class _UnitChunk(NamedTuple):
    begin: tuple[int, int]  # epoch and position of its first unit
    units: list[Any]
    is_last: bool  # of its epoch


class _Ahead:
    """Units of a pass, drawn chunk by chunk and announced long before they are yielded.

    Args:
        chunks: endless, from the first unit of the pass on.
        data_source: receives the announcements.
        window: decides how far ahead to announce.
    """

    def __init__(self, chunks: Iterator[_UnitChunk], data_source: Any, window: AnnounceWindow) -> None:
        self._chunks = chunks
        self._source = data_source
        self._window = window
        self._pending: deque[_UnitChunk] = deque()
        self._announced = 0  # samples of the pending chunks

    @property
    def begin(self) -> tuple[int, int] | None:
        """Epoch and position of the first unit that was drawn and not yielded, or None."""
        return self._pending[0].begin if self._pending else None

    def units(self, epoch: int) -> Iterator[Any]:
        """Yield the units up to the end of an epoch."""
        window = self._window
        window.begin()
        is_over = False
        while not is_over:
            if not self._pending:
                self._draw()
            chunk = self._pending.popleft()
            self._announced -= _count(chunk.units)
            self._reach(epoch)
            if window.is_settled:
                yield from chunk.units
            else:
                yield from self._watched(chunk.units)
            is_over = chunk.is_last

    def _watched(self, units: list[Any]) -> Iterator[Any]:
        for unit in units:
            yield unit
            if self._window.drawn(_count([unit])):
                forget(self._source, self)

    def _reach(self, epoch: int) -> None:
        """Announce up to half of the window, but not beyond the end of the next epoch."""
        while self._announced < self._window.size // 2:
            if self._pending and self._pending[-1].is_last and self._pending[-1].begin[0] > epoch:
                return
            self._draw()

    def _draw(self) -> None:
        chunk = next(self._chunks)
        self._pending.append(chunk)
        self._announced += _count(chunk.units)
        samples = _samples(chunk.units)
        if self._window.admit(len(samples)):
            announce(self._source, samples, self)

    def drop(self) -> None:
        """Withdraw the announcements."""
        self._pending.clear()
        self._announced = 0
        forget(self._source, self)


def order_of(data_source: Any, shuffle: bool, seed: int | None) -> Order:
    """Return the order of a data set: its own if it has one (`MixedDataset`), else an order of its indices."""
    own: Order | None = getattr(data_source, "order", None)
    if own is not None:
        if seed is not None:
            raise ConfigError(
                f"seed={seed} has no effect on a data set with its own order: pass the seed to the data set"
            )
        return own
    n = data_source if isinstance(data_source, int) else len(data_source)
    return Shuffled(n, seed_of(data_source) if seed is None else seed) if shuffle else Sequential(n)


def _check_order(order: Order, data_source: Any) -> None:
    n = data_source if isinstance(data_source, int) else len(data_source)
    if order.num_samples != n:
        raise ConfigError(
            f"the order has {order.num_samples} samples and the data set {n}: make the order for this data set"
        )


def _count(units: list[Any]) -> int:
    return sum(map(len, units)) if units and isinstance(units[0], list) else len(units)


def _samples(units: list[Any]) -> list[int]:
    return [sample for unit in units for sample in unit] if units and isinstance(units[0], list) else units
