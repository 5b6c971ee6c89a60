"""Reads beside each other: the first to succeed wins, the others are cancelled and awaited.

The first runs in the caller's own task. Only when it is late is another started, in a task of its own, so a read that
comes in time costs one timer and no task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from streaming.errors import StreamingError
from streaming.resilience.timing import Interruption, Time, Timer
from streaming.sources.base import Blob

Contender: TypeAlias = tuple[Coroutine[Any, Any, Blob], float]
"""A read, and after how many seconds it is late."""


class Race:
    """One read, by as many contenders as it takes.

    Args:
        more: gives the next contender, or None for no more, or after how many seconds to ask again; told whether the
            last is late (True) or all have failed (then it does not put off).
        is_final: whether an error ends the race at once.

    Attributes:
        was_second: the winner was one that ran beside the first.
    """

    __slots__ = ("_cut", "_errors", "_is_final", "_more", "_time", "_timer", "_turn", "_winner", "beside", "was_second")

    def __init__(
        self,
        time: Time,
        more: Callable[[bool], Contender | float | None],
        is_final: Callable[[Exception], bool],
    ) -> None:
        self._time = time
        self._more = more
        self._is_final = is_final
        self.beside: set[asyncio.Task[Blob]] = set()
        self.was_second = False
        self._errors: list[Exception] = []
        self._winner: Blob | None = None
        self._timer: Timer | None = None
        self._cut: Interruption | None = None
        self._turn: asyncio.Future[None] | None = None

    async def run(self, first: Contender) -> Blob:
        """The blob of the first contender that succeeds.

        Raises:
            StreamingError: the first error, once all contenders have failed; a final one at once.
        """
        contender: Contender | None = first
        try:
            while contender is not None:
                if (blob := await self._run_here(contender)) is not None:
                    return blob
                if (blob := await self._wait_for_others()) is not None:
                    return blob
                found = self._more(False)
                contender = None if isinstance(found, float) else found
            raise self._errors[0]
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self.beside:
                await self._cancel_others()

    async def _run_here(self, contender: Contender) -> Blob | None:
        """The blob of this contender; None if it failed or was overtaken."""
        read, late_after_s = contender
        if self._timer is not None:
            self._timer.cancel()
        self._cut = cut = Interruption()
        self._timer = self._time.call_later(late_after_s, self._on_late)
        try:
            blob = await read
            cut.is_own()  # it came although it was overtaken in the same moment
            return blob
        except asyncio.CancelledError:
            if not cut.is_own():
                raise
            return None
        except StreamingError as error:
            cut.is_own()
            if self._is_final(error):
                raise
            self._errors.append(error)
            return None
        finally:
            self._cut = None
            if not self.beside:
                self._timer.cancel()

    async def _wait_for_others(self) -> Blob | None:
        while self.beside and self._winner is None:
            self._turn = asyncio.get_running_loop().create_future()
            await self._turn
        self.was_second = self._winner is not None
        return self._winner

    def _on_late(self) -> None:
        contender = self._more(True)
        if contender is None:
            return
        if isinstance(contender, float):
            self._timer = self._time.call_later(contender, self._on_late)
            return
        read, late_after_s = contender
        task = asyncio.get_running_loop().create_task(read)
        self.beside.add(task)
        task.add_done_callback(self._on_done)
        self._timer = self._time.call_later(late_after_s, self._on_late)

    def _on_done(self, task: asyncio.Task[Blob]) -> None:
        self.beside.discard(task)
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
            self._errors.append(error)
            if self._timer is not None and self._cut is not None and not self._is_final(error):
                self._timer.cancel()
                self._on_late()  # the one awaited is late already
        self._go_on()

    def _go_on(self) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    async def _cancel_others(self) -> None:
        others = list(self.beside)
        self._cut = None
        for task in others:
            task.cancel()
        await asyncio.wait(others)
