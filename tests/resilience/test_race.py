"""Errors in the callbacks of a race, which no one awaits, reach the reader."""

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
    """A race whose first contender hangs, and whose later ones fail in a callback."""

    def __init__(self, more: list[Contender | Exception], final: Exception | None = None) -> None:
        super().__init__(Context())
        self._more = more
        self._final = final

    def next_contender(self, is_late: bool) -> Contender | float | None:
        """Return the next of the list."""
        found = self._more.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def is_final(self, error: Exception) -> bool:
        """Raise the error of `final`, if there is one."""
        if self._final is not None:
            raise self._final
        return False

    async def read(self, first: Coroutine[Any, Any, Blob]) -> Blob:
        """Read as the wrappers do."""
        self.begin(0.0)
        try:
            blob = await first
        except BaseException as error:
            return await self.finish(error)
        if self.end():
            await self.cancel_others()
        return blob


async def stand_still() -> Blob:
    """Hang forever."""
    await asyncio.Event().wait()
    raise AssertionError


async def fail(error: StreamingError) -> Blob:
    """Raise an error."""
    raise error


async def test_an_error_when_the_first_is_late_ends_the_race() -> None:
    """The reader gets it at once, though the first would never have answered; no task is left."""
    before = asyncio.all_tasks()
    with pytest.raises(ZeroDivisionError):
        await Faulty([ZeroDivisionError()]).read(stand_still())
    await settle()
    assert asyncio.all_tasks() == before


async def test_an_error_when_another_has_failed_ends_the_race() -> None:
    """Both if the next contender fails to start, and if the error cannot be classified."""
    down = SourceUnavailable("down")
    with pytest.raises(ZeroDivisionError):
        await Faulty([(fail(down), 60.0), ZeroDivisionError()]).read(stand_still())
    with pytest.raises(ZeroDivisionError):
        await Faulty([(fail(down), 60.0)], final=ZeroDivisionError()).read(stand_still())
