"""Reads as the engine makes them: by a thread first, then by the chain of wrappers where that fails or is late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from streaming.resilience import Context, stack
from streaming.resilience.first_attempt import FirstAttempt, FirstAttempts, TakenOver, TakeOver
from streaming.sources.base import Blob, DataSource, Expected, FileInfo, NeedsLoop
from streaming.testing import FakeClock
from tests.resilience.parts import settle

T = TypeVar("T")


class Blocking(DataSource):
    """Another source, which threads can read too: the other one then reads on the loop, while the thread waits."""

    def __init__(self, source: DataSource, threads: ThreadsFirst) -> None:
        super().__init__(source.config)
        self.source = source
        self._threads = threads
        self.read_blocking = self._read_blocking

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        return await self.source.read(path, start, end)

    def _read_blocking(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        return asyncio.run_coroutine_threadsafe(self._read_for_thread(path, start, end), self._threads.loop).result()

    async def _read_for_thread(self, path: str, start: int, end: int | None) -> Blob:
        self._threads.busy -= 1
        try:
            return await self.source.read(path, start, end)
        finally:
            self._threads.busy += 1

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        async for info in self.source.iter_files(prefix):
            yield info

    async def aclose(self) -> None:
        await self.source.aclose()


class ThreadsFirst:
    """A stack of replicas whose first attempts are made by threads. Reads one object at a time, or several.

    Use it in an `async with` block. `driven` moves a clock, but never while a thread does something.

    Attributes:
        source: the stack.
        busy: threads that do not wait for a source.
        taken_over: attempts that the chain took over because they were late.
    """

    def __init__(self, replicas: Sequence[DataSource], context: Context, clock: FakeClock) -> None:
        self.loop = asyncio.get_running_loop()
        self.source = stack([Blocking(replica, self) for replica in replicas], context)
        self.attempts = FirstAttempts(self.source, self.loop)
        self.busy = 0
        self.taken_over = 0
        self._clock = clock
        self._pool = ThreadPoolExecutor(64)
        self._begun: dict[asyncio.Future[FirstAttempt], list[FirstAttempt]] = {}
        self._threads: set[asyncio.Future[Blob]] = set()

    async def read(self, path: str) -> Blob:
        return await self.read_expecting(path, Expected())

    async def read_expecting(self, path: str, expect: Expected | None, start: int = 0, end: int | None = None) -> Blob:
        """Read in a thread, and on the loop from where it left off."""
        expect = expect or Expected()
        late: asyncio.Future[FirstAttempt] = self.loop.create_future()
        begun = self._begun[late] = []
        self.busy += 1
        thread = self.loop.run_in_executor(self._pool, self._read_in_thread, begun, path, expect, start, end)
        self._threads.add(thread)
        thread.add_done_callback(self._on_end)
        try:
            ended: list[asyncio.Future[Any]] = [thread, late]
            await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
            if not late.done():
                try:
                    return thread.result()
                except NeedsLoop:
                    return await self.source.read_expecting(path, expect, start, end)
                except TakeOver:
                    pass
            return await self.source.read_expecting(path, expect._replace(begun=begun[0]), start, end)
        finally:
            del self._begun[late]

    def _read_in_thread(
        self, begun: list[FirstAttempt], path: str, expect: Expected, start: int, end: int | None
    ) -> Blob:
        attempt = self.attempts.begin()
        if attempt is None:
            raise NeedsLoop
        begun.append(attempt)
        return attempt.read(path, expect, start, end)

    def _on_end(self, thread: asyncio.Future[Blob]) -> None:
        self.busy -= 1
        self._threads.discard(thread)
        if isinstance(thread.exception(), TakenOver):
            assert self.taken_over

    def watch(self) -> None:
        """Take over what is late, as the engine's timer does."""
        for late, begun in self._begun.items():
            if begun and not late.done() and begun[0].is_late() and begun[0].claim():
                self.taken_over += 1
                late.set_result(begun[0])
        self.attempts.settle()

    async def quiet(self) -> None:
        """Wait until every thread has ended or waits for its source, and no task is ready."""
        await settle()
        while self.busy:  # noqa: ASYNC110  # a thread waits, without an event
            await asyncio.sleep(0)
        await settle()
        self.attempts.settle()

    async def driven(self, work: Awaitable[T], step_s: float = 0.0625, most_s: float = 300.0) -> T:
        """Return the result of `work`, moving the clock whenever no task is ready and every thread waits."""
        task = asyncio.ensure_future(work)
        until = self._clock.time() + most_s
        while True:
            await self.quiet()
            if task.done():
                return task.result()
            assert self._clock.time() < until, f"it has not ended within {most_s} s"
            self._clock.tick(step_s)
            self.watch()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._threads:
            await asyncio.wait(self._threads)
            await settle()
        self._pool.shutdown()
