"""Sources and a clock for tests, this library's and yours: memory, latency, planned faults, time that you move.

The wrappers are sources themselves and pass the same contract. A wrapper owns what it wraps: closing it closes both.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count
from typing import Any

from streaming.sources.base import Blob, DataSource, FileInfo
from streaming.sources.memory import MemorySource

__all__ = ["FakeClock", "Fault", "FaultySource", "LatencySource", "MemorySource"]


class _Wrapper(DataSource):
    def __init__(self, source: DataSource) -> None:
        super().__init__(source.config)
        self.source = source

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        self._check_open()
        async for info in self.source.iter_files(prefix):
            yield info
        self.skipped = self.source.skipped

    def is_unchanged(self, blob: Blob, is_listed: Callable[[str], bool]) -> bool:
        return self.source.is_unchanged(blob, is_listed)

    async def aclose(self) -> None:
        self._closed = True
        await self.source.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source!r})"


class _PreciseSleep:
    """Sleeps kept by a thread, as timers of uvloop have steps of 1 ms and fire up to that much early or late.

    Waking takes two threads some 0.2 ms, which is measured and taken off, so that 5 ms are 5.0 ms on average.
    """

    LINGER_S = 0.2  # how long the thread waits for more before it ends
    MOST_TAKEN_OFF_S = 0.000_3  # a busy loop is later than that, as it would be with a real store

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._is_running = False
        self._taken_off_s = 0.0

    async def __call__(self, seconds: float) -> None:
        if seconds <= 0:
            return
        until = time.monotonic() + seconds
        if self._pid != os.getpid():
            self._reset()  # forked: the thread stayed with the parent
        sleeper = asyncio.get_running_loop().create_future()
        with self._changed:
            heappush(self._sleepers, (until - self._taken_off_s, next(self._order), sleeper))
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="streaming-latency", daemon=True).start()
            elif self._sleepers[0][2] is sleeper:
                self._changed.notify()
        await sleeper
        taken_off = self._taken_off_s + 0.05 * (time.monotonic() - until)
        self._taken_off_s = min(max(taken_off, 0.0), self.MOST_TAKEN_OFF_S)

    def _run(self) -> None:
        while due := self._next_due():
            for loop in {sleeper.get_loop() for sleeper in due}:
                with contextlib.suppress(RuntimeError):  # it is closed, so nobody waits
                    loop.call_soon_threadsafe(_wake, [sleeper for sleeper in due if sleeper.get_loop() is loop])

    def _next_due(self) -> list[asyncio.Future[None]]:
        """Wait for the next sleepers whose time has come; empty after a while without any."""
        with self._changed:
            while not self._sleepers or self._sleepers[0][0] > time.monotonic():
                rest = self._sleepers[0][0] - time.monotonic() if self._sleepers else self.LINGER_S
                if not self._changed.wait(max(rest, 0.0)) and not self._sleepers:
                    self._is_running = False
                    return []
            now = time.monotonic()
            due = []
            while self._sleepers and self._sleepers[0][0] <= now:
                due.append(heappop(self._sleepers)[2])
            return due


def _wake(sleepers: list[asyncio.Future[None]]) -> None:
    for sleeper in sleepers:
        if not sleeper.done():
            sleeper.set_result(None)


class LatencySource(_Wrapper):
    """Lets every read wait before it is passed on, as a distant store does; reads wait side by side.

    The wait is kept to about 0.1 ms, where a timer of an event loop has steps of 1 ms.

    Args:
        source: what is read.
        latency_s: seconds that each read waits.
        jitter_s: up to so many seconds more, evenly spread.
        seed: of the jitter.
        sleep: waits so many seconds, such as `FakeClock.sleep`; None: real time.
    """

    def __init__(
        self,
        source: DataSource,
        latency_s: float,
        jitter_s: float = 0.0,
        seed: int = 0,
        sleep: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(source)
        self.latency_s = latency_s
        self.jitter_s = jitter_s
        self.seed = seed
        self._random = random.Random(seed)
        self.sleep = sleep
        self._sleep = _PreciseSleep() if sleep is None else sleep

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        self._check_open()
        await self._sleep(self.latency_s + self.jitter_s * self._random.random())
        return await self.source.read(path, start, end)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.source, self.latency_s, self.jitter_s, self.seed, self.sleep)


@dataclass(frozen=True)
class Fault:
    """What goes wrong with some reads. Of the last four fields each that is set is applied.

    Attributes:
        path: reads of this path only; None for any.
        nth: only the n-th read from 1 on, counted per path where `path` is given; None for each.
        times: how many reads it strikes before it is over; None for no end.
        error: raised in place of reading.
        keep_bytes: cuts the data to so many bytes.
        flip_byte: inverts the byte at this place, negative from the end.
        etag: takes the place of the true one.
    """

    path: str | None = None
    nth: int | None = None
    times: int | None = 1
    error: Exception | None = None
    keep_bytes: int | None = None
    flip_byte: int | None = None
    etag: str | None = None

    def strikes(self, path: str, read_of_path: int, read_of_any: int) -> bool:
        """Whether a read is meant, given its numbers from 1 among those of its path and among all."""
        if self.path is not None and path != self.path:
            return False
        return self.nth is None or self.nth == (read_of_any if self.path is None else read_of_path)

    def applied(self, blob: Blob) -> Blob:
        """`blob` with its data cut, a byte inverted, its ETag changed, as this fault says."""
        data = bytearray(blob.data)
        if self.flip_byte is not None:
            data[self.flip_byte] ^= 0xFF
        if self.keep_bytes is not None:
            del data[self.keep_bytes :]
        return replace(blob, data=bytes(data), etag=blob.etag if self.etag is None else self.etag)


class FaultySource(_Wrapper):
    """Lets planned faults strike reads.

    Args:
        source: what is read.
        faults: the first that strikes a read is applied to it.

    Attributes:
        struck: how many reads were struck.
    """

    def __init__(self, source: DataSource, faults: Iterable[Fault] = ()) -> None:
        super().__init__(source)
        self.faults = tuple(faults)
        self.struck = 0
        self._left = [fault.times for fault in self.faults]
        self._reads: Counter[str] = Counter()

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        self._check_open()
        fault = self._fault_of(path)
        if fault is None:
            return await self.source.read(path, start, end)
        if fault.error is not None:
            raise fault.error.with_traceback(None)
        return fault.applied(await self.source.read(path, start, end))

    def _fault_of(self, path: str) -> Fault | None:
        self._reads[path] += 1
        for number, fault in enumerate(self.faults):
            left = self._left[number]
            if left != 0 and fault.strikes(path, self._reads[path], self._reads.total()):
                self._left[number] = None if left is None else left - 1
                self.struck += 1
                return fault
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.source, self.faults)


class FakeClock:
    """Time that moves only when told: stands in for `time.monotonic` and `asyncio.sleep`. For one thread."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def time(self) -> float:
        """Seconds, as far as `tick` has moved them."""
        return self._now

    __call__ = time

    def tick(self, seconds: float) -> None:
        """Move on by `seconds` and wake the sleepers whose time has come, in order.

        Raises:
            ValueError: if `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"time does not run back: tick({seconds})")
        self._now += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now:
            _wake([heappop(self._sleepers)[2]])

    async def sleep(self, seconds: float) -> None:
        """Wait until `tick` has moved the time on by `seconds`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        sleeper = asyncio.get_running_loop().create_future()
        heappush(self._sleepers, (self._now + seconds, next(self._order), sleeper))
        await sleeper
