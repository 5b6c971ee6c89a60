"""A load in flight, the readers that wait for it, and the share of a byte budget that it holds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Hashable
from time import perf_counter
from typing import Any, Protocol

from streaming.core.miss import MISS

__all__ = ["Load", "LoopWait", "Releasable", "ThreadWait", "Wait"]


class Releasable(Protocol):
    """A share of a byte budget, held until it is released: the reservation of a cache."""

    def release(self) -> None:
        """Give the share back. Idempotent. Any thread."""


class Load:
    """A load in flight, and the readers that wait for it. Changed under the lock of its `ReadAhead`.

    Attributes:
        key: what is loaded.
        is_ahead: whether it was announced, not demanded.
        reservation: its share of the budget while a reader waits for it; None where there is none, or where the key
            keeps the share until it is used.
        share: the share that it was started with, for the one who loads.
        since: moment, as `time.perf_counter`, from which it only waited for its turn: demanded, or chosen to be loaded.
        waiters: the waits of its readers, each with the number of the key in that wait.
        task: runs the load on the event loop; None while it is queued, or if a thread loads it.
    """

    __slots__ = ("is_ahead", "key", "reservation", "share", "since", "task", "waiters")

    def __init__(self, key: Hashable, is_ahead: bool) -> None:
        self.key = key
        self.is_ahead = is_ahead
        self.reservation: Releasable | None = None
        self.share: Releasable | None = None
        self.waiters: list[tuple[Wait, int]] = []
        self.task: asyncio.Future[Any] | None = None
        self.since = perf_counter()


class Wait:
    """A reader that waits for several loads at once, and is woken once: by the last of them, or by the first error.

    Attributes:
        values: a value for each key; `MISS` before it has arrived.
        error: the first error.
        pending: number of loads that it still waits for.
    """

    def __init__(self, keys: int) -> None:
        self.values: list[Any] = [MISS] * keys
        self.error: BaseException | None = None
        self.pending = 0

    def put(self, at: int, value: Any) -> bool:
        """Take the value of a key; whether the reader has to be woken. Under the lock."""
        self.values[at] = value
        self.pending -= 1
        return self.pending == 0 and self.error is None

    def fail(self, at: int, error: BaseException) -> bool:
        """Take the error of a key; whether the reader has to be woken. Under the lock."""
        self.pending -= 1
        is_first, self.error = self.error is None, self.error or error
        return is_first

    def wake(self) -> None:
        """Wake the reader. Any thread."""
        raise NotImplementedError


class ThreadWait(Wait):
    """A thread that waits."""

    def __init__(self, keys: int) -> None:
        super().__init__(keys)
        self._gate = threading.Lock()
        self._gate.acquire()

    def block(self) -> None:
        """Wait until `wake`; a signal handler that raises ends the wait."""
        self._gate.acquire()

    def wake(self) -> None:
        self._gate.release()


class LoopWait(Wait):
    """A coroutine that waits, on its loop."""

    def __init__(self, keys: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(keys)
        self._loop = loop
        self.woken: asyncio.Future[None] = loop.create_future()

    def wake(self) -> None:
        if asyncio._get_running_loop() is self._loop:
            self._finish()
            return
        try:
            self._loop.call_soon_threadsafe(self._finish)
        except RuntimeError:
            if not self._loop.is_closed():  # else no one waits any more
                raise

    def _finish(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)
