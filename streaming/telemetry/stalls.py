"""How long a trainer waits for its batches, and for what.

A step is the time from asking for one batch to asking for the next: the wait for the batch, and the time in which the
trainer is busy with it. The wait is split by stage with the account of the thread that made the batch
(`streaming.telemetry.stages`): the trainer's own thread, or a worker, whose batches carry their account along. So
nothing is counted twice, and a worker that dies takes along only the batches that it never delivered.

Where the trainer makes its batches itself, this takes 0.7 us per batch; `benchmarks/metrics_cost.py` measures its share
of the fastest loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any, Final

from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from streaming.errors import ConfigError
from streaming.telemetry.counters import MetricsSnapshot
from streaming.telemetry.stages import ACCOUNTS, COLLATE, DEVICE, QUEUE, STAGES, by_stage
from streaming.telemetry.totals import TOTALS

_NOTHING: Final = [0.0] * len(STAGES)

__all__ = [
    "MonitoredLoader",
    "StallAccount",
    "TimedBatch",
    "account_of",
    "attributed",
    "default_stage",
    "monitor_stalls",
    "timing_collate",
]


class TimedBatch:
    """A batch on its way from a worker to the trainer, with the time it took to make it.

    Attributes:
        batch: the batch.
        seconds: time of the thread that made it, by stage.
        ended: when it was finished, by `time.perf_counter`, which the processes of a machine share.
    """

    __slots__ = ("batch", "ended", "seconds")

    def __init__(self, batch: Any, seconds: list[float], ended: float) -> None:
        self.batch = batch
        self.seconds = seconds
        self.ended = ended

    def pin_memory(self) -> TimedBatch:
        """Return the same with the batch in pinned memory; called by DataLoader."""
        return TimedBatch(pin_memory(self.batch), self.seconds, self.ended)  # type: ignore[no-untyped-call]

    def __reduce__(self) -> tuple[Any, ...]:
        return TimedBatch, (self.batch, self.seconds, self.ended)


class _TimedCollate:
    """A collate function that adds its time to the account of its thread."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self._collate = collate

    def __call__(self, samples: Any) -> Any:
        began = perf_counter()
        batch = self._collate(samples)
        ACCOUNTS.mine.seconds[COLLATE] += perf_counter() - began
        return batch


class _WorkerCollate(_TimedCollate):
    """A collate function in a worker: returns the batch with the account of its thread."""

    def __call__(self, samples: Any) -> TimedBatch:
        batch = super().__call__(samples)
        account = ACCOUNTS.mine
        seconds, account.seconds = account.seconds, _NOTHING.copy()
        return TimedBatch(batch, seconds, perf_counter())


@contextmanager
def timing_collate(loader: DataLoader[Any], default_stage: int) -> Iterator[None]:
    """Have an iterator of the loader that is made inside account for its batches, as `attributed` needs it.

    Args:
        default_stage: as for `StallAccount`; if that is `collate`, collating need not be measured.
    """
    collate = loader.collate_fn
    if loader.num_workers:
        loader.collate_fn = _WorkerCollate(collate)
    elif default_stage != COLLATE:
        loader.collate_fn = _TimedCollate(collate)
    try:
        yield
    finally:
        loader.collate_fn = collate


def account_of(loader: Any) -> StallAccount:
    """Return the account of a loader.

    Raises:
        ConfigError: it has none.
    """
    account = getattr(loader, "stalls", None)
    if not isinstance(account, StallAccount):
        raise ConfigError(
            f"a {type(loader).__name__} does not account for its steps: give a StreamingDataLoader, or what "
            "streaming.monitor_stalls(loader) returns"
        )
    return account


def default_stage(workers: int, device: object = None) -> int:
    """Return the stage of unexplained time: moving batches to a device or from workers, or else collating."""
    return DEVICE if device is not None else QUEUE if workers else COLLATE


