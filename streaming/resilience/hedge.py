"""A second read for one that is slower than nearly all others; the first to answer wins.

Dean and Barroso, "The Tail at Scale" (2013): hedging after the 95th percentile, with some 5 % more requests, removes
most of the tail. Here it is p98 of the last 512 reads, and a token bucket keeps the extra requests below 5 %. A replica
that does not answer at all is for `failover`, which then reads the next one too.
"""

from __future__ import annotations

from streaming.resilience.context import DEFAULT_CONTEXT, Context
from streaming.resilience.failover import Failover
from streaming.resilience.latency import Latencies
from streaming.resilience.race import Contender, Race
from streaming.resilience.wrapper import Wrapper
from streaming.sources.base import Blob, DataSource, Expected

MAX_TOKENS = 64.0  # second reads saved up for a moment in which a whole batch is late
NEVER_S = 3600.0  # after which a second read is late: it gets no third


class Hedge(Wrapper):
    """Starts a second read when one is late; from another replica if it wraps a `Failover`.

    It starts none while an endpoint below throttles, nor before `hedge_min_samples` reads. If both fail, the first
    error is raised.

    Attributes:
        requests: reads requested.
        hedges: second reads started.
        hedge_wins: second reads that answered first.
    """

    def __init__(self, source: DataSource, context: Context = DEFAULT_CONTEXT) -> None:
        super().__init__(source, context)
        self.requests = 0
        self.hedges = 0
        self.hedge_wins = 0
        self._tokens = 0.0
        self._latencies = Latencies()

    async def read_expecting(self, path: str, expect: Expected | None, start: int = 0, end: int | None = None) -> Blob:
        if self._closed:
            self._check_open()
        settings = self.settings
        self.requests += 1
        self._tokens = min(self._tokens + settings.hedge_share, MAX_TOKENS)
        now = self._now
        started = now()
        if self._latencies.count < settings.hedge_min_samples:
            blob = await self.source.read_expecting(path, expect, start, end)
            self._latencies.add(now() - started)
            return blob
        late_after_s = max(self._latencies.quantile(settings.hedge_quantile), settings.hedge_min_s)
        race = _HedgedRead(self, late_after_s, path, expect, start, end)
        race.begin(late_after_s)
        try:
            blob = await self.source.read_expecting(path, expect, start, end)
        except BaseException as error:
            blob = await race.finish(error)
            self.hedge_wins += race.was_second
        else:
            if race.end():
                await race.cancel_others()
        self._latencies.add(now() - started)
        return blob

    def _spend(self) -> bool:
        """Take a token for a second read and return whether that was possible."""
        if self._tokens < 1 or self.is_throttled:
            return False
        self._tokens -= 1
        self.hedges += 1
        return True


class _HedgedRead(Race):
    """One read, and a second one if it is late."""

    _is_hedged = False

    def __init__(
        self, hedge: Hedge, late_after_s: float, path: str, expect: Expected | None, start: int, end: int | None
    ) -> None:
        self._context = hedge.context
        self._hedge = hedge
        self._late_after_s = late_after_s
        self._request = path, expect, start, end

    def next_contender(self, is_late: bool) -> Contender | float | None:
        if self._is_hedged or not is_late:
            return None
        if not self._hedge._spend():
            return self._late_after_s  # try again then: the later a read is, the more a second one helps
        self._is_hedged = True
        source = self._hedge.source
        read = source.read_elsewhere if isinstance(source, Failover) else source.read_expecting
        return read(*self._request), NEVER_S
