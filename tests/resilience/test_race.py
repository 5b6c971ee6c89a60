"""Errors in the callbacks of a race, which nobody awaits, reach the reader."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from streaming.errors import SourceUnavailable, StreamingError
from streaming.resilience import Context
from streaming.resilience.race import Contender, Race
from streaming.sources.base import Blob
from tests.resilience.parts import settle


class Faulty(Race):
    """The first contender stands still; what comes after it is broken."""

    def __init__(self, more: list[Contender | Exception], final: Exception | None = None) -> None:
        super().__init__(Context())
        self._more = more
        self._final = final

    def next_contender(self, is_late: bool) -> Contender | float | None:
        """The next of the list."""
        found = self._more.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def is_final(self, error: Exception) -> bool:
        """Broken, if so told."""
        if self._final is not None:
            raise self._final
        return False

    async def read(self, first: Coroutine[Any, Any, Blob]) -> Blob:
        """As the wrappers do it."""
        self.begin(0.0)
        try:
            blob = await first
        except BaseException as error:
            return await self.finish(error)
        if self.end():
            await self.cancel_others()
        return blob


async def stand_still() -> Blob:
    """Never answers."""
    await asyncio.Event().wait()
    raise AssertionError


async def fail(error: StreamingError) -> Blob:
    """Answers with an error."""
    raise error


async def test_an_error_when_the_first_is_late_ends_the_race() -> None:
    """The reader gets it at once, though the first would never have answered; nothing runs on."""
    before = asyncio.all_tasks()
    with pytest.raises(ZeroDivisionError):
        await Faulty([ZeroDivisionError()]).read(stand_still())
    await settle()
    assert asyncio.all_tasks() == before


async def test_an_error_when_another_has_failed_ends_the_race() -> None:
    """Whether it is the next contender that cannot be had, or the error that cannot be judged."""
    down = SourceUnavailable("down")
    with pytest.raises(ZeroDivisionError):
        await Faulty([(fail(down), 60.0), ZeroDivisionError()]).read(stand_still())
    with pytest.raises(ZeroDivisionError):
        await Faulty([(fail(down), 60.0)], final=ZeroDivisionError()).read(stand_still())
