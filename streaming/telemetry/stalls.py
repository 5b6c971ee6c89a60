"""How long a trainer waits for its batches, and for what.

A step is the time from asking for one batch to asking for the next: the wait until the batch is there, and the time in
which the trainer is busy with it. What is waited for comes from the account that each thread keeps which makes batches
(`streaming.telemetry.stages`): that of the trainer's own thread, or that of a worker, which a batch carries along. So
nothing is counted twice, and nothing of a worker that has died is missing but the batches that it never gave.

Where the trainer makes its batches itself all this takes 0.7 us a batch; `benchmarks/metrics_cost.py` has what that
comes to in the fastest loop there is.
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

__all__ = ["Accounted", "StallAccount", "Watched", "account_of", "accounted", "arriving", "monitor_stalls", "rest_of"]


class Accounted:
    """A batch on its way from a worker to the trainer, with what it took to make it.

    Attributes:
        batch: the batch.
        seconds: of the thread that made it, by stage.
        ended: when it was finished, as `time.perf_counter`, which processes of one machine share.
    """

    __slots__ = ("batch", "ended", "seconds")

    def __init__(self, batch: Any, seconds: list[float], ended: float) -> None:
        self.batch = batch
        self.seconds = seconds
        self.ended = ended

    def pin_memory(self) -> Accounted:
        """The same with the batch in pinned memory; DataLoader asks for it."""
        return Accounted(pin_memory(self.batch), self.seconds, self.ended)  # type: ignore[no-untyped-call]

    def __reduce__(self) -> tuple[Any, ...]:
        return Accounted, (self.batch, self.seconds, self.ended)


class _Timed:
    """A collate function that notes its time in the account of its thread."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self._collate = collate

    def __call__(self, samples: Any) -> Any:
        began = perf_counter()
        batch = self._collate(samples)
        ACCOUNTS.mine.seconds[COLLATE] += perf_counter() - began
        return batch


class _Accounting(_Timed):
    """A collate function in a worker: gives the batch with the account of its thread."""

    def __call__(self, samples: Any) -> Accounted:
        batch = super().__call__(samples)
        account = ACCOUNTS.mine
        seconds, account.seconds = account.seconds, _NOTHING.copy()
        return Accounted(batch, seconds, perf_counter())


@contextmanager
def accounted(loader: DataLoader[Any], rest: int) -> Iterator[None]:
    """An iterator of the loader that is made inside keeps account of its batches; see `arriving`.

    Args:
        rest: as for `StallAccount`: where that is `collate` there is no need to measure it.
    """
    collate = loader.collate_fn
    if loader.num_workers:
        loader.collate_fn = _Accounting(collate)
    elif rest != COLLATE:
        loader.collate_fn = _Timed(collate)
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


def rest_of(workers: int, device: object = None) -> int:
    """The stage of what no other explains: putting batches on a device, their way from workers, or else collating."""
    return DEVICE if device is not None else QUEUE if workers else COLLATE


