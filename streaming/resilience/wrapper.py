"""What all wrappers share: they are sources that own a source."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Any

from streaming.resilience.settings import DEFAULTS, Resilience
from streaming.resilience.timing import Clock, Sleep, Time
from streaming.sources.base import DataSource, FileInfo

_RANDOM = random.SystemRandom()  # differs between forked processes, which must not retry in step


class Wrapper(DataSource):
    """A source over another one, which it closes; named and configured as that one.

    Args:
        source: what is read.
        settings: all constants.
        clock: seconds, as `time.monotonic`.
        sleep: waits seconds, as `asyncio.sleep`.
        rng: of the jitter; None: the system's.
    """

    def __init__(
        self,
        source: DataSource,
        settings: Resilience = DEFAULTS,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(source.config)
        self.source = source
        self.settings = settings
        self._time = Time(clock, sleep)
        self._given_rng = rng
        self._rng = rng or _RANDOM

    @property
    def is_throttled(self) -> bool:
        """Whether an endpoint below has lately asked for fewer requests."""
        return bool(getattr(self.source, "is_throttled", False))

    @property
    def is_resting(self) -> bool:
        """Whether a read would fail at once, unasked: a breaker below is open."""
        return bool(getattr(self.source, "is_resting", False))

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        self._check_open()
        async for info in self.source.iter_files(prefix):
            yield info

    async def aclose(self) -> None:
        self._closed = True
        await self.source.aclose()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.source, self.settings, self._time.now, self._time.sleep, self._given_rng)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source!r})"
