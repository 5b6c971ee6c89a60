"""A read that is slower than nearly all others gets a second beside it; the first to answer wins.

Dean and Barroso, "The Tail at Scale" (2013): after the 95th percentile, with some 5 % more requests, most of the tail
is gone. Here after p98 of the last 512 reads, and a token bucket makes 5 % the most that can happen.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

from streaming.resilience.latencies import Latencies
from streaming.resilience.race import Contender, Race
from streaming.resilience.settings import DEFAULTS, Resilience
from streaming.resilience.timing import Clock, Sleep
from streaming.resilience.wrapper import Wrapper
from streaming.sources.base import Blob, DataSource

MOST_TOKENS = 64.0  # second reads saved up for a moment in which a whole batch is late
NEVER_S = 3600.0  # when a second read would be late in turn: it gets no third


class Hedge(Wrapper):
    """Starts a second read when one is late, of another copy if the source has `read_elsewhere` (`Failover`).

    None while an endpoint below throttles, nor before `hedge_least_samples` reads. If both fail, the first error is
    raised.

    Attributes:
        requests: reads asked for.
        hedges: second reads started.
        hedge_wins: how many of them were first.
    """

    def __init__(
        self,
        source: DataSource,
        settings: Resilience = DEFAULTS,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(source, settings, clock, sleep, rng)
        self.requests = 0
        self.hedges = 0
        self.hedge_wins = 0
        self._tokens = 0.0
        self._latencies = Latencies()

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        if self._closed:
            self._check_open()
        settings = self.settings
        self.requests += 1
        self._tokens = min(self._tokens + settings.hedge_share, MOST_TOKENS)
        started = self._time.now()
        if self._latencies.count < settings.hedge_least_samples:
            blob = await self.source.read(path, start, end)
        else:
            blob = await self._race(path, start, end)
        self._latencies.add(self._time.now() - started)
        return blob

    async def _race(self, path: str, start: int, end: int | None) -> Blob:
        late_after_s = max(self._latencies.quantile(self.settings.hedge_quantile), self.settings.hedge_least_s)
        is_hedged = False

        def second(is_late: bool) -> Contender | float | None:
            nonlocal is_hedged
            if is_hedged or not is_late:
                return None
            if self._tokens < 1 or self.is_throttled:
                return late_after_s  # asked again then: the later a read is, the more a second one helps
            is_hedged = True
            self._tokens -= 1
            self.hedges += 1
            read: Callable[..., Any] = getattr(self.source, "read_elsewhere", self.source.read)
            return read(path, start, end), NEVER_S

        race = Race(self._time, second, _is_never)
        blob = await race.run((self.source.read(path, start, end), late_after_s))
        self.hedge_wins += race.was_second
        return blob


def _is_never(error: BaseException) -> bool:
    return False
