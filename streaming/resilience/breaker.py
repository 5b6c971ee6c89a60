"""A circuit breaker: a source that keeps failing is left alone for a while, then probed by single reads."""

from __future__ import annotations

import asyncio
import enum
from collections import deque

from streaming.core.logs import get_logger
from streaming.errors import ClosedError, SourceUnavailable, StreamingError
from streaming.resilience.context import Context
from streaming.resilience.latency import Latencies

_log = get_logger(__name__)

JITTER = (0.8, 1.2)  # of a cool-down, so that many processes do not probe in step


class State(enum.Enum):
    """Whether a breaker lets reads through: all, none, or single probes."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


def is_failure(error: BaseException) -> bool | None:
    """Whether an error says that the source is down; False if it is an answer; None if it says nothing about it.

    A 429 is an answer, which the concurrency limit deals with.
    """
    if not isinstance(error, StreamingError) or isinstance(error, ClosedError):
        return None
    return error.retryable and getattr(error, "status", None) != 429


class CircuitBreaker:
    """Opens after `breaker_consecutive_failures` failures, or a share of `breaker_failures` among the last ones.

    While it is open, reads are refused. After the cool-down one read at a time is let through as a probe; an answer
    closes the breaker, a failure opens it for twice as long. A read that is cancelled when it is late (see
    `Latencies.stall_timeout_s`) is a failure, so a source that accepts requests and does not answer is detected.

    Args:
        source: name of the source, for messages.
        context: settings and clock.

    Attributes:
        opened: how often it opened.
    """

    def __init__(self, source: str, context: Context) -> None:
        self.opened = 0
        self._source = source
        self._context = context
        self._settings = context.settings
        self._state = State.CLOSED
        self._last: deque[bool] = deque(maxlen=context.settings.breaker_window)
        self._failures = 0
        self._in_a_row = 0
        self._cooldown_s = context.settings.cooldown_s
        self._open_until = 0.0
        self._is_probing = False
        self._latencies = Latencies()

    @property
    def state(self) -> State:
        """The state that the next read finds."""
        if self._state is State.OPEN and self._context.clock() >= self._open_until:
            return State.HALF_OPEN
        return self._state

    @property
    def is_refusing(self) -> bool:
        """Whether the next read would be refused."""
        if self._state is State.CLOSED:
            return False
        return self._is_probing or self._context.clock() < self._open_until

    def admit(self, path: str) -> bool:
        """Let a read through and return whether it is a probe. Report its end to `succeeded` or `failed`.

        Raises:
            SourceUnavailable: if the breaker is open; `retry_after_s` says for how long.
        """
        if self._state is State.CLOSED:
            return False
        left_s = max(self._open_until - self._context.clock(), 0.0)
        if self._is_probing or left_s > 0:
            text = f"{path!r} was not read from source {self._source!r}: circuit breaker open after failures, "
            refusal = SourceUnavailable(f"{text}next attempt in {left_s:.1f} s", path=path, source=self._source)
            refusal.retry_after_s = left_s
            raise refusal
        self._state = State.HALF_OPEN
        self._is_probing = True
        return True

    def succeeded(self, seconds: float, is_probe: bool) -> None:
        """Take note of a read that was answered after `seconds`."""
        self._latencies.add(seconds)
        if is_probe:
            self._is_probing = False
            self._close()
        elif self._failures or len(self._last) < self._settings.breaker_window:
            self._count(False)

    def failed(self, error: BaseException, seconds: float, is_probe: bool) -> None:
        """Take note of a read that ended with an error; a cancelled one is a failure if it was late.

        Args:
            error: what the read raised.
            seconds: how long the source had been reading.
            is_probe: as `admit` returned it.
        """
        if isinstance(error, asyncio.CancelledError):
            is_down = True if seconds >= self._latencies.stall_timeout_s(self._settings) else None
        else:
            is_down = is_failure(error)
        if is_probe:
            self._is_probing = False
            if is_down:
                self._cooldown_s = min(self._cooldown_s * 2, self._settings.cooldown_max_s)
                self._open()
            elif is_down is not None:
                self._close()
        elif is_down is not None:
            self._count(is_down)

    def _close(self) -> None:
        self._state = State.CLOSED
        self._cooldown_s = self._settings.cooldown_s
        self._forget()
        _log.info("circuit_breaker_closed source=%s", self._source)

    def _count(self, failed: bool) -> None:
        if self._state is not State.CLOSED:
            return
        if len(self._last) == self._settings.breaker_window:
            self._failures -= self._last[0]
        self._last.append(failed)
        self._failures += failed
        self._in_a_row = self._in_a_row + 1 if failed else 0
        is_full = len(self._last) == self._settings.breaker_window
        share = self._failures / self._settings.breaker_window if is_full else 0.0
        if failed and (
            self._in_a_row >= self._settings.breaker_consecutive_failures or share >= self._settings.breaker_failures
        ):
            self._open()

    def _open(self) -> None:
        self._state = State.OPEN
        self.opened += 1
        pause_s = self._cooldown_s * self._context.uniform(*JITTER)
        self._open_until = self._context.clock() + pause_s
        self._forget()
        _log.warning("circuit_breaker_opened source=%s seconds=%.1f", self._source, pause_s)

    def _forget(self) -> None:
        self._last.clear()
        self._failures = 0
        self._in_a_row = 0
