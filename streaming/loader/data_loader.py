"""`StreamingDataLoader`: torch's DataLoader over a known order, exactly resumable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from streaming.core.epoch_index import EpochDataset
from streaming.core.ranks import check_agreement
from streaming.errors import ConfigError
from streaming.loader.accelerate import Prepared
from streaming.loader.device import to_device
from streaming.loader.framework_rebuilds import given_samplers
from streaming.loader.sampler import Batching, LoaderSampler
from streaming.loader.state import Pass
from streaming.order.batching import BatchPlan, TokenBudgetBatching
from streaming.order.permutation import Order, Sequential
from streaming.telemetry.counters import MetricsSnapshot
from streaming.telemetry.stalls import StallAccount, attributed, default_stage, timing_collate
from streaming.telemetry.totals import TOTALS

__all__ = ["StreamingDataLoader"]


class StreamingDataLoader(Prepared, DataLoader[Any]):
    """Batches of one rank, in an order that is a pure function of seed and epoch, resumable from its state.

    Accepts the arguments of torch's DataLoader, except `sampler`, `batch_sampler` and `generator`: the loader has its
    own order. It detects its rank and needs no distributed sampler; all ranks get the same number of batches. The next
    samples are read ahead, for any `num_workers`, also through torch's `Subset`, `ConcatDataset` and `StackDataset`.

    Each iteration is a new epoch, also after one that was left early, unless a state was loaded or `set_epoch` was
    called: see `streaming.loader.state.LoaderState`. Several loaders over one data set do not change each other's
    batches.

    `state_dict()` counts a batch when `next()` returned it, however far workers and devices are ahead. A state can be
    loaded with another `world_size`, `batch_size` or `num_workers`: the global order continues where it was.

    Args:
        dataset: a `StreamingDatasetAdapter`, a `MixedDataset`, or any map-style data set.
        batch_size: samples on each rank; packs with `SequencePacking`; leave it out with `TokenBudgetBatching`.
        shuffle: whether each epoch has a new order; otherwise samples come from first to last.
        seed: seed of the order; None: the data set's own, or 0.
        order: replaces `shuffle` and `seed`.
        batching: `TokenBudgetBatching` or `SequencePacking`, to group samples by their lengths before they are read.
        drop_last: drop the last samples if they do not fill a batch on each rank. Otherwise the last batch is smaller,
            and the first samples of the epoch fill it up to one size on all ranks.
        rank, world_size: see `streaming.core.ranks.rank_and_world`.
        device: device to copy the tensors of a batch to; None does not copy.
        prefetch_to_device: number of batches copied to the device ahead of their use.
        options: options of torch's DataLoader, except `in_order=False`.

    Attributes:
        rank, world_size: as given or detected.
        sampler: the `StreamingSampler`.
        plan: the groups of samples with `batching`, else None; `plan.padding(epoch)` is their share of padding.
        stalls: how long the trainer waited for batches, by stage.

    Raises:
        ConfigError: a setting cannot be used, there are fewer samples than ranks, or the ranks do not agree.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int | None = 1,
        shuffle: bool = False,
        *,
        seed: int | None = None,
        order: Order | None = None,
        batching: Batching | None = None,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        device: torch.device | str | None = None,
        prefetch_to_device: int = 2,
        **options: Any,
    ) -> None:
        _check_options(dataset, options, batch_size, batching)
        given = given_samplers(options, has_batching=batching is not None)
        options = {name: value for name, value in options.items() if name not in ("sampler", "batch_sampler")}
        sampler = given.units
        if sampler is None:
            sampler = LoaderSampler(
                dataset,
                shuffle=shuffle,
                seed=seed,
                order=Sequential(len(dataset)) if given.is_sequential else order,  # type: ignore[arg-type]
                batching=batching,
                rank=rank,
                world_size=world_size,
                drop_last=drop_last,
            )
        elif given.batches is not None:
            sampler.drop_last = getattr(given.batches, "drop_last", drop_last)
            batch_size = getattr(given.batches, "batch_size", None)
        # A framework that makes the loader again looks for the arguments under these names.
        self.seed, self.order, self.batching = seed, order, batching
        self.rank, self.world_size = sampler.rank, sampler.world_size
        self.device, self.prefetch_to_device = device, prefetch_to_device
        self._device = None if device is None else torch.device(device)
        self._progress = sampler.progress
        self._units = sampler
        self._padding: float | None = None  # of the epoch under way
        self._per_batch = 1 if isinstance(batching, TokenBudgetBatching) else int(batch_size or 1)
        if self._device is not None and self._device.type == "cuda":
            options.setdefault("pin_memory", True)
        if given.batches is not None or isinstance(batching, TokenBudgetBatching):
            super().__init__(dataset, batch_sampler=given.batches or sampler, **options)
            object.__setattr__(self, "sampler", sampler)  # instead of torch's, which is not read
        else:
            super().__init__(dataset, self._per_batch, sampler=sampler, drop_last=drop_last, **options)
        self._view = EpochDataset(dataset) if batching is not None or sampler.draws else None
        self.stalls = StallAccount(default_stage(self.num_workers, self._device))
        TOTALS.add_loader(self)

    @property
    def plan(self) -> BatchPlan | None:
        """The groups of samples with `batching`, else None."""
        return self._units.plan

    @property
    def epoch(self) -> int:
        """Epoch under way, or the next one: e + 1 once the last batch of epoch e was returned."""
        return self._progress.epoch

    def __len__(self) -> int:
        """Return the number of batches on each rank in a whole epoch, whatever state was loaded."""
        return self._batches(self._progress.epoch, 0)

    def _batches(self, epoch: int, position: int) -> int:
        left = self._units.left(epoch, position)
        return left // self._per_batch if self.drop_last else -(-left // self._per_batch)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch names its own iterator class
        # A pass begins with its first batch: Lightning makes the iterator before it sets the epoch.
        self._units.check_group()
        self._check_ranks()
        yield from self._delivered(self._progress.begin())

    def _check_ranks(self) -> None:
        """Refuse a pass that begins differently on another rank, as after only one rank looked at a first batch."""
        epoch, position = self._progress.start
        left_at = self._progress.left_at
        begin = {"epoch": epoch, "position": position, "the last pass left at position": left_at}
        others = {**self._units.settings(epoch, position), "batch_size": self._per_batch}
        settings = {**begin, **others, "drop_last": self._units.drop_last}
        is_compared = check_agreement(self.rank, self.world_size, settings)
        if left_at is not None and not is_compared:
            raise ConfigError(
                f"rank {self.rank} of {self.world_size} left its last pass at position {left_at} of epoch {epoch - 1}, "
                "and there is no process group of all ranks to find out whether the others did: call set_epoch(n) "
                "on every rank before each pass, or initialise torch.distributed"
            )

    def _delivered(self, run: Pass) -> Iterator[Any]:
        progress, units = self._progress, self._units
        epoch, position = run.epoch, run.position
        left = self._batches(epoch, position)
        last = self._per_batch if self.drop_last else (units.left(epoch, position) - 1) % self._per_batch + 1
        if not left:
            progress.finish(run)
            return
        self._padding = None if self.plan is None else self.plan.padding(epoch)
        units.place = epoch, position
        step = self._per_batch * self.world_size
        self._begin(self._remainder(epoch, position))
        try:
            for batch in self.stalls.steps_of(self._attributed):
                left -= 1
                self.stalls.add_samples(self._per_batch if left else last)
                if left:
                    progress.advance(run, step)
                else:
                    progress.finish(run)
                    self.end_of_dataloader = True
                yield batch
        finally:
            self._end()

    def _attributed(self) -> Iterator[Any]:
        batches = attributed(self._start, self.num_workers)
        return batches if self._device is None else to_device(batches, self._device, self.prefetch_to_device)

    def _start(self) -> Iterator[Any]:
        with timing_collate(self, self.stalls.default_stage), self._viewed():
            return super().__iter__()

    @contextmanager
    def _viewed(self) -> Iterator[None]:
        """Let an iterator of torch that is made inside read through the view; `dataset` is unchanged afterwards."""
        if self._view is None:
            yield
            return
        dataset = self.dataset
        object.__setattr__(self, "dataset", self._view)  # torch does not allow it after construction
        try:
            yield
        finally:
            object.__setattr__(self, "dataset", dataset)

    def _remainder(self, epoch: int, position: int) -> int:
        """Return `Prepared.remainder`: the last units of the last ranks are repeated; ranks are gathered in order."""
        each = self._units.left(epoch, position)
        repeated = max(each * self.world_size - (self._units.units(epoch) - position), 0)
        rows = (each - 1) % self._per_batch + 1
        if self.drop_last or not repeated:
            return 0
        in_one_row = rows == 1 and self.batch_size is not None
        return rows * self.world_size - repeated if repeated == 1 or in_one_row else -1

    def metrics_snapshot(self) -> MetricsSnapshot:
        """Return the current numbers as metrics, like those of an adapter, without the label `dataset`."""
        reading: MetricsSnapshot = {
            **self.stalls.metrics_snapshot(),
            "loader_epoch": {(): self._progress.epoch},
            "loader_position": {(): self._progress.position},
        }
        return reading if self._padding is None else {**reading, "loader_padding_ratio": {(): self._padding}}

    @property
    def dataset_name(self) -> str:
        """Name of the adapter; "mixed" for a `MixedDataset`, "data" for any other data set."""
        return str(getattr(self.dataset, "name", "data"))

    # -- state

    def set_epoch(self, epoch: int) -> None:
        """Begin the next pass at the start of this epoch, or at the position of a loaded state of this epoch."""
        self._progress.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the progress of the run, up to the batch that `next()` returned last: JSON of less than a kilobyte.

        It is the same on all ranks. After the last batch of epoch e it holds epoch e + 1, position 0; after a pass that
        was left early, the position where it was left.
        """
        return self._progress.state_dict()

    def load_state_dict(self, state: Mapping[str, Any] | str | bytes) -> None:
        """Resume from a state with the next pass.

        Raises:
            StateError: the state is damaged, of another version, or of another run; says what differs.
        """
        self._progress.load_state_dict(state)


def _check_options(dataset: Any, options: Mapping[str, Any], batch_size: int | None, batching: Batching | None) -> None:
    if isinstance(dataset, IterableDataset):
        raise ConfigError(
            f"{type(dataset).__name__} is an IterableDataset, which has no order to choose: use a map-style data set"
        )
    if options.get("generator") is not None:
        raise ConfigError("a StreamingDataLoader takes no generator, as its order has its own seed: use seed=")
    if options.get("in_order") is False:
        raise ConfigError(
            "in_order=False returns batches out of order, so no position says which ones a run has had: "
            "a resumed run would repeat some and lose others. Leave it out, or use torch's DataLoader"
        )
    if isinstance(batching, TokenBudgetBatching):
        if batch_size not in (None, 1):
            raise ConfigError(
                f"batch_size={batch_size} with TokenBudgetBatching, which makes the batches: leave it out"
            )
    elif batch_size is None or batch_size < 1:
        raise ConfigError(f"batch_size={batch_size!r} must be at least 1: the samples of a batch on each rank")
