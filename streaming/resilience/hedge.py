"""A read that is slower than nearly all others gets a second beside it; the first to answer wins.

Dean and Barroso, "The Tail at Scale" (2013): after the 95th percentile, with some 5 % more requests, most of the tail
is gone. Here after p98 of the last 512 reads, and a token bucket makes 5 % the most that can happen.
"""

from __future__ import annotations

import asyncio
import random
import time

from streaming.resilience.latency import Latencies
from streaming.resilience.race import Contender, Race
from streaming.resilience.settings import DEFAULTS, ResilienceConfig
from streaming.resilience.timing import Clock, Sleep
from streaming.resilience.wrapper import Expected, Read, Wrapper
from streaming.sources.base import Blob, DataSource

MOST_TOKENS = 64.0  # second reads saved up for a moment in which a whole batch is late
NEVER_S = 3600.0  # when a second read would be late in turn: it gets no third


class Hedge(Wrapper):
    """Starts a second read when one is late, of another copy if the source has `read_elsewhere` (`Failover`).

    None while an endpoint below throttles, nor before `hedge_min_samples` reads. If both fail, the first error is
    raised.

    Attributes:
        requests: reads asked for.
        hedges: second reads started.
        hedge_wins: how many of them were first.
    """

    def __init__(
        self,
        source: DataSource,
        settings: ResilienceConfig = DEFAULTS,
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

    async def read(self, path: str, start: int = 0, end: int | None = None, *, expect: Expected | None = None) -> Blob:
        if self._closed:
            self._check_open()
        settings = self.settings
        self.requests += 1
        self._tokens = min(self._tokens + settings.hedge_share, MOST_TOKENS)
        now = self._time.now
        started = now()
        if self._latencies.count < settings.hedge_min_samples:
            blob = await self._read_below(path, start, end, expect=expect)
            self._latencies.add(now() - started)
            return blob
        stall_timeout_s = max(self._latencies.quantile(settings.hedge_quantile), settings.hedge_min_s)
        race = _Second(self, stall_timeout_s, path, start, end, expect)
        race.begin(stall_timeout_s)
        try:
            blob = await self._read_below(path, start, end, expect=expect)
        except BaseException as error:
            blob = await race.go_on(error)
            self.hedge_wins += race.was_second
        else:
            if race.end():
                await race.cancel_others()
        self._latencies.add(now() - started)
        return blob

    def _spend(self) -> bool:
        """Take a token for a second read, if there is one and it may be spent."""
        if self._tokens < 1 or self.is_throttled:
            return False
        self._tokens -= 1
        self.hedges += 1
        return True


class _Second(Race):
    """One read, and the one beside it where it is late."""

    _is_hedged = False

    def __init__(
        self, hedge: Hedge, stall_timeout_s: float, path: str, start: int, end: int | None, expect: Expected | None
    ) -> None:
        self._time = hedge._time
        self._hedge = hedge
        self._late_after_s = stall_timeout_s
        self._asked = path, start, end
        self._expect = expect

    def more(self, is_late: bool) -> Contender | float | None:
        if self._is_hedged or not is_late:
            return None
        if not self._hedge._spend():
            return self._late_after_s  # asked again then: the later a read is, the more a second one helps
        self._is_hedged = True
        read: Read = getattr(self._hedge.source, "read_elsewhere", self._hedge._read_below)
        return read(*self._asked, expect=self._expect), NEVER_S
