"""Time for the wrappers: the loop's own, or a clock that a test moves; and ending an await when time is up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


class Timer(Protocol):
    """What a callback waits on."""

    def cancel(self) -> object:
        """Never call back."""


class Time:
    """Seconds, sleeping, and callbacks later.

    Args:
        clock: seconds since some moment.
        sleep: waits so many of them.
    """

    __slots__ = ("_is_real", "now", "sleep")

    def __init__(self, clock: Clock = time.monotonic, sleep: Sleep = asyncio.sleep) -> None:
        self.now = clock
        self.sleep = sleep
        self._is_real = sleep is asyncio.sleep

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back after so many seconds, unless the timer is cancelled. By the loop's timers that takes 1 us."""
        loop = asyncio.get_running_loop()
        if self._is_real:
            return loop.call_later(seconds, callback)
        return loop.create_task(self._call_later(seconds, callback))

    async def _call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        await self.sleep(seconds)
        callback()


class Interruption:
    """Ends what the task that made it awaits, told apart from a cancel that comes from elsewhere.

    As `asyncio.timeout` does it, but without a context manager and its 4 us: `fire` cancels the task, and where the
    `CancelledError` arrives, `is_own` says whether it was meant for here.
    """

    __slots__ = ("_cancels_before", "_task", "is_fired")

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "a read runs in a task"
        self._task = task
        self._cancels_before = task.cancelling()
        self.is_fired = False

    def fire(self) -> None:
        """End the await. Only while the task awaits what is to be ended; a second call does nothing."""
        if not self.is_fired:
            self.is_fired = True
            self._task.cancel()

    def is_own(self) -> bool:
        """Whether nobody but `fire` has cancelled the task; takes that cancel back. To be asked once."""
        return self.is_fired and self._task.uncancel() <= self._cancels_before
