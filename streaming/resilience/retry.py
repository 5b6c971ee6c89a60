"""Reads are tried again while that may help, within a deadline and without a storm of attempts."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import AsyncIterator

from streaming.core.logs import get_logger
from streaming.errors import SourceTimeout, StreamingError
from streaming.resilience.history import Attempt, attempts_of, failed, told
from streaming.resilience.listing_retry import whole_listing
from streaming.resilience.settings import DEFAULTS, ResilienceConfig
from streaming.resilience.shared import shared
from streaming.resilience.timing import Clock, Interruption, Sleep, Time, Timer
from streaming.resilience.wrapper import Expected, Wrapper
from streaming.sources.base import Blob, DataSource, FileInfo
from streaming.telemetry.skipped_objects import Skips

_log = get_logger(__name__)


class RetryBudget:
    """How many attempts beyond the first there may be at an endpoint; belongs to one event loop.

    A success earns `retry_ratio` of an attempt, up to `retry_burst` saved. Who finds none waits its turn: each success
    then lets one go, so that attempts come back as fast as answers do, and `min_retries_per_s` go in any case, so
    that the end of an outage is noticed. After Finagle's RetryBudget (20 % and 10 per second); waiting in place of
    giving up is ours: a sample that is lost costs more than one that is late.

    Attributes:
        tokens: attempts saved.
    """

    def __init__(self, settings: ResilienceConfig, time: Time) -> None:
        self.tokens = settings.retry_burst
        self._settings = settings
        self._time = time
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._trickle: Timer | None = None

    @property
    def waiting(self) -> int:
        """Attempts that wait for their turn."""
        return len(self._waiting)

    def earn(self) -> None:
        """Take note of a success."""
        if self._waiting:
            self._let_one_go()
        elif self.tokens < self._settings.retry_burst:
            self.tokens = min(self.tokens + self._settings.retry_ratio, self._settings.retry_burst)

    async def take(self) -> None:
        """Wait until another attempt may be made. Cancelled, it leaves its turn to the next."""
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
                self._let_one_go()
            else:
                self.tokens += 1
            raise

    def _let_one_go(self) -> None:
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
        self._trickle = self._time.call_later(1 / self._settings.min_retries_per_s, self._on_trickle)

    def _on_trickle(self) -> None:
        self._trickle = None
        self._let_one_go()
        if self._waiting:
            self._arm()


class Retry(Wrapper):
    """Tries again what failed with an error worth it (`error.retryable`), after a random pause.

    The pause is `uniform(0, min(cap, base * 2**n))` ("full jitter", AWS Architecture Blog, 2015), or what the error's
    `retry_after_s` asks for, at most `retry_after_max_s`, and such a pause on top. All attempts together end by
    `deadline_s`, also one that hangs. The last error tells all attempts, and is of the class of the last one.

    Args:
        budget: what is shared; None: the one of the source's endpoint, on each loop its own.

    Attributes:
        requests: reads asked for.
        retries: attempts beyond the first of each, of listings too.
        deadlines: reads that ended at the deadline.
    """

    def __init__(
        self,
        source: DataSource,
        settings: ResilienceConfig = DEFAULTS,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        rng: random.Random | None = None,
        *,
        budget: RetryBudget | None = None,
    ) -> None:
        super().__init__(source, settings, clock, sleep, rng)
        self.requests = 0
        self.retries = 0
        self.deadlines = 0
        self._given = budget
        self._budget = budget
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def budget(self) -> RetryBudget:
        """What bounds the attempts on the running loop."""
        if self._given is None:
            loop = asyncio.get_running_loop()
            if loop is not self._loop:
                self._budget = shared(RetryBudget, self.config, self.settings, self._time)
                self._loop = loop
        assert self._budget is not None
        return self._budget

    async def read(self, path: str, start: int = 0, end: int | None = None, *, expect: Expected | None = None) -> Blob:
        if self._closed:
            self._check_open()
        self.requests += 1
        begun = self._time.now()
        cut = Interruption()
        timer = self._time.call_later(self.settings.deadline_s, cut.fire)
        attempts: list[Attempt] = []
        try:
            try:
                blob = await self._read_below(path, start, end, expect=expect)
            except StreamingError as error:
                if not error.retryable:
                    raise
                attempts.extend(failed(self.name, error, self._time.now() - begun))
                blob = await self._read_again(path, start, end, expect, begun, error, attempts)
        except asyncio.CancelledError as cancelled:
            if not cut.is_own():
                raise
            raise self._too_late(path, begun, attempts, cancelled) from None
        finally:
            timer.cancel()
        if cut.is_fired:
            cut.is_own()  # the answer came in the same moment
        self.budget.earn()
        return blob

    async def _read_again(
        self,
        path: str,
        start: int,
        end: int | None,
        expect: Expected | None,
        begun: float,
        error: StreamingError,
        attempts: list[Attempt],
    ) -> Blob:
        now = self._time.now
        count = 0
        while True:
            pause_s = self._pause_s(count, error)
            if now() + pause_s - begun >= self.settings.deadline_s:
                raise self._last(error, attempts, path, now() - begun)
            await self._time.sleep(pause_s)
            await self.budget.take()
            count += 1
            self.retries += 1
            started = now()
            _log.debug("read_retry source=%s path=%s attempt=%d reason=%s", self.name, path, count + 1, error)
            try:
                return await self._read_below(path, start, end, expect=expect)
            except StreamingError as exc:
                attempts.extend(failed(self.name, exc, now() - started))
                if not exc.retryable:
                    raise self._last(exc, attempts, path, now() - begun) from exc
                error = exc

    def _pause_s(self, count: int, error: StreamingError) -> float:
        settings = self.settings
        asked_s = min(_asked_s(error), settings.retry_after_max_s)
        # 2**30 is past any cap, and larger powers past what a float holds
        most_s = min(settings.backoff_max_s, settings.backoff_base_s * 2 ** min(count, 30))
        return asked_s + self._rng.uniform(0, most_s)

    def _last(self, error: StreamingError, attempts: list[Attempt], path: str, seconds: float) -> StreamingError:
        _log.error("read_failed source=%s path=%s attempts=%d", self.name, path, len(attempts))
        if len(attempts) == 1:
            return error
        why = f"could not be read within {seconds:.1f} s"
        if _asked_s(error) > self.settings.retry_after_max_s:
            why += f", its server asks for {_asked_s(error):.0f} s before the next attempt and got"
            why += f" retry_after_max_s={self.settings.retry_after_max_s:g}"
        return told(error, attempts, why, path, self.name)

    def _too_late(self, path: str, begun: float, attempts: list[Attempt], cancelled: BaseException) -> StreamingError:
        self.deadlines += 1
        seconds = self._time.now() - begun
        hanging = attempts_of(cancelled) or (Attempt(self.name, "no answer", "", seconds),)
        why = f"was not there after {seconds:.1f} s, which is the deadline"
        error = SourceTimeout("", path=path, source=self.name)
        _log.error("read_failed source=%s path=%s attempts=%d", self.name, path, len(attempts) + len(hanging))
        return told(error, [*attempts, *hanging], why, path, self.name)

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        """All objects; a listing that breaks off is started anew, `listing_attempts` in all, nothing told twice."""
        self._check_open()
        found, skipped = await self._list(prefix)
        for info in found:
            yield info
        self.skipped = skipped

    async def _list(self, prefix: str) -> tuple[list[FileInfo], Skips]:
        attempts: list[Attempt] = []
        begun = self._time.now()
        for count in range(self.settings.listing_attempts):
            started = self._time.now()
            try:
                return await whole_listing(self.source, prefix, self._time)
            except StreamingError as error:
                attempts.extend(failed(self.name, error, self._time.now() - started))
                if not error.retryable or count + 1 == self.settings.listing_attempts:
                    raise self._last(error, attempts, prefix, self._time.now() - begun) from error
                pause_s = self._pause_s(count, error)
            await self._time.sleep(pause_s)
            self.retries += 1
        raise AssertionError("the last attempt raises")


def _asked_s(error: StreamingError) -> float:
    """Seconds that a server asks to wait before the next attempt."""
    return getattr(error, "retry_after_s", None) or 0.0
