"""Reads beside each other: the first to succeed wins, the others are cancelled and awaited.

The first runs in the caller's own task and frame. Only when it is late is another started, in a task of its own, so a
read that comes in time costs one timer, and neither a task nor a coroutine.
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
"""A read, and after how many seconds it is late."""


class Race(ABC):
    """One read, by as many contenders as it takes; a subclass says which come after the first.

    The caller awaits the first contender itself::

        race.begin(stall_timeout_s)
        try:
            blob = await first
        except BaseException as error:
            blob = await race.go_on(error)
        else:
            if race.end():
                await race.cancel_others()

    Args:
        context: gives the timers.

    Attributes:
        was_second: the winner was one that ran beside the first.
    """

    # Values of a race that nobody joins stand on the class: to set each of them would cost 0.4 us a read.
    was_second = False
    _beside: set[asyncio.Task[Blob]] | None = None
    _errors: list[Exception] | None = None
    _winner: Blob | None = None
    _turn: asyncio.Future[None] | None = None
    _fault: Exception | None = None  # of `more` or `is_final`, which ends the race

    def __init__(self, context: Context) -> None:
        self._context = context
        self._timer: Timer
        self._cut: Interruption | None

    @abstractmethod
    def more(self, is_late: bool) -> Contender | float | None:
        """The next contender, or None for no more, or after how many seconds to ask again.

        Args:
            is_late: the last one is late; otherwise all have failed, and nothing can be put off.
        """

    def is_final(self, error: Exception) -> bool:
        """Whether an error ends the race at once."""
        return False

    def begin(self, stall_timeout_s: float) -> None:
        """Await a contender from now on, which is late after so many seconds."""
        self._cut = Interruption()
        self._timer = self._context.call_later(stall_timeout_s, self._on_late)

    def end(self) -> bool:
        """The awaited contender has succeeded. Whether others run that are to be cancelled (`cancel_others`)."""
        self._timer.cancel()
        cut, self._cut = self._cut, None
        if cut is not None and cut.is_fired:
            cut.is_own()  # it came although it was overtaken in the same moment
        return bool(self._beside)

    async def go_on(self, error: BaseException) -> Blob:
        """The blob of another contender, now that the first has ended with an error, or was overtaken.

        Raises:
            StreamingError: the first error, once all contenders have failed; a final one at once.
        """
        try:
            self._note(error)
            while (blob := await self._wait_for_others()) is None:
                contender = self.more(False)
                if contender is None or isinstance(contender, float):
                    assert self._errors
                    raise self._errors[0]
                if (blob := await self._run_here(contender)) is not None:
                    break
            return blob
        finally:
            self._timer.cancel()
            if self._beside:
                await self.cancel_others()

    def _note(self, error: BaseException) -> None:
        """Keep the error of the awaited contender; raises it if it ends the race, or came from outside."""
        cut, self._cut = self._cut, None
        is_overtaken = cut is not None and cut.is_own()
        if isinstance(error, asyncio.CancelledError):
            if not is_overtaken:
                raise error
        elif not isinstance(error, StreamingError) or self.is_final(error):
            raise error
        else:
            self._keep(error)
        if not self._beside:
            self._timer.cancel()

    def _keep(self, error: Exception) -> None:
        if self._errors is None:
            self._errors = []
        self._errors.append(error)

    async def _run_here(self, contender: Contender) -> Blob | None:
        """The blob of this contender; None if it failed or was overtaken."""
        read, stall_timeout_s = contender
        self._timer.cancel()
        self.begin(stall_timeout_s)
        try:
            blob = await read
        except BaseException as error:
            self._note(error)
            return None
        self.end()
        return blob

    async def _wait_for_others(self) -> Blob | None:
        while self._beside and self._winner is None and self._fault is None:
            self._turn = asyncio.get_running_loop().create_future()
            await self._turn
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
        contender = self.more(True)
        if contender is None:
            return
        if isinstance(contender, float):
            self._timer = self._context.call_later(contender, self._on_late)
            return
        read, stall_timeout_s = contender
        task = asyncio.get_running_loop().create_task(read)
        if self._beside is None:
            self._beside = set()
        self._beside.add(task)
        task.add_done_callback(self._on_done)
        self._timer = self._context.call_later(stall_timeout_s, self._on_late)

    def _on_done(self, task: asyncio.Task[Blob]) -> None:
        assert self._beside is not None
        self._beside.discard(task)
        if task.cancelled():
            self._go_on()
            return
        error = task.exception()
        if error is None:
            if self._winner is None:
                self._winner = task.result()
                if self._cut is not None:
                    self._cut.fire()
        elif isinstance(error, Exception):
            self._keep(error)
            try:
                if self._cut is not None and not self.is_final(error):
                    self._timer.cancel()
                    self._on_late()  # the one awaited is late already
            except Exception as exc:
                self._end_with(exc)
        self._go_on()

    def _end_with(self, fault: Exception) -> None:
        """End the race with an error of a callback, which nobody awaits."""
        self._fault = self._fault or fault
        if self._cut is not None:
            self._cut.fire()
        self._go_on()

    def _go_on(self) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    async def cancel_others(self) -> None:
        """End what runs beside, and wait until it has ended."""
        assert self._beside is not None
        others = list(self._beside)
        self._cut = None
        for task in others:
            task.cancel()
        await asyncio.wait(others)
