"""What the trainer waited for, as charts beside the loss: numbers of a loader for Weights & Biases.

Numbers are taken over windows of some steps, from counters that are there anyway. A step between two windows costs a
comparison; one that ends a window costs one `run.log`, at most once a second. Nothing here ever stops a training: what
fails is said once in the log, and tried again after a minute, then less and less often.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from streaming.core.logs import get_logger
from streaming.core.process_memory import resident_memory
from streaming.errors import ConfigError, MissingExtra
from streaming.telemetry.counters import MetricsSnapshot
from streaming.telemetry.stalls import StallAccount, account_of

__all__ = ["WandbLogger"]

LEAST_S = 1.0
"""Between two calls of `run.log`, each of which takes about 1 ms of the trainer's thread."""
RETRY_S = 60.0
RETRY_MOST_S = 3600.0

logger = get_logger(__name__)


class Stepping(Protocol):
    """A loader that accounts for its steps: `StreamingDataLoader`, or any other by `streaming.watch`."""

    @property
    def stalls(self) -> StallAccount: ...
    @property
    def dataset(self) -> Any: ...
    def metrics_snapshot(self) -> MetricsSnapshot: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Moment:
    """The counters at the border of two windows."""

    time_s: float
    steps: int
    busy_s: float
    waited_s: dict[str, float]
    loader: MetricsSnapshot
    data: MetricsSnapshot

    def count(self, family: str) -> float:
        """The sum of a family over its labels, 0.0 where there is none."""
        values = self.loader.get(family) or self.data.get(family) or {}
        return float(sum(values.values()))


