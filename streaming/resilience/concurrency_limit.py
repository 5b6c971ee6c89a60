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
import threading
from collections import deque

from streaming.resilience.context import Context

MIN_ROUND = 64  # answers; a mean over fewer says little where latencies scatter
MIN_THROTTLED_ROUND = 8  # answers; while an endpoint throttles, the limit is small and must move soon
SMOOTHING = 0.5
BASE_STEP = 0.3  # towards a lower mean, so that one lucky round does not count as the usual latency
BASE_DRIFT = 1.000_5  # per round, so that it follows a path that became longer: twice as long in 1,400 rounds


class _Turn:
    """A read that waits for a place, on a loop or in a thread."""

    __slots__ = ("_future", "_ready", "_thread", "is_granted")

    def __init__(self, future: asyncio.Future[None] | None) -> None:
        self.is_granted = False
        self._future = future
        self._thread = threading.get_ident()
        self._ready = threading.Lock()
        if future is None:
            self._ready.acquire()

    @property
    def is_on_loop(self) -> bool:
        return self._future is not None

    def wait_in_thread(self, timeout_s: float) -> None:
        """Return once the place is granted, or after `timeout_s`."""
        self._ready.acquire(timeout=timeout_s)

    def wake(self) -> None:
        """Let the read continue. Any thread."""
        future = self._future
        if future is None:
            self._ready.release()
        elif self._thread == threading.get_ident():
            _set(future)
        else:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                future.get_loop().call_soon_threadsafe(_set, future)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class ConcurrencyLimit:
    """Bounds the reads in flight at an endpoint, first come first served.

    Reads wait for a place on one event loop (`enter`), or in a thread (`enter_thread`). A place that becomes free
    passes to the read that has waited longest, so that neither threads nor the loop can keep the other from reading.

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
        self._waiting: deque[_Turn] = deque()
        self._in_threads = 0
        self._lock = threading.Lock()
        self._throttled_until = -math.inf
        self._base_s = math.inf
        self._begin_round()

    @property
    def is_throttled(self) -> bool:
        """Whether the endpoint has recently answered 429 or 503."""
        return self._now() < self._throttled_until

    @property
    def allowed(self) -> int:
        """Number of reads that may be in flight."""
        return self._allowed

    @property
    def allowed_in_threads(self) -> int:
        """Number of reads that threads may make: what reads on the loop leave of the limit, at least 1."""
        on_loop = self.in_flight - self._in_threads
        if self._waiting:
            with self._lock:
                on_loop += sum([turn.is_on_loop for turn in self._waiting])
        return max(1, self._allowed - on_loop)

    @property
    def waiting(self) -> int:
        """Number of reads that wait for a place."""
        return len(self._waiting)

    def enter_now(self) -> bool:
        """Take a place if one is free, and return whether there was one. Any thread."""
        with self._lock:
            return self._enter_now()

    def _enter_now(self) -> bool:
        if self.in_flight < self._allowed and not self._waiting:
            self.in_flight += 1
            return True
        return False

    def enter_beyond(self) -> None:
        """Take a place even if none is free. Any thread."""
        with self._lock:
            self.in_flight += 1

    def note_full(self) -> None:
        """Note that reads would be made if there were a place. Any thread."""
        self._was_full = True

    async def enter(self, is_first: bool = False) -> None:
        """Wait for a place, before all others if `is_first`. If cancelled, the place passes to the next."""
        with self._lock:
            if self._enter_now():
                return
            self._was_full = True
            future = asyncio.get_running_loop().create_future()
            turn = _Turn(future)
            if is_first:
                self._waiting.appendleft(turn)
            else:
                self._waiting.append(turn)
        try:
            await future
        except asyncio.CancelledError:
            if not self._withdraw(turn):
                self.leave()
            raise

    def enter_thread(self, timeout_s: float) -> bool:
        """Wait for a place in a thread for at most `timeout_s`, and return whether there is one."""
        with self._lock:
            if self._enter_now():
                self._in_threads += 1
                return True
            self._was_full = True
            turn = _Turn(None)
            self._waiting.append(turn)
        turn.wait_in_thread(timeout_s)
        if self._withdraw(turn):
            return False
        with self._lock:
            self._in_threads += 1
        return True

    def _withdraw(self, turn: _Turn) -> bool:
        """Wait no more, and return whether no place was granted."""
        with self._lock:
            if not turn.is_granted:
                self._waiting.remove(turn)
            return not turn.is_granted

    def leave(self, seconds: float | None = None, is_throttled: bool = False) -> None:
        """Give a place back. Any thread.

        Args:
            seconds: how long a successful read took; None for a failed one, or one that is noted apart.
            is_throttled: whether the endpoint asked for fewer requests.
        """
        self._leave(seconds, is_throttled, 0)

    def leave_thread(self, seconds: float | None = None) -> None:
        """Give back a place that `enter_thread` took, see `leave`."""
        self._leave(seconds, False, 1)

    def move_to_loop(self) -> None:
        """Let the place that a thread took count as one of a read on the loop, which gives it back by `leave`."""
        with self._lock:
            self._in_threads -= 1

    def note(self, seconds: float | None, is_throttled: bool) -> None:
        """Take note of how a read ended, see `leave`. Any thread."""
        with self._lock:
            self._note(seconds, is_throttled)

    def _leave(self, seconds: float | None, is_throttled: bool, in_threads: int) -> None:
        with self._lock:
            self._note(seconds, is_throttled)
            self._in_threads -= in_threads
            self.in_flight -= 1
            granted = self._grant() if self._waiting else ()
        for turn in granted:
            turn.wake()

    def _grant(self) -> list[_Turn]:
        """Give free places to the reads that wait, and return those."""
        granted = []
        while self._waiting and self.in_flight < self._allowed:
            turn = self._waiting.popleft()
            turn.is_granted = True
            self.in_flight += 1
            granted.append(turn)
        return granted

    def _note(self, seconds: float | None, is_throttled: bool) -> None:
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
