"""Retries of reads that may succeed, within a deadline and a budget."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from streaming.core.logs import get_logger
from streaming.errors import SourceTimeout, StreamingError
from streaming.resilience.context import DEFAULT_CONTEXT, Context
from streaming.resilience.history import Attempt, attempts_from, attempts_of, with_history
from streaming.resilience.interruption import Interruption
from streaming.resilience.listing_attempts import whole_listing
from streaming.resilience.wrapper import Wrapper
from streaming.sources.base import Blob, DataSource, Expected, FileInfo
from streaming.telemetry.skipped_objects import Skips

_log = get_logger(__name__)


class Retry(Wrapper):
    """Retries after errors that may pass (`error.retryable`), with a random pause before each attempt.

    The pause is `uniform(0, min(cap, base * 2**n))` ("full jitter", AWS Architecture Blog, 2015), on top of what the
    error's `retry_after_s` asks for, at most `retry_after_max_s`. All attempts together end by `deadline_s`, also one
    that hangs. The error that is raised lists all attempts and has the class of the last one.

    Attributes:
        requests: reads requested.
        retries: attempts beyond the first of each read and listing.
        deadlines: reads that ended at the deadline.
    """

    def __init__(self, source: DataSource, context: Context = DEFAULT_CONTEXT) -> None:
        super().__init__(source, context)
        self.requests = 0
        self.retries = 0
        self.deadlines = 0

    async def read_expecting(self, path: str, expect: Expected | None, start: int = 0, end: int | None = None) -> Blob:
        if self._closed:
            self._check_open()
        self.requests += 1
        begun = self._now()
        interruption = Interruption()
        timer = self.context.call_later(self.settings.deadline_s, interruption.fire)
        attempts: list[Attempt] = []
        try:
            try:
                blob = await self.source.read_expecting(path, expect, start, end)
            except StreamingError as error:
                if not error.retryable:
                    raise
                attempts.extend(attempts_from(self.name, error, self._now() - begun))
                blob = await self._read_again(path, expect, start, end, begun, error, attempts)
        except asyncio.CancelledError as cancelled:
            if not interruption.is_own():
                raise
            raise self._deadline_error(path, begun, attempts, cancelled) from None
        finally:
            timer.cancel()
        if interruption.is_fired:
            interruption.is_own()  # the answer came in the same moment
        self.endpoint.budget.earn()
        return blob

    async def _read_again(
        self,
        path: str,
        expect: Expected | None,
        start: int,
        end: int | None,
        begun: float,
        error: StreamingError,
        attempts: list[Attempt],
    ) -> Blob:
        now = self._now
        count = 0
        while True:
            pause_s = self._pause_s(count, error)
            if now() + pause_s - begun >= self.settings.deadline_s:
                raise self._final_error(error, attempts, path, now() - begun)
            await self.context.sleep(pause_s)
            await self.endpoint.budget.take()
            count += 1
            self.retries += 1
            started = now()
            _log.debug("read_retry source=%s path=%s attempt=%d reason=%s", self.name, path, count + 1, error)
            try:
                return await self.source.read_expecting(path, expect, start, end)
            except StreamingError as exc:
                attempts.extend(attempts_from(self.name, exc, now() - started))
                if not exc.retryable:
                    raise self._final_error(exc, attempts, path, now() - begun) from exc
                error = exc

    def _pause_s(self, count: int, error: StreamingError) -> float:
        settings = self.settings
        retry_after_s = min(_retry_after_s(error), settings.retry_after_max_s)
        # 2**30 is past any cap, and larger powers past what a float holds
        most_s = min(settings.backoff_max_s, settings.backoff_base_s * 2 ** min(count, 30))
        return retry_after_s + self.context.uniform(0, most_s)

    def _final_error(self, error: StreamingError, attempts: list[Attempt], path: str, seconds: float) -> StreamingError:
        _log.error("read_failed source=%s path=%s attempts=%d", self.name, path, len(attempts))
        if len(attempts) == 1:
            return error
        why = f"could not be read within {seconds:.1f} s"
        if _retry_after_s(error) > self.settings.retry_after_max_s:
            why += f" (the server asks for a pause of {_retry_after_s(error):.0f} s, more than"
            why += f" retry_after_max_s={self.settings.retry_after_max_s:g})"
        return with_history(error, attempts, why, path, self.name)

    def _deadline_error(
        self, path: str, begun: float, attempts: list[Attempt], cancelled: asyncio.CancelledError
    ) -> StreamingError:
        self.deadlines += 1
        seconds = self._now() - begun
        unanswered = attempts_of(cancelled) or (Attempt(self.name, "no answer", "", seconds),)
        why = f"could not be read before the deadline of {seconds:.1f} s"
        error = SourceTimeout("", path=path, source=self.name)
        _log.error("read_failed source=%s path=%s attempts=%d", self.name, path, len(attempts) + len(unanswered))
        return with_history(error, [*attempts, *unanswered], why, path, self.name)

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        """List all objects once; a listing that breaks off starts again, up to `listing_attempts` times in all."""
        self._check_open()
        found, skipped = await self._list(prefix)
        for info in found:
            yield info
        self.skipped = skipped

    async def _list(self, prefix: str) -> tuple[list[FileInfo], Skips]:
        attempts: list[Attempt] = []
        begun = self._now()
        for count in range(self.settings.listing_attempts):
            started = self._now()
            try:
                return await whole_listing(self.source, prefix, self.context)
            except StreamingError as error:
                attempts.extend(attempts_from(self.name, error, self._now() - started))
                if not error.retryable or count + 1 == self.settings.listing_attempts:
                    raise self._final_error(error, attempts, prefix, self._now() - begun) from error
                pause_s = self._pause_s(count, error)
            await self.context.sleep(pause_s)
            self.retries += 1
        raise AssertionError("the last attempt raises")


def _retry_after_s(error: StreamingError) -> float:
    """Return the seconds that a server asks to wait before the next attempt."""
    return getattr(error, "retry_after_s", None) or 0.0
