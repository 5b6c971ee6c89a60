"""A progress bar over an epoch that never looks frozen: its time always moves, and it shows what is waited for.

A separate thread draws it, twice a second; the trainer's thread only counts, so a slow terminal costs it nothing. tqdm
alone draws only on progress, and after a fast phase not even then.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, TextIO

from tqdm import tqdm

from streaming.core.logs import get_logger
from streaming.errors import ConfigError, StreamingError
from streaming.loader.sampler import StreamingSampler
from streaming.telemetry.counters import MetricsSnapshot
from streaming.telemetry.stalls import account_of

__all__ = ["ProgressBar", "progress_bar"]

LONG_S = 2.0
"""A wait or a step that takes longer is shown while it lasts."""
JOIN_S = 2.0
"""How long the end of an epoch waits for a blocked stream before it gives up on the bar."""

logger = get_logger(__name__)

_DRAWING = threading.Lock()  # a child forked during a write would hold the stream's own lock forever
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_DRAWING.acquire, after_in_parent=_DRAWING.release, after_in_child=_DRAWING.release)


class Screen(Protocol):
    """Shows the state of an epoch."""

    def show(self, done: int, text: str) -> None: ...
    def close(self, done: int, text: str) -> None: ...


def progress_bar(
    loader: Any,
    unit: Literal["batch", "sample"] = "batch",
    *,
    desc: str | None = None,
    stream: TextIO | None = None,
    every_s: float = 0.5,
    plain_every_s: float | None = None,
    rank: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> ProgressBar:
    """Wrap a loader so that iterating over it shows a progress bar.

    The bar starts at the position of a loaded state. Next to it are the share of its time that the trainer waited in
    this epoch, the stage it waited for most, and the hits per read.

    Args:
        loader: a `StreamingDataLoader`, or a loader returned by `streaming.monitor_stalls`.
        unit: count batches of this rank, or samples of all ranks (only for a `StreamingDataLoader`).
        desc: text before the bar; None is the number of the epoch.
        stream: where the bar is drawn; None is stderr.
        every_s: seconds between two updates.
        plain_every_s: seconds between two plain lines if the stream is not a terminal; None shows nothing there.
        rank: nothing is shown on ranks other than 0; None is the loader's rank, or `RANK` of the environment.
        clock: monotonic clock in seconds.

    Raises:
        ConfigError: the loader does not account for its steps, or cannot count samples.
    """
    account_of(loader)
    if unit not in ("batch", "sample") or (unit == "sample" and _sampler_of(loader) is None):
        raise ConfigError(f"unit={unit!r} cannot be counted for a {type(loader).__name__}: give 'batch'")
    if rank is None:
        rank = int(getattr(loader, "rank", os.environ.get("RANK") or 0))
    stream = sys.stderr if stream is None else stream
    is_terminal = bool(getattr(stream, "isatty", bool)())
    interval_s = every_s if is_terminal else plain_every_s

    def screen(epoch: _Epoch) -> Screen:
        return (_Bar if is_terminal else _Lines)(stream, epoch, desc, unit, clock)

    return ProgressBar(loader, unit, screen, interval_s if rank == 0 else None, clock)


class ProgressBar:
    """Shows a bar for each iteration over it. See `progress_bar`."""

    def __init__(
        self,
        loader: Any,
        unit: str,
        screen: Callable[[_Epoch], Screen],
        interval_s: float | None,
        clock: Callable[[], float],
    ) -> None:
        self.loader = loader
        self._unit = unit
        self._screen = screen
        self._interval_s = interval_s
        self._clock = clock

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)  # moves to the position of a loaded state
        if self._interval_s is None:
            yield from batches
            return
        epoch = _Epoch(self.loader, self._unit, self._clock)
        ticker = _Ticker(epoch, self._screen, self._interval_s)
        try:
            yield from epoch.watched(batches)
        finally:
            ticker.end()


class _Epoch:
    """Progress of an epoch, and what the trainer is doing. Written by the trainer's thread, read by any."""

    def __init__(self, loader: Any, unit: str, clock: Callable[[], float]) -> None:
        self._loader = loader
        self._clock = clock
        self._by_sample = unit == "sample"
        sampler = _sampler_of(loader)
        self.number: int | None = None
        self.first, self.total = 0, len(loader)
        if sampler is not None:
            state = loader.state_dict()
            self.number, position = state["epoch"], state["position"]
            if self._by_sample:
                self.first, self.total = position, sampler.units(self.number)
            else:
                self.first = self.total - _batches(loader, sampler, sampler.left(self.number, position))
        self._batches = 0
        self._is_over = False
        self._is_waiting = True
        self.began_s = self._since_s = clock()
        self._busy_s = loader.stalls.busy_seconds
        self._waited_s = loader.stalls.wait_seconds
        self._read = self._data()

    def watched(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Iterate over the batches; a batch is done when the next one is requested."""
        for batch in batches:
            self._since_s, self._is_waiting = self._clock(), False
            yield batch
            self._batches += 1
            self._since_s, self._is_waiting = self._clock(), True
        self._is_over = True

    @property
    def done(self) -> int:
        """Number of units of the epoch that are done, including those before this iteration."""
        if self._is_over:
            return self.total
        if not self._by_sample:
            return self.first + self._batches
        reading = self._loader.metrics_snapshot()
        return int(reading["loader_position"][()]) if reading["loader_epoch"][()] == self.number else self.total

    @property
    def text(self) -> str:
        """Current activity, share and stage of the waits, and hits per read, as far as known."""
        data = self._data()
        stalls = self._loader.stalls
        waited = {stage: seconds - self._waited_s[stage] for stage, seconds in stalls.wait_seconds.items()}
        wait_s = sum(waited.values())
        whole_s = wait_s + stalls.busy_seconds - self._busy_s
        parts = [self._current(data)] if not self._is_over else []
        if whole_s > 0:
            top = max(waited, key=lambda stage: waited[stage])
            parts.append(f"wait {wait_s / whole_s:.0%} ({top})" if wait_s > 0 else "wait 0%")
        if reads := data.get("reads", 0) - self._read.get("reads", 0):
            hits = data.get("cache_hits", 0) - self._read.get("cache_hits", 0)
            parts.append(f"hit {max(hits / reads, 0):.0%}")
        return ", ".join(part for part in parts if part)

    def _current(self, data: dict[str, float]) -> str:
        seconds = self._clock() - self._since_s
        if seconds < LONG_S:
            return ""
        if not self._is_waiting:
            return f"in step for {seconds:.0f} s"
        is_reading = data.get("source_in_flight", 0) + data.get("prefetch_in_flight", 0) > 0
        return f"waiting for {'source' if is_reading else 'data'} {seconds:.0f} s"

    def _data(self) -> dict[str, float]:
        """Return the sums of the data set's counters; empty if it is closed or not one of this library."""
        read: Callable[[], MetricsSnapshot] = getattr(self._loader.dataset, "metrics_snapshot", dict)
        families = ("reads", "cache_hits", "source_in_flight", "prefetch_in_flight")
        try:
            reading = read()
        except StreamingError:
            return {}
        return {family: float(sum(reading.get(family, {}).values())) for family in families}


class _Ticker:
    """Shows an epoch at intervals, from a thread, until it ends."""

    def __init__(self, epoch: _Epoch, screen: Callable[[_Epoch], Screen], interval_s: float) -> None:
        self._epoch = epoch
        self._open = screen
        self._screen: Screen | None = None
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="streaming-progress", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while True:
                with _DRAWING:
                    self._screen = self._screen or self._open(self._epoch)
                done, text = self._epoch.done, self._epoch.text
                with _DRAWING:
                    self._screen.show(done, text)
                if self._ended.wait(self._interval_s):
                    break
            with _DRAWING:
                self._screen.close(self._epoch.done, self._epoch.text)
        except Exception as exc:  # such as a closed stream
            logger.warning("progress_failed error=%s", exc)

    def end(self) -> None:
        """Show the last state and stop."""
        self._ended.set()
        if threading.current_thread() is not self._thread:  # as when an abandoned iterator is garbage-collected
            self._thread.join(JOIN_S)


class _Held:
    """Replaces tqdm's lock, which stays locked when a write fails: all drawing is done under `_DRAWING`."""

    def acquire(self, *_: object) -> bool:
        return True

    def release(self) -> None:
        """Nothing to release."""

    def __enter__(self) -> None:
        """Nothing to acquire."""

    def __exit__(self, *_: object) -> None:
        """Nothing to release."""


class _Tqdm(tqdm):  # type: ignore[type-arg]  # counts, iterates over nothing
    """tqdm without its thread and its locks."""

    monitor_interval = 0


_Tqdm.set_lock(_Held())


class _Bar:
    """A bar in a terminal."""

    def __init__(self, stream: TextIO, epoch: _Epoch, desc: str | None, unit: str, clock: Callable[[], float]) -> None:
        self._bar = bar = _Tqdm(
            desc=_title(epoch, desc),
            total=epoch.total,
            initial=epoch.first,
            unit=f" {unit}",
            file=stream,
            mininterval=0,
            miniters=1,
            dynamic_ncols=True,
        )
        bar._time = clock  # type: ignore[attr-defined]  # tqdm's own clock may be set back, which stops the bar
        bar.start_t = bar.last_print_t = epoch.began_s

    def show(self, done: int, text: str) -> None:
        self._bar.set_postfix_str(text, refresh=False)
        if done <= self._bar.n or not self._bar.update(done - self._bar.n):
            self._bar.refresh()

    def close(self, done: int, text: str) -> None:
        self.show(done, text)
        self._bar.close()


class _Lines:
    """Plain lines, for a log file."""

    def __init__(self, stream: TextIO, epoch: _Epoch, desc: str | None, unit: str, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._began_s = epoch.began_s
        self._shape: dict[str, Any] = {
            "total": epoch.total,
            "initial": epoch.first,
            "unit": f" {unit}",
            "prefix": _title(epoch, desc),
            "bar_format": "{desc}: {percentage:.0f}% {n_fmt}/{total_fmt} {elapsed}<{remaining} {rate_fmt}{postfix}",
        }

    def show(self, done: int, text: str) -> None:
        line = tqdm.format_meter(n=done, elapsed=self._clock() - self._began_s, postfix=text, **self._shape)
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def close(self, done: int, text: str) -> None:
        self.show(done, text)


def _title(epoch: _Epoch, desc: str | None) -> str:
    if desc is not None or epoch.number is None:
        return desc or "batches"
    return f"epoch {epoch.number}"


def _sampler_of(loader: Any) -> StreamingSampler | None:
    """Return the sampler that knows the position in the epoch, for a `StreamingDataLoader`."""
    for name in ("batch_sampler", "sampler"):
        if hasattr(loader, "state_dict") and isinstance(found := getattr(loader, name, None), StreamingSampler):
            return found
    return None


def _batches(loader: Any, sampler: StreamingSampler, units: int) -> int:
    size = 1 if loader.batch_sampler is sampler else int(loader.batch_size or 1)
    return units // size if loader.drop_last else -(-units // size)
