"""Plain numbers that the hot path bumps and everything else only reads.

Each is written from one thread (named beside it) or under the cache's lock, so that adding costs an addition.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, fields
from typing import Final

__all__ = ["LATENCY_BUCKETS_S", "OUTCOMES", "Counters", "SourceCounters"]

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
"""What may come of a request: an answer, an error by its class, or nothing because nobody waited any more."""

LATENCY_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds in seconds; one more bucket takes what is above."""


@dataclass(slots=True)
class Counters:
    """What an owner process has read and how long its readers waited. Seconds and bytes.

    Attributes:
        reads: samples handed to a reader, in this process or a worker.
        samples_fetched: samples made from their sources, ahead of time or on demand.
        objects_fetched: objects, or ranges of objects, that were read for them.
        bytes_fetched: bytes of these, as they came from the source.
        bytes_served: bytes that the same reads would have fetched without a cache.
        waits: reads, or batches of reads, that had to wait for a source.
        wait_seconds: how long they waited.
    """

    reads: int = 0
    samples_fetched: int = 0
    objects_fetched: int = 0
    bytes_fetched: int = 0
    bytes_served: int = 0
    waits: int = 0
    wait_seconds: float = 0.0

    def reset(self) -> None:
        """Set every number back to zero."""
        for each in fields(self):
            setattr(self, each.name, each.default)


@dataclass(slots=True)
class SourceCounters:
    """Requests to one copy of the data.

    Attributes:
        outcomes: how many ended in each of `OUTCOMES`.
        nbytes: bytes that were answered.
        buckets: answered requests by how long they took, see `LATENCY_BUCKETS_S`; one more than there are bounds.
        seconds: how long they took together.
    """

    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    nbytes: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS_S) + 1))
    seconds: float = 0.0

    def answered(self, nbytes: int, seconds: float) -> None:
        """Count a request that brought so many bytes after so long."""
        self.outcomes["ok"] += 1
        self.nbytes += nbytes
        self.seconds += seconds
        self.buckets[bisect_left(LATENCY_BUCKETS_S, seconds)] += 1