class StallAccount:
    """The steps of one trainer. Written by its thread, read by any.

    Args:
        rest: the stage of what no note explains, see `rest_of`.

    Attributes:
        rest: as given.
        steps: batches that it got.
        samples: in them, where the loader knows.
        busy_seconds: from getting a batch to asking for the next; nothing after the last of an epoch.
        last_wait_s, last_busy_s: of the last step.
    """

    def __init__(self, rest: int) -> None:
        self.rest = rest
        self.steps = 0
        self.samples: int | None = None
        self.busy_seconds = 0.0
        self.last_wait_s = 0.0
        self.last_busy_s = 0.0
        self._waited_s = 0.0  # in all
        self._explained = [0.0] * len(STAGES)  # of it; taken apart when read, as each step would pay for that
        self._most_unexplained_s = 0.0

    @property
    def wait_seconds(self) -> dict[str, float]:
        """How long the trainer waited so far, by stage; none ever sinks."""
        return dict(zip(STAGES, self._by_stage(), strict=True))

    def _by_stage(self) -> list[float]:
        waited = self._waited_s  # first: a step under way has explained what is not in it yet
        seconds = self._explained.copy()
        self._most_unexplained_s = max(waited - sum(seconds), self._most_unexplained_s)
        seconds[self.rest] += self._most_unexplained_s
        return seconds

    @property
    def share(self) -> float:
        """The part of its time that the trainer waited, 0.0 before the first step."""
        waited = self._waited_s
        whole = waited + self.busy_seconds
        return waited / whole if whole else 0.0

    def metrics_snapshot(self) -> MetricsSnapshot:
        """The account as metrics, without the label `dataset`."""
        reading: MetricsSnapshot = {
            "loader_batches": {(): self.steps},
            "trainer_steps": {(): self.steps},
            "trainer_wait_seconds": by_stage(self._by_stage()),
            "trainer_busy_seconds": {(): self.busy_seconds},
        }
        return reading if self.samples is None else {**reading, "loader_samples": {(): self.samples}}

    def add_samples(self, count: int) -> None:
        """The last batch had so many."""
        self.samples = (self.samples or 0) + count

    def steps_of(self, start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """The batches of the iterator that `start` makes, when the first is asked for.

        Each wait for one, and the time until the next is asked for, go into the account. What explains a wait is noted
        in the account of this thread.
        """
        asked = perf_counter()
        batches = None
        while True:
            account = ACCOUNTS.mine
            beside, account.seconds = account.seconds, self._explained
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
                account.seconds = beside  # what is read beside the batches is no wait for one
            got = perf_counter()
            self.last_wait_s = seconds = got - asked
            self._waited_s += seconds
            self.steps += 1
            yield batch
            asked = perf_counter()
            self.last_busy_s = seconds = asked - got
            self.busy_seconds += seconds


def arriving(start: Callable[[], Iterator[Any]], workers: int) -> Iterator[Any]:
    """The batches of the iterator that `start` makes, in `accounted`.

    What explains a wait for one goes into the account of this thread.

    Args:
        workers: processes that make them; 0 is this thread.
    """
    return _from_workers(start, workers) if workers else start()


def _from_workers(start: Callable[[], Iterator[Any]], workers: int) -> Iterator[Any]:
    asked = perf_counter()
    for number, item in enumerate(start()):
        if isinstance(item, Accounted):
            ACCOUNTS.mine.add(_waited_for(item, asked, perf_counter(), is_first=number < workers))
            item = item.batch
        yield item
        asked = perf_counter()


def _waited_for(item: Accounted, asked: float, got: float, *, is_first: bool) -> list[float]:
    """A wait for a batch from a worker, in seconds by stage.

    Until it was finished, the trainer waited for what the worker did, whose stages share it as they share the worker's
    time: a worker that begins late was busy with others like it, unless it had yet to start. What came after is its
    way here.
    """
    made = sum(item.seconds)
    for_it = min(max(item.ended - asked, 0.0), got - asked)
    if is_first or made <= 0:
        for_it = min(for_it, made)
    seconds = [for_it * part / made for part in item.seconds] if made > 0 else _NOTHING.copy()
    seconds[QUEUE] += got - asked - for_it
    return seconds


class Watched:
    """A DataLoader whose trainer's waits are accounted for. Iterate over it in its place.

    Attributes:
        loader: the DataLoader.
        stalls: the account.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self.stalls = StallAccount(rest_of(loader.num_workers))
        TOTALS.add_loader(self)

    @property
    def dataset_name(self) -> str:
        """That of the data set if it has one, else "data"."""
        return str(getattr(self.loader.dataset, "name", "data"))

    def metrics_snapshot(self) -> MetricsSnapshot:
        """The account as metrics, without the label `dataset`."""
        return self.stalls.metrics_snapshot()

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return self.stalls.steps_of(partial(arriving, self._start, self.loader.num_workers))

    def _start(self) -> Iterator[Any]:
        with accounted(self.loader, self.stalls.rest):
            return iter(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)


def monitor_stalls(loader: DataLoader[Any]) -> Watched:
    """The same batches, and an account of what the trainer waits for.

    For torch's own DataLoader, over a `StreamingDatasetAdapter` or any data set; a `StreamingDataLoader` has its
    account already.
    """
    return Watched(loader)
