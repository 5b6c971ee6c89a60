"""The interface through which an adapter reads, whichever process does the input."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from streaming.cache.sample import SmartLRUCache
from streaming.index import Changes, SampleIndex
from streaming.link.messages import LinkHandle
from streaming.telemetry.counters import MetricsSnapshot

__all__ = ["SampleReader"]


class SampleReader(Protocol):
    """Reads samples by position. Safe in any thread except the runtime's own.

    Implemented by `Engine` in the process that does the input, by `RemoteEngine` where a child process does it, and by
    `Worker` in the children of either. The last two raise `EngineGoneError` if the other process has ended.
    """

    @property
    def length(self) -> int:
        """Number of samples."""

    @property
    def index(self) -> SampleIndex:
        """The index, which maps samples to bytes of objects; a copy in another process than the engine's."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the index."""

    @property
    def cache(self) -> SmartLRUCache:
        """The sample cache.

        Raises:
            ConfigError: the cache is in another process.
        """

    @property
    def reads(self) -> int:
        """Samples that all processes have read through the engine since the last `reset_metrics`."""

    @property
    def announces(self) -> bool:
        """Whether this process announces what it will read; for a DataLoader worker its parent does."""

    def name_of(self, position: int) -> str:
        """Return the name of a sample, for messages."""

    def read(self, position: int) -> Any:
        """Return one sample, owned by the caller. Blocks while it is fetched."""

    def read_many(self, positions: Sequence[int]) -> list[Any]:
        """Return samples in the order of the positions, owned by the caller; missing ones are fetched together."""

    def read_drawn(self, positions: Sequence[int]) -> tuple[list[Any], list[int]]:
        """Like `read_many`; also return how often each sample was read in this way before, by any process."""

    def announce(self, positions: Iterable[int], order: int) -> None:
        """Announce which samples will be read next, in order; announcements under one token continue each other."""

    def forget(self, order: int) -> None:
        """Forget what was announced under this token and was not read."""

    async def fetch(self, positions: Iterable[int]) -> None:
        """Load samples into the cache, and wait for as many as may be there before one of them is read.

        Failures surface at the reads.
        """

    def stop_fetching(self) -> None:
        """Drop the samples that `fetch` has not begun to load, for all processes that share the cache."""

    def stats(self) -> dict[str, Any]:
        """Return the numbers of `StreamingDatasetAdapter.get_cache_stats`."""

    def metrics_snapshot(self) -> MetricsSnapshot:
        """Return the current numbers as metrics, see `StreamingDatasetAdapter.metrics_snapshot`."""

    def reset_metrics(self) -> None:
        """Set every count back to zero."""

    def clear(self) -> None:
        """Drop every cached sample."""

    def refresh_index(self) -> Changes:
        """See `StreamingDatasetAdapter.refresh_index`. Blocks meanwhile."""

    def handle(self) -> LinkHandle:
        """Return what a child process needs to read through the same engine."""

    def as_worker(self) -> SampleReader:
        """Return a reader through the same engine, for use in a forked child."""

    def close_with(self, holder: object) -> weakref.finalize[Any, Any]:
        """Close when the holder is garbage collected; return the finalizer, which can be detached."""

    def close(self) -> None:
        """Stop reading and release what the reader holds. Idempotent."""
