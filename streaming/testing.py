"""Sources and a clock for tests, this library's and yours: memory, latency, planned faults, a fake clock.

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
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count
from typing import Any

from streaming.sources.base import Blob, DataSource, WrapperSource
from streaming.sources.memory import MemorySource

__all__ = ["FakeClock", "Fault", "FaultySource", "LatencySource", "MemorySource"]


class _PreciseSleep:
    """Sleeps timed by a thread, as timers of uvloop have steps of 1 ms and fire up to that much early or late.

    Waking takes two threads some 0.2 ms, which is measured and subtracted, so that 5 ms are 5.0 ms on average.
    """

    IDLE_S = 0.2  # how long the thread waits for more sleepers before it ends
    MAX_CORRECTION_S = 0.000_3  # a busy loop is later than that, as it would be with a real store

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._is_running = False
        self._correction_s = 0.0

    async def __call__(self, seconds: float) -> None:
        if seconds <= 0:
            return
        until = time.monotonic() + seconds
        if self._pid != os.getpid():
            self._reset()  # forked: the thread exists only in the parent
        sleeper = asyncio.get_running_loop().create_future()
        with self._changed:
            heappush(self._sleepers, (until - self._correction_s, next(self._order), sleeper))
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="streaming-latency", daemon=True).start()
            elif self._sleepers[0][2] is sleeper:
                self._changed.notify()
        await sleeper
        correction = self._correction_s + 0.05 * (time.monotonic() - until)
        self._correction_s = min(max(correction, 0.0), self.MAX_CORRECTION_S)

    def _run(self) -> None:
        while due := self._next_due():
            for loop in {sleeper.get_loop() for sleeper in due}:
                with contextlib.suppress(RuntimeError):  # it is closed, so no one waits
                    loop.call_soon_threadsafe(_wake, [sleeper for sleeper in due if sleeper.get_loop() is loop])

    def _next_due(self) -> list[asyncio.Future[None]]:
        """Wait for the next sleepers that are due; empty after a while without any."""
        with self._changed:
            while not self._sleepers or self._sleepers[0][0] > time.monotonic():
                left_s = self._sleepers[0][0] - time.monotonic() if self._sleepers else self.IDLE_S
                if not self._changed.wait(max(left_s, 0.0)) and not self._sleepers:
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


class LatencySource(WrapperSource):
    """Delays every read, as a distant store does; reads wait in parallel.

    The delay is exact to about 0.1 ms, where a timer of an event loop has steps of 1 ms.

    Args:
        source: the source that is read.
        latency_s: delay of each read.
        jitter_s: upper bound of an additional random delay, evenly distributed.
        seed: seed of the jitter.
        sleep: waits for some seconds, such as `FakeClock.sleep`; None: real time.
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
    """A failure of some reads. Of the last four fields each that is set is applied.

    Attributes:
        path: only reads of this path; None for any.
        nth: only the n-th read, from 1 on, counted per path if `path` is given; None for each.
        times: number of reads that fail before it is over; None for no end.
        error: raised instead of reading.
        keep_bytes: length to which the data is cut.
        flip_byte: index of a byte to invert, negative from the end.
        etag: replaces the true one.
    """

    path: str | None = None
    nth: int | None = None
    times: int | None = 1
    error: Exception | None = None
    keep_bytes: int | None = None
    flip_byte: int | None = None
    etag: str | None = None

    def applies(self, path: str, path_reads: int, all_reads: int) -> bool:
        """Whether it applies to a read, given its number among the reads of its path and among all, both from 1."""
        if self.path is not None and path != self.path:
            return False
        return self.nth is None or self.nth == (all_reads if self.path is None else path_reads)

    def applied(self, blob: Blob) -> Blob:
        """Return `blob` with its data cut, a byte inverted and its ETag replaced, as this fault says."""
        data = bytearray(blob.data)
        if self.flip_byte is not None:
            data[self.flip_byte] ^= 0xFF
        if self.keep_bytes is not None:
            del data[self.keep_bytes :]
        return replace(blob, data=bytes(data), etag=blob.etag if self.etag is None else self.etag)


class FaultySource(WrapperSource):
    """Makes reads fail as planned.

    Args:
        source: the source that is read.
        faults: the first that applies to a read is used.

    Attributes:
        struck: number of reads to which a fault was applied.
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
            if left != 0 and fault.applies(path, self._reads[path], self._reads.total()):
                self._left[number] = None if left is None else left - 1
                self.struck += 1
                return fault
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.source, self.faults)


class FakeClock:
    """A clock that moves only by `tick`; replaces `time.monotonic` and `asyncio.sleep`. For one thread."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def time(self) -> float:
        """Return the seconds to which `tick` has moved the clock."""
        return self._now

    __call__ = time

    def tick(self, seconds: float) -> None:
        """Move the clock forward by `seconds` and wake the sleepers that are due, in order.

        Raises:
            ValueError: if `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"a clock does not run back: tick({seconds})")
        self._now += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now:
            _wake([heappop(self._sleepers)[2]])

    async def sleep(self, seconds: float) -> None:
        """Wait until `tick` has moved the clock forward by `seconds`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        sleeper = asyncio.get_running_loop().create_future()
        heappush(self._sleepers, (self._now + seconds, next(self._order), sleeper))
        await sleeper
