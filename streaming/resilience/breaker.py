"""A copy that fails again and again is not asked for a while, then by single reads until one is answered."""

from __future__ import annotations

import asyncio
import enum
import random
import time
from collections import deque

from streaming.core.logs import get_logger
from streaming.errors import ClosedError, SourceUnavailable, StreamingError
from streaming.resilience.concurrency_limit import ASKED_S
from streaming.resilience.latency import Latencies
from streaming.resilience.settings import DEFAULTS, ResilienceConfig
from streaming.resilience.timing import Clock, Sleep
from streaming.resilience.wrapper import Expected, Wrapper
from streaming.sources.base import Blob, DataSource

_log = get_logger(__name__)

JITTER = (0.8, 1.2)  # of a cool-down, so that many processes do not probe in step


class State(enum.Enum):
    """What a breaker lets through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


def is_failure(error: BaseException) -> bool | None:
    """Whether an error says that the source is down; False if it was an answer all the same; None if it says nothing.

    A 429 is an answer: the limit of the endpoint deals with it.
    """
    if not isinstance(error, StreamingError) or isinstance(error, ClosedError):
        return None
    return error.retryable and getattr(error, "status", None) != 429


class Breaker(Wrapper):
    """Opens after `breaker_consecutive_failures` failures, or a share of `breaker_failures` among the last ones.

    While open, reads fail at once. After the cool-down one read at a time is let through; an answer closes the breaker,
    a failure opens it for twice as long. A read that is cancelled when it is late (see `Latencies.stall_timeout_s`)
    is a failure, so that a source which accepts and says nothing is found out. Listings pass.

    Attributes:
        opened: how often it opened.
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
        self.opened = 0
        self._state = State.CLOSED
        self._last: deque[bool] = deque(maxlen=settings.breaker_window)
        self._failures = 0
        self._in_a_row = 0
        self._cooldown_s = settings.cooldown_s
        self._open_until = 0.0
        self._is_probing = False
        self._latencies = Latencies()

    @property
    def is_closed(self) -> bool:
        """Whether reads pass; the answers of those that began now are told by `note_answered` and `note_failed`."""
        return self._state is State.CLOSED

    @property
    def state(self) -> State:
        """What the next read would meet."""
        if self._state is State.OPEN and self._time.now() >= self._open_until:
            return State.HALF_OPEN
        return self._state

    @property
    def is_resting(self) -> bool:
        if self._state is State.CLOSED:
            return False
        return self._is_probing or self._time.now() < self._open_until

    async def read(self, path: str, start: int = 0, end: int | None = None, *, expect: Expected | None = None) -> Blob:
        if self._closed:
            self._check_open()
        if self._state is not State.CLOSED:
            return await self._probe(path, start, end, expect)
        now = self._time.now
        started = now()
        try:
            blob = await self._read_below(path, start, end, expect=expect)
        except (asyncio.CancelledError, Exception) as error:
            self.note_failed(error, now() - started)
            raise
        self.note_answered(now() - started)
        return blob

    def note_answered(self, seconds: float) -> None:
        """A read that began while closed brought its bytes after so many seconds."""
        self._latencies.add(seconds)
        if self._failures or len(self._last) < self.settings.breaker_window:
            self._count(False)

    def note_failed(self, error: BaseException, seconds: float) -> None:
        """A read that began while closed ended so; a cancel counts where it was late."""
        failed = self._says_down(error, seconds)
        if failed is not None:
            self._count(failed)

    def _says_down(self, error: BaseException, seconds: float) -> bool | None:
        if isinstance(error, asyncio.CancelledError):
            asked_s: float = error.__dict__.get(ASKED_S, seconds)
            return True if asked_s >= self._latencies.stall_timeout_s(self.settings) else None
        return is_failure(error)

    async def _probe(self, path: str, start: int, end: int | None, expect: Expected | None) -> Blob:
        self._begin_probe(path)
        now = self._time.now
        started = now()
        failed: bool | None = None
        try:
            blob = await self._read_below(path, start, end, expect=expect)
            self._latencies.add(now() - started)
            failed = False
            return blob
        except (asyncio.CancelledError, Exception) as error:
            failed = self._says_down(error, now() - started)
            raise
        finally:
            self._end_probe(failed)

    def _begin_probe(self, path: str) -> None:
        left_s = self._open_until - self._time.now()
        if self._is_probing or left_s > 0:
            text = f"{path!r} was not asked of source {self.name!r}: breaker open after failures, tried again in"
            refusal = SourceUnavailable(f"{text} {max(left_s, 0.0):.1f} s", path=path, source=self.name)
            refusal.__dict__["retry_after_s"] = max(left_s, 0.0)
            raise refusal
        self._state = State.HALF_OPEN
        self._is_probing = True

    def _end_probe(self, failed: bool | None) -> None:
        self._is_probing = False
        if failed:
            self._cooldown_s = min(self._cooldown_s * 2, self.settings.cooldown_max_s)
            self._open()
        elif failed is not None:
            self._state = State.CLOSED
            self._cooldown_s = self.settings.cooldown_s
            self._forget()
            _log.info("circuit_breaker_closed source=%s", self.name)

    def _count(self, failed: bool) -> None:
        if self._state is not State.CLOSED:
            return
        if len(self._last) == self.settings.breaker_window:
            self._failures -= self._last[0]
        self._last.append(failed)
        self._failures += failed
        self._in_a_row = self._in_a_row + 1 if failed else 0
        is_full = len(self._last) == self.settings.breaker_window
        share = self._failures / self.settings.breaker_window if is_full else 0.0
        if failed and (
            self._in_a_row >= self.settings.breaker_consecutive_failures or share >= self.settings.breaker_failures
        ):
            self._open()

    def _open(self) -> None:
        self._state = State.OPEN
        self.opened += 1
        pause_s = self._cooldown_s * self._rng.uniform(*JITTER)
        self._open_until = self._time.now() + pause_s
        self._forget()
        _log.warning("circuit_breaker_opened source=%s seconds=%.1f", self.name, pause_s)

    def _forget(self) -> None:
        self._last.clear()
        self._failures = 0
        self._in_a_row = 0
