"""A bar over an epoch that never looks frozen: while nothing else moves, its time does, and it says what is waited for.

All drawing is done by a thread of its own, twice a second; the trainer's thread counts and draws nothing, so that a
slow terminal costs it nothing. tqdm alone draws when it is told of progress, and after a fast phase not even then.
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
"""A wait or a step that lasts as long is told of while it lasts."""
JOIN_S = 2.0
"""How long the end of an epoch waits for a stream that does not take text; the bar is left then."""

logger = get_logger(__name__)

_DRAWING = threading.Lock()  # a child forked during a write would keep the stream's own lock for ever
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_DRAWING.acquire, after_in_parent=_DRAWING.release, after_in_child=_DRAWING.release)


class Screen(Protocol):
    """Where the state of an epoch is shown."""

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
    """The loader's batches, with a bar while they are iterated over.

    The bar begins where a loaded state says. Beside it stand the share of its time that the trainer waited in this
    epoch, the stage most waited for, and the hits per read.

    Args:
        loader: a `StreamingDataLoader`, or what `streaming.monitor_stalls` made of another one.
        unit: what is counted: batches of this rank, or samples of all ranks (of a `StreamingDataLoader` only).
        desc: what stands before the bar; None is the number of the epoch.
        stream: where it is drawn; None is stderr.
        every_s: seconds between two drawings.
        plain_every_s: seconds between two plain lines where the stream is no terminal; None shows nothing there.
        rank: nothing is shown on another one than 0; None is the loader's own, or `RANK` of the environment.
        clock: seconds that never go back.

    Raises:
        ConfigError: the loader keeps no account of its steps, or knows no samples.
    """
    account_of(loader)
    if unit not in ("batch", "sample") or (unit == "sample" and _sampler_of(loader) is None):
        raise ConfigError(f"unit={unit!r} of a {type(loader).__name__}: give 'batch'")
    if rank is None:
        rank = int(getattr(loader, "rank", os.environ.get("RANK") or 0))
    stream = sys.stderr if stream is None else stream
    is_terminal = bool(getattr(stream, "isatty", bool)())
    interval_s = every_s if is_terminal else plain_every_s

    def screen(epoch: _Epoch) -> Screen:
        return (_Bar if is_terminal else _Lines)(stream, epoch, desc, unit, clock)

    return ProgressBar(loader, unit, screen, interval_s if rank == 0 else None, clock)


class ProgressBar:
    """Each iteration over it is an epoch with a bar of its own. See `progress`."""

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
        batches = iter(self.loader)  # goes to where a loaded state says
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
    """How far an epoch is, and what goes on. Written by the trainer's thread, read by any."""

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
        """The batches; a batch is done when the next one is asked for."""
        for batch in batches:
            self._since_s, self._is_waiting = self._clock(), False
            yield batch
            self._batches += 1
            self._since_s, self._is_waiting = self._clock(), True
        self._is_over = True

    @property
    def done(self) -> int:
        """Units of the epoch, those before this iteration too."""
        if self._is_over:
            return self.total
        if not self._by_sample:
            return self.first + self._batches
        reading = self._loader.metrics_snapshot()
        return int(reading["loader_position"][()]) if reading["loader_epoch"][()] == self.number else self.total

    @property
    def text(self) -> str:
        """What goes on, how much was waited and for what, and the hits per read, as far as known."""
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
        """The sums of what the data set counts; nothing where it is none of this library, or closed."""
        read: Callable[[], MetricsSnapshot] = getattr(self._loader.dataset, "metrics_snapshot", dict)
        families = ("reads", "cache_hits", "source_in_flight", "prefetch_in_flight")
        try:
            reading = read()
        except StreamingError:
            return {}
        return {family: float(sum(reading.get(family, {}).values())) for family in families}


class _Ticker:
    """Shows an epoch at intervals from a thread, until its end."""

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
        except Exception as exc:  # a closed stream, say
            logger.warning("progress_failed error=%s", exc)

    def end(self) -> None:
        """Show the last state and stop."""
        self._ended.set()
        if threading.current_thread() is not self._thread:  # where a forgotten iteration is collected
            self._thread.join(JOIN_S)


class _Held:
    """In place of tqdm's lock, which it keeps when a write fails: all drawing is done under `_DRAWING`."""

    def acquire(self, *_: object) -> bool:
        return True

    def release(self) -> None:
        """Nothing to release."""

    def __enter__(self) -> None:
        """Nothing to acquire."""

    def __exit__(self, *_: object) -> None:
        """Nothing to release."""


class _Tqdm(tqdm):  # type: ignore[type-arg]  # counts, iterates over nothing
    """tqdm without its own thread and its locks."""

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
        bar._time = clock  # type: ignore[attr-defined]  # tqdm's own may be set back, which stops it
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
    """What knows the place in the epoch, of a `StreamingDataLoader`."""
    for name in ("batch_sampler", "sampler"):
        if hasattr(loader, "state_dict") and isinstance(found := getattr(loader, name, None), StreamingSampler):
            return found
    return None


def _batches(loader: Any, sampler: StreamingSampler, units: int) -> int:
    size = 1 if loader.batch_sampler is sampler else int(loader.batch_size or 1)
    return units // size if loader.drop_last else -(-units // size)
