"""Ending an await from a timer, and telling that from a cancel that comes from elsewhere."""

from __future__ import annotations

import asyncio


class Interruption:
    """Ends what the task that made it awaits.

    Works like `asyncio.timeout`, without a context manager and its 4 us: `fire` cancels the task, and where the
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
        """End the await. Call it only while the task awaits what is to be ended; a second call does nothing."""
        if not self.is_fired:
            self.is_fired = True
            self._task.cancel()

    def is_own(self) -> bool:
        """Whether only `fire` has cancelled the task. Takes that cancel back, so call it once."""
        return self.is_fired and self._task.uncancel() <= self._cancels_before
