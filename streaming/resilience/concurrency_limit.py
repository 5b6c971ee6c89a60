"""A limit of the reads in flight at an endpoint: found from latencies, cut when the endpoint throttles.

The limit moves once per round, which is as many answers as reads may be in flight:

- Answers of 429 and 503 cut it by half their share in the round (RFC 8257, section 3.3: it is halved if all are such
  answers and hardly changes if one in a hundred is). For `throttled_s` from then it grows by 1 a round: additive
  increase, multiplicative decrease.
- Otherwise, if reads had to wait: `limit * tolerance * base / mean + sqrt(limit)`, half of the way. `base` is the least
  mean latency of a round so far, smoothed, so the limit grows while more reads in flight do not slow the answers, and
  settles where a queue builds up. The rule is that of Netflix's concurrency-limits (Gradient2Limit: gradient of
  latencies, allowance for a queue, smoothing; the square root is GradientLimit's), which follows TCP Vegas. It takes 70
  rounds from 32 to 512: some 3 s at 30 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque

from streaming.resilience.context import Context

MIN_ROUND = 64  # answers; a mean over fewer says little where latencies scatter
MIN_THROTTLED_ROUND = 8  # answers; while an endpoint throttles, the limit is small and must move soon
SMOOTHING = 0.5
BASE_STEP = 0.3  # towards a lower mean, so that one lucky round does not count as the usual latency
BASE_DRIFT = 1.000_5  # per round, so that it follows a path that became longer: twice as long in 1,400 rounds


class ConcurrencyLimit:
    """Bounds the reads in flight at an endpoint, first come first served; belongs to one event loop.

    Attributes:
        limit: reads that may be in flight, at least 1.
        in_flight: reads that are in flight.
    """

    def __init__(self, context: Context) -> None:
        settings = context.settings
        self.limit = float(settings.initial_concurrency)
        self.in_flight = 0
        self._allowed = settings.initial_concurrency
        self._settings = settings
        self._now = context.clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._throttled_until = -math.inf
        self._base_s = math.inf
        self._begin_round()

    @property
    def is_throttled(self) -> bool:
        """Whether the endpoint has recently answered 429 or 503."""
        return self._now() < self._throttled_until

    @property
    def waiting(self) -> int:
        """Number of reads that wait for a place."""
        return len(self._waiting)

    def enter_now(self) -> bool:
        """Take a place if one is free, and return whether there was one."""
        if self.in_flight < self._allowed:
            self.in_flight += 1
            return True
        return False

    async def enter(self) -> None:
        """Wait for a place. If cancelled, the place passes to the next."""
        if self.enter_now():
            return
        self._was_full = True
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with contextlib.suppress(ValueError):  # passed over already
                    self._waiting.remove(turn)
            else:
                self._give_up_place()
            raise

    def leave(self, seconds: float | None = None, is_throttled: bool = False) -> None:
        """Give a place back.

        Args:
            seconds: how long a successful read took; None for a failed one.
            is_throttled: whether the endpoint asked for fewer requests.
        """
        if seconds is not None:
            self._answers += 1
            self._total_s += seconds
        elif is_throttled:
            self._throttles += 1
            self._throttled_until = self._now() + self._settings.throttled_s
        round_size = (
            MIN_THROTTLED_ROUND if self._throttles or self.limit < self._settings.initial_concurrency else MIN_ROUND
        )
        if self._answers + self._throttles >= max(round_size, self._allowed):
            self._end_round()
        self._give_up_place()

    def _give_up_place(self) -> None:
        self.in_flight -= 1
        while self._waiting and self.in_flight < self._allowed:
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)

    def _end_round(self) -> None:
        if self._throttles:
            share = self._throttles / (self._answers + self._throttles)
            self.limit = max(1.0, self.limit * (1 - share / 2))
        else:
            mean = self._total_s / self._answers
            self._base_s = mean if self._base_s == math.inf else self._base_s * BASE_DRIFT
            self._base_s -= BASE_STEP * max(self._base_s - mean, 0.0)
            if self._was_full:
                self.limit = self._moved(mean)
        self._allowed = int(self.limit)
        self._begin_round()

    def _moved(self, mean_s: float) -> float:
        settings = self._settings
        if self.is_throttled:
            return min(self.limit + 1, settings.max_concurrency)
        gradient = min(1.0, max(0.5, settings.latency_tolerance * self._base_s / max(mean_s, 1e-9)))
        wanted = self.limit * gradient + math.sqrt(self.limit)
        moved = self.limit + SMOOTHING * (wanted - self.limit)
        return min(max(moved, min(self.limit, settings.initial_concurrency)), settings.max_concurrency)

    def _begin_round(self) -> None:
        self._answers = 0
        self._throttles = 0
        self._total_s = 0.0
        self._was_full = bool(self._waiting)
