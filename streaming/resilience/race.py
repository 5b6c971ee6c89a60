"""Reads that run in parallel: the first to succeed wins, the others are cancelled and awaited.

The first one runs in the caller's own task and frame. Another one is started, in a task of its own, only when the first
is late, so a read that comes in time costs one timer and neither a task nor a coroutine.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, TypeAlias

from streaming.errors import StreamingError
from streaming.resilience.context import Context, Timer
from streaming.resilience.interruption import Interruption
from streaming.sources.base import Blob

Contender: TypeAlias = tuple[Coroutine[Any, Any, Blob], float]
"""A read, and the seconds after which it is late."""


class Race(ABC):
    """One read, made by as many contenders as it takes; a subclass names those after the first.

    The caller awaits the first contender itself::

        race.begin(late_after_s)
        try:
            blob = await first
        except BaseException as error:
            blob = await race.finish(error)
        else:
            if race.end():
                await race.cancel_others()

    Args:
        context: gives the timers.

    Attributes:
        was_second: whether the winner was not the first contender.
    """

    # Initial values are on the class: setting each of them on the instance would cost 0.4 us a read.
    was_second = False
    _others: set[asyncio.Task[Blob]] | None = None
    _errors: list[Exception] | None = None
    _winner: Blob | None = None
    _waiter: asyncio.Future[None] | None = None
    _fault: Exception | None = None  # of `next_contender` or `is_final`, which ends the race

    def __init__(self, context: Context) -> None:
        self._context = context
        self._timer: Timer
        self._interruption: Interruption | None

    @abstractmethod
    def next_contender(self, is_late: bool) -> Contender | float | None:
        """Return the next contender, None if there is none, or the seconds after which to call this again.

        Args:
            is_late: whether the last one is late; otherwise all have failed, and waiting would not help.
        """

    def is_final(self, error: Exception) -> bool:
        """Whether an error ends the race at once."""
        return False

    def begin(self, late_after_s: float) -> None:
        """Start the timer of the contender that the caller awaits next."""
        self._interruption = Interruption()
        self._timer = self._context.call_later(late_after_s, self._on_late)

    def end(self) -> bool:
        """Stop the timer after a success. Returns whether others run, which `cancel_others` must end."""
        self._timer.cancel()
        interruption, self._interruption = self._interruption, None
        if interruption is not None and interruption.is_fired:
            interruption.is_own()  # another one won in the same moment
        return bool(self._others)

    async def finish(self, error: BaseException) -> Blob:
        """Return the blob of another contender after the first has failed or lost.

        Raises:
            StreamingError: the first error, once all contenders have failed, or a final one at once.
        """
        try:
            self._note(error)
            while (blob := await self._wait_for_winner()) is None:
                contender = self.next_contender(False)
                if contender is None or isinstance(contender, float):
                    assert self._errors
                    raise self._errors[0]
                if (blob := await self._run_here(contender)) is not None:
                    break
            return blob
        finally:
            self._timer.cancel()
            if self._others:
                await self.cancel_others()

    def _note(self, error: BaseException) -> None:
        """Keep the error of the awaited contender, or raise it if it ends the race or is a cancel from outside."""
        interruption, self._interruption = self._interruption, None
        has_lost = interruption is not None and interruption.is_own()
        if isinstance(error, asyncio.CancelledError):
            if not has_lost:
                raise error
        elif not isinstance(error, StreamingError) or self.is_final(error):
            raise error
        else:
            self._keep(error)
        if not self._others:
            self._timer.cancel()

    def _keep(self, error: Exception) -> None:
        if self._errors is None:
            self._errors = []
        self._errors.append(error)

    async def _run_here(self, contender: Contender) -> Blob | None:
        """Return the blob of this contender; None if it failed or lost."""
        read, late_after_s = contender
        self._timer.cancel()
        self.begin(late_after_s)
        try:
            blob = await read
        except BaseException as error:
            self._note(error)
            return None
        self.end()
        return blob

    async def _wait_for_winner(self) -> Blob | None:
        while self._others and self._winner is None and self._fault is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._fault is not None:
            raise self._fault
        self.was_second = self._winner is not None
        return self._winner

    def _on_late(self) -> None:
        try:
            self._start_another()
        except Exception as exc:
            self._end_with(exc)

    def _start_another(self) -> None:
        contender = self.next_contender(True)
        if contender is None:
            return
        if isinstance(contender, float):
            self._timer = self._context.call_later(contender, self._on_late)
            return
        read, late_after_s = contender
        task = asyncio.get_running_loop().create_task(read)
        if self._others is None:
            self._others = set()
        self._others.add(task)
        task.add_done_callback(self._on_done)
        self._timer = self._context.call_later(late_after_s, self._on_late)

    def _on_done(self, task: asyncio.Task[Blob]) -> None:
        assert self._others is not None
        self._others.discard(task)
        if task.cancelled():
            self._wake()
            return
        error = task.exception()
        if error is None:
            if self._winner is None:
                self._winner = task.result()
                if self._interruption is not None:
                    self._interruption.fire()
        elif isinstance(error, Exception):
            self._keep(error)
            try:
                if self._interruption is not None and not self.is_final(error):
                    self._timer.cancel()
                    self._on_late()  # the one that the caller awaits is late already
            except Exception as exc:
                self._end_with(exc)
        self._wake()

    def _end_with(self, fault: Exception) -> None:
        """End the race with an error of a callback, which no one awaits."""
        self._fault = self._fault or fault
        if self._interruption is not None:
            self._interruption.fire()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def cancel_others(self) -> None:
        """Cancel the other contenders, and wait until they have ended."""
        assert self._others is not None
        others = list(self._others)
        self._interruption = None
        for task in others:
            task.cancel()
        await asyncio.wait(others)
