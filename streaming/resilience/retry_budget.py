"""A bound on the load that retries add to an endpoint."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from streaming.resilience.context import Context, Timer


class RetryBudget:
    """Bounds the attempts beyond the first at an endpoint; belongs to one event loop.

    A success earns `retry_ratio` of an attempt, and up to `retry_burst` attempts are saved. An attempt that finds none
    waits: each success then releases one, so that attempts return as fast as answers do, and `min_retries_per_s` are
    released in any case, so that the end of an outage is noticed. This is Finagle's RetryBudget (20 % and 10 per
    second), except that it waits where Finagle gives up: a lost sample costs more than a late one.

    Attributes:
        tokens: attempts saved.
    """

    def __init__(self, context: Context) -> None:
        self.tokens = context.settings.retry_burst
        self._settings = context.settings
        self._context = context
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._trickle: Timer | None = None

    @property
    def waiting(self) -> int:
        """Number of attempts that wait."""
        return len(self._waiting)

    def earn(self) -> None:
        """Take note of a success."""
        if self._waiting:
            self._release_one()
        elif self.tokens < self._settings.retry_burst:
            self.tokens = min(self.tokens + self._settings.retry_ratio, self._settings.retry_burst)

    async def take(self) -> None:
        """Wait until another attempt may be made. If cancelled, the turn passes to the next."""
        if self.tokens >= 1 and not self._waiting:
            self.tokens -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        if self._trickle is None:
            self._arm()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with contextlib.suppress(ValueError):  # passed over already
                    self._waiting.remove(turn)
                self._disarm_if_idle()
            elif self._waiting:
                self._release_one()
            else:
                self.tokens += 1
            raise

    def _release_one(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                break
        self._disarm_if_idle()

    def _disarm_if_idle(self) -> None:
        if not self._waiting and self._trickle is not None:
            self._trickle.cancel()
            self._trickle = None

    def _arm(self) -> None:
        self._trickle = self._context.call_later(1 / self._settings.min_retries_per_s, self._on_trickle)

    def _on_trickle(self) -> None:
        self._trickle = None
        self._release_one()
        if self._waiting:
            self._arm()
