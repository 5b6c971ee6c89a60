"""First attempts of reads, made by threads: what is healthy never touches the event loop.

A thread begins an attempt at the replica that the wrappers would read first, if nothing is known against it. If it
fails, or is late, the chain of wrappers takes it over on the loop, in the place of its own first request: with the time
that has passed, and with everything that it promises. An attempt belongs to its thread until one of the two claims it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from streaming.errors import ObjectChanged, TruncatedRead
from streaming.resilience.breaker import State
from streaming.resilience.concurrency_limit import ConcurrencyLimit
from streaming.resilience.failover import Failover
from streaming.resilience.guard import Guard
from streaming.resilience.hedge import Hedge
from streaming.resilience.retry import Retry
from streaming.resilience.verify import verify
from streaming.sources.base import Blob, Expected, NeedsLoop

__all__ = ["FirstAttempt", "FirstAttempts", "TakeOver", "TakenOver"]

_PLACE_TIMEOUT_S = 0.1
"""A thread waits this long for a place in the limit, as others wait on the loop; then its read waits there too. Without
the wait, one thread without a place would pass all loads to the loop, which would then have all places forever."""


class TakeOver(Exception):
    """An attempt failed in its thread; the chain has to continue it. The cause is the error."""


class TakenOver(Exception):
    """The chain has taken over the attempt before it ended, and has its outcome by now."""


class FirstAttempt:
    """A request to one replica that a thread makes.

    Attributes:
        guard: of the replica.
        started: when it began, on the clock of the chain.
    """

    __slots__ = ("_attempts", "_belongs_to_thread", "_holds_place", "_outcome", "_waiter", "guard", "started")

    def __init__(self, attempts: FirstAttempts, guard: Guard, started: float) -> None:
        self._attempts = attempts
        self.guard = guard
        self.started = started
        self._belongs_to_thread = [True]  # who pops it has claimed the attempt
        self._holds_place = [True]  # once the chain has claimed the attempt: who pops it gives the place back
        self._outcome: Blob | BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    def claim(self) -> bool:
        """Take the attempt for the chain; False if it has ended, or was taken before. On the loop."""
        if not _pop(self._belongs_to_thread):
            return False
        self._attempts.limit_of(self.guard).move_to_loop()
        return True

    def is_late(self) -> bool:
        """Whether the chain would make another request by now."""
        return self._attempts.now() - self.started >= self._attempts.late_after_s

    def read(self, path: str, expect: Expected, start: int = 0, end: int | None = None) -> Blob:
        """Make the request, in the thread that began the attempt.

        Raises:
            NeedsLoop: the source needs the loop; nothing was counted.
            TakeOver: it failed.
            TakenOver: it was late.
        """
        guard = self.guard
        counters = guard.thread_counters.mine
        counters.in_flight += 1
        outcome: Blob | BaseException
        try:
            assert guard.source.read_blocking is not None
            outcome = guard.source.read_blocking(path, start, end)
        except BaseException as error:
            outcome = error
        seconds = self._attempts.now() - self.started
        if isinstance(outcome, Blob) and self._is_whole(outcome, path, expect, start, end):
            if _pop(self._belongs_to_thread):
                self._attempts.end(guard, seconds)
                counters.answered(outcome.data, seconds)
                return outcome
        elif _pop(self._belongs_to_thread):
            self._attempts.limit_of(guard).leave_thread()
            counters.in_flight -= 1
            self._outcome = outcome
            if isinstance(outcome, NeedsLoop):
                raise outcome
            raise TakeOver from (outcome if isinstance(outcome, BaseException) else None)
        self._give_place_back()
        counters.in_flight -= 1
        self._attempts.call_soon(self._arrive, outcome)
        raise TakenOver

    def _is_whole(self, blob: Blob, path: str, expect: Expected, start: int, end: int | None) -> bool:
        if expect.checksums:
            return False  # the chain takes them
        try:
            verify(path, blob, start, end, expect, self.guard.name)
        except (ObjectChanged, TruncatedRead):  # the chain raises it again, and counts it
            return False
        return True

    async def answer(self) -> Blob:
        """Return what the request returned, or raise what it raised, once it has ended.

        On the loop, after `claim` or `TakeOver`. If it is cancelled, another read may have the place in the limit: the
        thread is left alone with a server that does not answer.
        """
        if self._outcome is None:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._give_place_back()
        outcome = self._outcome
        if isinstance(outcome, BaseException):
            self._attempts.settle()  # the circuit breaker counts failures in a row
            raise outcome
        assert outcome is not None
        return outcome

    def _give_place_back(self) -> None:
        if _pop(self._holds_place):
            self._attempts.limit_of(self.guard).leave()

    def _arrive(self, outcome: Blob | BaseException) -> None:
        self._outcome = outcome
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class FirstAttempts:
    """Begins attempts at the replicas of one stack of wrappers, and keeps its accounts of those that were healthy.

    Args:
        stack: of `streaming.resilience.stack`.
        loop: runs the stack.

    Attributes:
        is_for_threads: whether the source that is read first can be read by threads, and is known beforehand: not with
            `replica_selection="least-loaded"`.
        late_after_s: seconds after which the chain would make another request, as of the last `settle`.
        now: clock of the stack.
    """

    def __init__(self, stack: Retry, loop: asyncio.AbstractEventLoop) -> None:
        assert isinstance(stack.source, Hedge)
        self._retry = stack
        self._hedge = stack.source
        self._loop = loop
        self._failover = self._hedge.source if isinstance(self._hedge.source, Failover) else None
        sources = self._failover.sources if self._failover is not None else (self._hedge.source,)
        self._guards = [source for source in sources if isinstance(source, Guard)]
        is_known = self._failover is None or stack.settings.replica_selection == "ordered"
        self.is_for_threads = is_known and self._guards[0].source.read_blocking is not None
        self._limits = {guard: guard.endpoint_on(loop).limit for guard in self._guards}
        self._healthy: dict[Guard, deque[float]] = {guard: deque() for guard in self._guards}
        self.now = stack.context.clock
        self.late_after_s = self._hedge.latencies.stall_timeout_s(stack.settings)

    @property
    def limits(self) -> dict[int, int]:
        """Reads that threads may make at once at the endpoint that is read first, by the identity of its limit."""
        limit = self._limits[self._guards[0]]
        return {id(limit): limit.allowed_in_threads}

    def limit_of(self, guard: Guard) -> ConcurrencyLimit:
        """Return the limit of a replica's endpoint."""
        return self._limits[guard]

    def note_full(self) -> None:
        """Note that threads would read more if the limit allowed it."""
        self._limits[self._guards[0]].note_full()

    def begin(self) -> FirstAttempt | None:
        """Return an attempt for this thread, which makes it at once; None if the chain has to read. Any thread.

        It waits briefly for a place in the concurrency limit of the endpoint.
        """
        for guard in self._guards:
            if guard.breaker.state is State.CLOSED:
                break
            if not guard.breaker.is_refusing:  # a probe is due
                return None
        else:
            return None
        limit = self._limits[guard]
        source = guard.source
        if source.read_blocking is None or not source.blocks_now or limit.is_throttled:
            return None
        if not limit.enter_thread(_PLACE_TIMEOUT_S):
            return None
        return FirstAttempt(self, guard, self.now())

    def end(self, guard: Guard, seconds: float) -> None:
        """Account for a healthy attempt, in its thread."""
        self._limits[guard].leave_thread(seconds)
        self._healthy[guard].append(seconds)

    def call_soon(self, callback: Any, *args: Any) -> None:
        """Schedule a callback on the loop, if it still runs."""
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def settle(self) -> float:
        """Account for the healthy attempts since the last call; return `late_after_s`. On the loop."""
        for guard, ended in self._healthy.items():
            if not ended:
                continue
            seconds = [ended.popleft() for _ in range(len(ended))]
            count = len(seconds)
            self._retry.requests += count
            self._retry.endpoint_on(self._loop).budget.earn(count)
            self._hedge.earn(count)
            self._hedge.latencies.extend(seconds)
            guard.breaker.succeeded_in_threads(seconds)
            if self._failover is not None:
                self._failover.note_healthy(guard, seconds)
        self.late_after_s = self._hedge.late_after_s()
        return self.late_after_s


def _pop(token: list[bool]) -> bool:
    """Take a token that two threads may want: true for one of them."""
    try:
        return token.pop()
    except IndexError:
        return False
