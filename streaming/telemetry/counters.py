"""Plain numbers that the hot path increments and everything else only reads.

Each is written by one thread or under the cache's lock, so counting costs one addition.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Final

from streaming.telemetry.stages import STAGES

__all__ = ["LATENCY_BUCKETS_S", "OUTCOMES", "Counters", "MetricsSnapshot", "SourceCounters", "ThreadCounters"]

MetricsSnapshot = dict[str, dict[tuple[str, ...], Any]]
"""Numbers of one moment: `{family: {values of its labels, without those that the collector adds: number}}`. For the
families see `streaming.monitoring.metrics.families`."""

OUTCOMES: Final = (
    "ok",
    "not_found",
    "denied",
    "throttled",
    "timeout",
    "unavailable",
    "truncated",
    "changed",
    "refused",
    "cancelled",
    "other",
)
"""Outcomes of a request: success, an error by its class, or cancelled because its result was no longer needed."""

LATENCY_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds in seconds; one more bucket holds what is above."""

_QUICK_S: Final = LATENCY_BUCKETS_S[0]


@dataclass(slots=True)
class Counters:
    """Counts of an engine's reads, and how long its readers waited. Seconds and bytes.

    Attributes:
        reads: samples handed to a reader, in this process or a worker.
        samples_fetched: samples fetched from their sources, ahead of time or on demand.
        objects_fetched: objects, or ranges of objects, read for them.
        bytes_fetched: bytes of these, as stored at the sources; bytes on the wire are counted at the sources.
        waits: reads, or batches of reads, that had to wait for a fetch.
        wait_seconds: how long they waited.
        waited: the same by stage: a number for each of `streaming.telemetry.stages.STAGES`.
        late: samples that were still in flight when they were read.
    """

    reads: int = 0
    samples_fetched: int = 0
    objects_fetched: int = 0
    bytes_fetched: int = 0
    waits: int = 0
    wait_seconds: float = 0.0
    waited: list[float] = field(default_factory=lambda: [0.0] * len(STAGES))
    late: int = 0

    def reset(self) -> None:
        """Set every number to zero."""
        fresh = Counters()
        for each in fields(self):
            setattr(self, each.name, getattr(fresh, each.name))


@dataclass(slots=True)
class SourceCounters:
    """Requests to one replica, counted by one thread.

    Attributes:
        in_flight: requests in flight; increment it before each request.
        unanswered: number of requests by outcome, for each of `OUTCOMES` but "ok".
        buckets: answered requests by latency, see `LATENCY_BUCKETS_S`; one more than there are bounds.
        seconds: sum of the latencies of answered requests.
        nbytes: bytes received.
    """

    in_flight: int = 0
    unanswered: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES[1:], 0))
    buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS_S) + 1))
    seconds: float = 0.0
    nbytes: int = 0

    def answered(self, data: bytes | bytearray | memoryview, seconds: float) -> None:
        """Count a request that returned these bytes after `seconds`.

        Nearly all reads of a local disk fall into the first bucket, so it is checked before the search, which costs
        0.7 us (with what it evicts from the processor's caches) of a 60 us read of 20 kB.
        """
        self.nbytes += len(data)
        self.seconds += seconds
        self.buckets[0 if seconds <= _QUICK_S else bisect_left(LATENCY_BUCKETS_S, seconds)] += 1
        self.in_flight -= 1

    def ended(self, outcome: str) -> None:
        """Count a request that ended in one of `OUTCOMES` but "ok"."""
        self.unanswered[outcome] += 1
        self.in_flight -= 1

    @property
    def outcomes(self) -> dict[str, int]:
        """Number of requests by outcome; "ok" is the sum of the buckets."""
        return {"ok": sum(self.buckets), **self.unanswered}

    @classmethod
    def total(cls, each: Iterable[SourceCounters]) -> SourceCounters:
        """Return the sum of several. They may be counting meanwhile; the last milliseconds are then partly included."""
        total = cls()
        for counters in each:
            total.buckets = [a + b for a, b in zip(total.buckets, tuple(counters.buckets), strict=True)]
            for outcome, count in counters.unanswered.items():
                total.unanswered[outcome] += count
            total.seconds += counters.seconds
            total.nbytes += counters.nbytes
            total.in_flight += counters.in_flight
        return total


class ThreadCounters(threading.local):
    """`SourceCounters` for a source that several threads read: one per thread, so that none needs a lock.

    Measured with two threads: 0.2 us per request, against 0.34 us with one lock for all.

    Args:
        every: list that keeps the counters of each thread, also after the thread has ended.

    Attributes:
        mine: the counters of this thread.
    """

    def __init__(self, every: list[SourceCounters]) -> None:  # runs once in each thread that uses it
        self.mine = SourceCounters()
        every.append(self.mine)
