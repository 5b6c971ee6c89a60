"""Shared by the tests of the wrappers: sources that hang until released, and a clock that is moved for a read."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

from streaming.errors import SourceError, SourceUnavailable
from streaming.resilience import Context, ResilienceConfig
from streaming.sources.base import Blob, DataSource, FileInfo
from streaming.testing import FakeClock, MemorySource

T = TypeVar("T")

DATA = b"content of the object"


def memory(name: str = "memory", count: int = 1) -> MemorySource:
    """Return `0.bin`, `1.bin` and so on, each with its own content."""
    return MemorySource(name, {f"{number}.bin": DATA + b"%d" % number for number in range(count)})


def in_time_of(clock: FakeClock, rng: random.Random | None = None, **settings: Any) -> Context:
    """Return the default context, except for some settings, with the test's clock."""
    return Context(ResilienceConfig(**settings), clock, clock.sleep, rng)


class Held(DataSource):
    """Objects whose reads first follow a script: fail, hang until `release`, or succeed.

    Attributes:
        script: for each coming read an error to raise, None to read at once, or "hold"; `rest` is for all later ones.
        started: reads so far.
        in_flight: reads that wait.
        cancelled: reads that were cancelled while they waited.
    """

    def __init__(self, source: DataSource, script: Iterable[Exception | str | None] = (), rest: Any = None) -> None:
        super().__init__(source.config)
        self.source = source
        self.script = list(script)
        self.rest = rest
        self.started = 0
        self.in_flight = 0
        self.cancelled = 0
        self._waiting: list[asyncio.Future[None]] = []

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        self.started += 1
        what = self.script.pop(0) if self.script else self.rest
        if isinstance(what, Exception):
            raise what.with_traceback(None)
        if what == "hold":
            await self._hold()
        return await self.source.read(path, start, end)

    async def _hold(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self.in_flight += 1
        try:
            await turn
        except asyncio.CancelledError:
            self.cancelled += 1
            await asyncio.sleep(0)  # cleaning up takes a turn, as with a real client
            raise
        finally:
            self.in_flight -= 1

    def release(self, error: Exception | None = None) -> None:
        """Let the waiting reads continue, or fail."""
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            if not turn.done():
                if error is None:
                    turn.set_result(None)
                else:
                    turn.set_exception(error)

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        count = 0
        async for info in self.source.iter_files(prefix):
            what = self.script[0] if self.script else self.rest
            if count == 2 and what is not None:
                if self.script:
                    self.script.pop(0)
                if isinstance(what, Exception):
                    raise what
                await self._hold()
            count += 1
            yield info

    async def aclose(self) -> None:
        await self.source.aclose()


class Highest(random.Random):
    """A generator of upper bounds, for the longest pauses."""

    def uniform(self, a: float, b: float) -> float:
        return b


def down(text: str = "connection refused", **marks: Any) -> SourceUnavailable:
    """Return the error of a source that is down; `marks` such as status=503 are set on it."""
    return marked(SourceUnavailable(text), **marks)


def marked(error: Any, **marks: Any) -> Any:
    """Set attributes on an error and return it."""
    for name, value in marks.items():
        setattr(error, name, value)
    return error


async def settle(turns: int = 12) -> None:
    """Let all ready tasks run."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def driven(clock: FakeClock, work: Awaitable[T], step_s: float = 0.05, most_s: float = 300.0) -> T:
    """Return the result of `work`, moving the clock whenever no task is ready."""
    task = asyncio.ensure_future(work)
    until = clock.time() + most_s
    while not task.done():
        await settle()
        if not task.done():
            assert clock.time() < until, f"it has not ended within {most_s} s"
            clock.tick(step_s)
    return task.result()


async def cancelled_at_every_turn(start: Callable[[], Awaitable[Any]], turns: int = 15) -> list[str]:
    """Start the work repeatedly, cancel it after 0, 1, 2 ... turns, and return how each ended."""
    ends = []
    for count in range(turns):
        task = asyncio.ensure_future(start())
        for _ in range(count):
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
            ends.append("done")
        except asyncio.CancelledError:
            ends.append("cancelled")
        except SourceError:
            ends.append("failed")
        await settle()
    return ends