class WandbLogger:
    """Logs to a run how long steps wait for data and for what, the cache's hits, memory, and how fast bytes come.

    `for batch in tracker:` in place of the loader, or `tracker.step()` once in each step. Not thread-safe.

    Args:
        loader: a `StreamingDataLoader`, or what `streaming.monitor_stalls` made of another one.
        run: a run of wandb; None is the one that is active when there is something to log. Without any, nothing is
            done.
        every: steps of a window.
        prefix: of all names.
        clock: seconds that never go back.

    Raises:
        ConfigError: the loader keeps no account of its steps, or `every` is no count.
    """

    def __init__(
        self,
        loader: Stepping,
        run: Any = None,
        every: int = 50,
        prefix: str = "streaming/",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        account_of(loader)
        if not (isinstance(every, int) and every > 0):
            raise ConfigError(f"every={every!r}: give the steps of a window, at least 1")
        self.loader = loader
        self._run = run
        self._every = every
        self._prefix = prefix
        self._clock = clock
        self._is_own = False
        self._steps = 0
        self._step: int | None = None
        self._slowest_s = 0.0
        self._before: _Moment | None = None
        self._next_s = clock()
        self._retry_s = RETRY_S
        self._has_warned = False
        self._told_of: Any = None
        self._guarded(self._begin)

    @classmethod
    def create(cls, loader: Stepping, every: int = 50, prefix: str = "streaming/", **init: Any) -> WandbLogger:
        """A tracker with a run of its own, which ends with `close`.

        Args:
            init: as for `wandb.init`.

        Raises:
            MissingExtra: wandb is not installed.
        """
        try:
            import wandb
        except ImportError as exc:
            raise MissingExtra("a run is made by wandb: pip install 'aiprod-streaming[wandb]'") from exc
        tracker = cls(loader, wandb.init(**init), every, prefix)
        tracker._is_own = True
        return tracker

    def step(self, step: int | None = None) -> None:
        """A step is done, or its batch is there; logs at the end of a window.

        Args:
            step: as the trainer passes it to `run.log(..., step=step)`, if it does; the numbers then share its step.
                None: they have a step of their own.
        """
        self._steps += 1
        self._step = step
        self._slowest_s = max(self._slowest_s, self.loader.stalls.last_wait_s)
        if self._steps % self._every == 0 and self._clock() >= self._next_s:
            self._guarded(lambda: self._log(step))

    def __iter__(self) -> Iterator[Any]:
        """The loader's batches, with a `step` for each."""
        for batch in self.loader:
            self.step()
            yield batch

    def __len__(self) -> int:
        return len(self.loader)

    def close(self) -> None:
        """Log what is left, and end a run that `create` made. Idempotent."""
        is_failing = self._retry_s > RETRY_S
        if self._before is not None and self._before.steps < self.loader.stalls.steps and not is_failing:
            self._guarded(lambda: self._log(self._step))
        if self._is_own:
            self._is_own = False
            self._guarded(self._run.finish)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- one window

    def _guarded(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as exc:
            self._next_s = self._clock() + self._retry_s
            if not self._has_warned:
                self._has_warned = True
                logger.warning("wandb_log_failed error=%s retry_seconds=%.0f", exc, self._retry_s)
            self._retry_s = min(2 * self._retry_s, RETRY_MOST_S)

    def _begin(self) -> None:
        self._before = self._now()

    def _now(self) -> _Moment:
        stalls = self.loader.stalls
        read_data = getattr(self.loader.dataset, "metrics_snapshot", dict)
        return _Moment(
            self._clock(),
            stalls.steps,
            stalls.busy_seconds,
            stalls.wait_seconds,
            self.loader.metrics_snapshot(),
            read_data(),
        )

    def _log(self, step: int | None) -> None:
        run = self._run if self._run is not None else _active_run()
        if run is None:
            if self._told_of is None:
                self._told_of = "none"
                logger.info("wandb_no_active_run reason=no_run")
            return
        before, now = self._before, self._now()
        if before is not None:
            numbers = {f"{self._prefix}{name}": value for name, value in self._numbers(before, now).items()}
            if step is not None:
                run.log(numbers, step=step)
            else:
                self._define(run)
                run.log({**numbers, f"{self._prefix}step": now.steps})
        self._before = now
        self._slowest_s = 0.0
        self._next_s = now.time_s + LEAST_S
        self._retry_s = RETRY_S

    def _define(self, run: Any) -> None:
        """Have this library's numbers drawn over its own steps, whatever steps the trainer logs with."""
        if self._told_of is not run:
            run.define_metric(f"{self._prefix}step")
            run.define_metric(f"{self._prefix}*", step_metric=f"{self._prefix}step")
            self._told_of = run

    def _numbers(self, before: _Moment, now: _Moment) -> dict[str, float]:
        steps = max(now.steps - before.steps, 1)
        waited = {stage: seconds - before.waited_s[stage] for stage, seconds in now.waited_s.items()}
        wait_s = sum(waited.values())
        whole_s = wait_s + now.busy_s - before.busy_s
        passed_s = now.time_s - before.time_s
        was_reset = now.count("reads") < before.count("reads")  # all of them at once, by `reset_metrics`

        def rise(family: str) -> float:
            return now.count(family) - (0.0 if was_reset and family in now.data else before.count(family))

        numbers = {
            "data_time_seconds": wait_s / steps,
            "data_time_max_seconds": self._slowest_s,
            "step_time_seconds": whole_s / steps,
            "wait_share": _ratio(wait_s, whole_s),
            **{f"wait_share_{stage}": _ratio(seconds, whole_s) for stage, seconds in waited.items()},
            "io_wait_seconds": rise("read_wait_seconds") / steps,
            "fetched_bytes_per_second": _ratio(rise("fetched_bytes"), passed_s),
            "samples_per_second": _ratio(rise("loader_samples"), passed_s),
            "epoch": now.count("loader_epoch"),
            "position": now.count("loader_position"),
        }
        if reads := rise("reads"):
            numbers["hit_ratio"] = rise("cache_hits") / reads
        for family in ("cache_predicted_hit_ratio", "cache_bytes"):
            if family in now.data:
                numbers[family] = now.count(family)
        memory = resident_memory()
        return numbers if memory is None else {**numbers, "resident_memory_bytes": memory}


def _active_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
