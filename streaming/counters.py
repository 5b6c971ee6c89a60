"""Plain numbers that the hot path bumps and everything else only reads.

Each is written from one thread (named beside it) or under the cache's lock, so that adding costs an addition.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Counters"]


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
        for field in fields(self):
            setattr(self, field.name, field.default)