class StallAccount:
    """The steps of one trainer. Written by its thread, read by any.

    Args:
        default_stage: stage of the time that nothing explains, see `default_stage`.

    Attributes:
        default_stage: as given.
        steps: number of batches delivered.
        samples: number of samples in them; None if the loader does not know.
        busy_seconds: time from getting a batch to asking for the next; nothing after the last batch of an epoch.
        last_wait_s, last_busy_s: times of the last step.
    """

    def __init__(self, default_stage: int) -> None:
        self.default_stage = default_stage
        self.steps = 0
        self.samples: int | None = None
        self.busy_seconds = 0.0
        self.last_wait_s = 0.0
        self.last_busy_s = 0.0
        self._waited_s = 0.0
        self._explained = [0.0] * len(STAGES)  # part of it; the rest is computed when read, to keep steps cheap
        self._unexplained_s = 0.0

    @property
    def wait_seconds(self) -> dict[str, float]:
        """Seconds that the trainer has waited, by stage; no stage ever decreases."""
        return dict(zip(STAGES, self._by_stage(), strict=True))

    def _by_stage(self) -> list[float]:
        waited = self._waited_s  # read first: the step under way is explained before it is added here
        seconds = self._explained.copy()
        self._unexplained_s = max(waited - sum(seconds), self._unexplained_s)
        seconds[self.default_stage] += self._unexplained_s
        return seconds

    @property
    def share(self) -> float:
        """Share of its time that the trainer waited; 0.0 before the first step."""
        waited = self._waited_s
        whole = waited + self.busy_seconds
        return waited / whole if whole else 0.0

    def metrics_snapshot(self) -> MetricsSnapshot:
        """Return the account as metrics, without the label `dataset`."""
        reading: MetricsSnapshot = {
            "loader_batches": {(): self.steps},
            "trainer_steps": {(): self.steps},
            "trainer_wait_seconds": by_stage(self._by_stage()),
            "trainer_busy_seconds": {(): self.busy_seconds},
        }
        return reading if self.samples is None else {**reading, "loader_samples": {(): self.samples}}

    def add_samples(self, count: int) -> None:
        """Count the samples of the last batch."""
        self.samples = (self.samples or 0) + count

    def steps_of(self, start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """Iterate over the batches of the iterator that `start` makes when the first one is requested.

        Each wait for a batch, and the time until the next is requested, are added to the account. The stages of a wait
        come from the account of this thread.
        """
        asked = perf_counter()
        batches = None
        while True:
            account = ACCOUNTS.mine
            outer, account.seconds = account.seconds, self._explained
            try:
                if batches is None:
                    batches = start()
                batch = next(batches)
            except StopIteration:
                return
            except BaseException:
                self._waited_s += perf_counter() - asked
                raise
            finally:
                account.seconds = outer  # other reads of this thread are not waits for a batch
            got = perf_counter()
            self.last_wait_s = seconds = got - asked
            self._waited_s += seconds
            self.steps += 1
            yield batch
            asked = perf_counter()
            self.last_busy_s = seconds = asked - got
            self.busy_seconds += seconds


def attributed(start: Callable[[], Iterator[Any]], workers: int) -> Iterator[Any]:
    """Iterate over the batches of the iterator that `start` makes, in `timing_collate`.

    The stages of each wait are added to the account of this thread.

    Args:
        workers: number of processes that make the batches; 0 is this thread.
    """
    return _from_workers(start, workers) if workers else start()


def _from_workers(start: Callable[[], Iterator[Any]], workers: int) -> Iterator[Any]:
    asked = perf_counter()
    for number, item in enumerate(start()):
        if isinstance(item, TimedBatch):
            ACCOUNTS.mine.add(_wait_by_stage(item, asked, perf_counter(), is_first=number < workers))
            item = item.batch
        yield item
        asked = perf_counter()


def _wait_by_stage(item: TimedBatch, asked: float, got: float, *, is_first: bool) -> list[float]:
    """Return the seconds by stage of a wait for a batch from a worker.

    Until the batch was finished, the trainer waited for the worker; that time is split in proportion to the worker's
    stages, as a worker that begins late was busy with similar batches, unless it had yet to start. The rest was spent
    on the way from the worker.
    """
    made = sum(item.seconds)
    worker_s = min(max(item.ended - asked, 0.0), got - asked)
    if is_first or made <= 0:
        worker_s = min(worker_s, made)
    seconds = [worker_s * part / made for part in item.seconds] if made > 0 else _NOTHING.copy()
    seconds[QUEUE] += got - asked - worker_s
    return seconds


class MonitoredLoader:
    """A DataLoader whose waits are measured. Iterate over it in place of the DataLoader.

    Attributes:
        loader: the DataLoader.
        stalls: the account.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self.stalls = StallAccount(default_stage(loader.num_workers))
        TOTALS.add_loader(self)

    @property
    def dataset_name(self) -> str:
        """Name of the data set, or "data" if it has none."""
        return str(getattr(self.loader.dataset, "name", "data"))

    def metrics_snapshot(self) -> MetricsSnapshot:
        """Return the account as metrics, without the label `dataset`."""
        return self.stalls.metrics_snapshot()

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return self.stalls.steps_of(partial(attributed, self._start, self.loader.num_workers))

    def _start(self) -> Iterator[Any]:
        with timing_collate(self.loader, self.stalls.default_stage):
            return iter(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)


def monitor_stalls(loader: DataLoader[Any]) -> MonitoredLoader:
    """Return a loader with the same batches that measures what the trainer waits for.

    For torch's own DataLoader, over a `StreamingDatasetAdapter` or any data set; a `StreamingDataLoader` measures its
    waits already.
    """
    return MonitoredLoader(loader)
