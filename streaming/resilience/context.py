"""The settings, the clock and the random generator that every wrapper needs besides its source."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from streaming.resilience.settings import DEFAULTS, ResilienceConfig

_RANDOM = random.SystemRandom()  # differs between forked processes, which must not retry in step


class Timer(Protocol):
    """A callback that is due later."""

    def cancel(self) -> object:
        """Drop the callback."""


@dataclass(frozen=True, slots=True)
class Context:
    """Settings and time of a stack of wrappers. A test gives its own clock and sleep.

    Attributes:
        settings: all constants.
        clock: returns seconds, as `time.monotonic` does.
        sleep: waits for some seconds, as `asyncio.sleep` does.
        rng: draws the jitter; None: the system's generator.
    """

    settings: ResilienceConfig = DEFAULTS
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    rng: random.Random | None = None

    def uniform(self, low: float, high: float) -> float:
        """Draw a number between `low` and `high`."""
        return (self.rng or _RANDOM).uniform(low, high)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back after some seconds, unless the timer is cancelled. A timer of the loop costs 1 us."""
        loop = asyncio.get_running_loop()
        if self.sleep is asyncio.sleep:
            return loop.call_later(seconds, callback)
        return loop.create_task(self._call_later(seconds, callback))

    async def _call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        await self.sleep(seconds)
        callback()


DEFAULT_CONTEXT = Context()
