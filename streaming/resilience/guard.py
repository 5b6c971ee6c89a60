"""A guard for each replica: its circuit breaker, the concurrency limit of its host, and a check of its answers."""

from __future__ import annotations

from streaming.errors import ObjectChanged, TruncatedRead
from streaming.resilience.breaker import CircuitBreaker
from streaming.resilience.concurrency_limit import ConcurrencyLimit
from streaming.resilience.context import DEFAULT_CONTEXT, Context
from streaming.resilience.request_outcome import is_throttle, request_outcome
from streaming.resilience.verify import verify, verify_checksums
from streaming.resilience.wrapper import Wrapper
from streaming.sources.base import Blob, DataSource, Expected
from streaming.telemetry.counters import SourceCounters


class Guard(Wrapper):
    """Reads a replica if its circuit breaker and the concurrency limit of its host allow it, and verifies the answer.

    It is one wrapper because each costs a healthy read a coroutine (1 us). It belongs below `Failover`, as ETags differ
    between replicas. Listings are neither refused nor delayed: few run at a time, and reads would wait behind them.

    Attributes:
        breaker: refuses reads for a while after failures.
        counters: requests that were sent, and their outcomes; written on the loop, read anywhere.
        mismatches: answers that failed verification.
        waiting: number of reads that wait for the limit.
    """

    def __init__(self, source: DataSource, context: Context = DEFAULT_CONTEXT) -> None:
        super().__init__(source, context)
        self.breaker = CircuitBreaker(self.name, context)
        self.counters = SourceCounters()
        self.mismatches = 0
        self.waiting = 0

    @property
    def limit(self) -> ConcurrencyLimit:
        """The concurrency limit of the replica's host, on the running loop."""
        return self.endpoint.limit

    @property
    def last_limit(self) -> ConcurrencyLimit | None:
        """The limit of the last read, None before the first; safe to use from any thread."""
        return self._endpoint.limit if self._endpoint is not None else None

    @property
    def is_throttled(self) -> bool:
        return self.limit.is_throttled

    @property
    def is_circuit_open(self) -> bool:
        return self.breaker.is_refusing

    async def read_expecting(self, path: str, expect: Expected | None, start: int = 0, end: int | None = None) -> Blob:
        if self._closed:
            self._check_open()
        breaker, counters, limit, now = self.breaker, self.counters, self.endpoint.limit, self._now
        is_probe = breaker.admit(path)
        requested_s = 0.0  # without the wait for the limit, which says nothing about the replica
        try:
            if not limit.enter_now():
                await self._wait_for(limit)
            entered = now()
            counters.in_flight += 1
            try:
                blob = await self.source.read(path, start, end)
                requested_s = now() - entered
                counters.answered(blob.data, requested_s)
            except BaseException as error:
                requested_s = now() - entered
                counters.ended(request_outcome(error))
                limit.leave(None, is_throttle(error))
                raise
            limit.leave(requested_s)
        except BaseException as error:
            breaker.failed(error, requested_s, is_probe)
            raise
        breaker.succeeded(requested_s, is_probe)
        try:
            verify(path, blob, start, end, expect, self.name)
            if expect is not None and expect.checksums and start == 0 and (end is None or end >= blob.size):
                await verify_checksums(path, blob, expect.checksums, self.name)
        except (ObjectChanged, TruncatedRead):
            self.mismatches += 1
            raise
        return blob

    async def _wait_for(self, limit: ConcurrencyLimit) -> None:
        self.waiting += 1
        try:
            await limit.enter()
        finally:
            self.waiting -= 1
