"""The numbers of an engine: for `get_cache_stats`, and as metrics.

`streaming.monitoring.metrics.families` says what each metric means and which labels it has.
"""

from __future__ import annotations

from typing import Any

from streaming.cache.rates import RecentHits
from streaming.cache.sample import SmartLRUCache
from streaming.engine.bad_samples import BadSamples
from streaming.engine.replicas import ReplicaReader
from streaming.index import SampleIndex
from streaming.index.revalidation import Revalidation
from streaming.prefetch.readahead import ReadAhead
from streaming.telemetry.counters import Counters, MetricsSnapshot
from streaming.telemetry.stages import by_stage

__all__ = ["EngineStatistics"]


class EngineStatistics:
    """Collects the numbers of the parts of an engine. Safe in any thread.

    The arguments are these parts; `bad` is None where bad samples raise.
    """

    def __init__(
        self,
        counters: Counters,
        index: SampleIndex,
        cache: SmartLRUCache,
        reader: ReplicaReader,
        read_ahead: ReadAhead,
        *,
        revalidation: Revalidation,
        bad: BadSamples | None,
    ) -> None:
        self._counters = counters
        self._index = index
        self._cache = cache
        self._reader = reader
        self._read_ahead = read_ahead
        self._revalidation = revalidation
        self._bad = bad
        self._recent = RecentHits(len(index))
        self._nbytes_at_reset = 0

    def reset(self) -> None:
        """Set every count back to zero."""
        self._counters.reset()
        self._nbytes_at_reset = self._reader.nbytes
        self._cache.reset_metrics()
        self._read_ahead.hits = 0

    def epoch_s(self) -> float | None:
        """Return how long the reads of the last epoch took; None during the first."""
        self._observed_hit_rate()
        return self._recent.epoch_s

    def stats(self) -> dict[str, Any]:
        """Return the numbers of `StreamingDatasetAdapter.get_cache_stats`."""
        counters, hits = self._counters, self._hits
        added, changed, removed = self._revalidation.counts or (None, None, None)
        observed = self._observed_hit_rate()
        mean_bytes = counters.bytes_fetched / counters.samples_fetched if counters.samples_fetched else 0.0
        return {
            **self._cache.get_cache_stats(),
            "total_hits": hits,
            "total_misses": counters.samples_fetched,
            "hit_rate": hits / counters.reads if counters.reads else 0.0,
            "observed_hit_rate": observed,
            "prefetch_hits": self._prefetch_hits,
            "fetched_samples": counters.samples_fetched,
            "fetched_objects": counters.objects_fetched,
            "fetched_bytes": self._fetched_bytes,
            "saved_bytes": round(hits * mean_bytes),  # at the mean size of the samples that were fetched
            "waits": counters.waits,
            "wait_seconds": counters.wait_seconds,
            "in_flight": self._read_ahead.in_flight,
            "dropped": self._index.dropped,
            "skipped_objects": self._index.skipped_objects,
            "added_samples": added,
            "changed_samples": changed,
            "removed_samples": removed,
            "bad_samples": self._bad_samples,
        }

    def metrics_snapshot(self) -> MetricsSnapshot:
        """Return the current numbers as metrics."""
        counters, read_ahead, cache = self._counters, self._read_ahead, self._cache
        return {
            **self._reader.metrics_snapshot(),
            **self._cache_snapshot(),
            "cache_prefetch_hits": {(): self._prefetch_hits},
            "prefetch_depth": {(): read_ahead.announced.depth},
            "prefetch_buffered_samples": {(): len(read_ahead.announced.started)},
            "prefetch_in_flight": {(): read_ahead.in_flight},
            "prefetch_queued_samples": {(): read_ahead.announced.waiting},
            "prefetch_bytes": {(): cache.bytes_ahead},
            "prefetch_max_bytes": {(): cache.window},
            "prefetch_budget_exhausted": {(): int(read_ahead.is_full)},
            "prefetch_late": {(): counters.late},
            "reads": {(): counters.reads},
            "fetched_objects": {(): counters.objects_fetched},
            "fetched_bytes": {(): self._fetched_bytes},
            "samples_replaced": {(): self._bad_samples},
            "read_waits": {(): counters.waits},
            "read_wait_seconds": by_stage(counters.waited),
            "dataset_samples": {(): len(self._index)},
        }

    def _cache_snapshot(self) -> MetricsSnapshot:
        stats = self._cache.get_cache_stats()
        snapshot: MetricsSnapshot = {
            "cache_hits": {(): self._hits},
            "cache_misses": {(): self._counters.samples_fetched},
            "cache_evictions": {("capacity",): stats["total_evictions"], ("ttl",): stats["expired"]},
            "cache_rejections": {("size",): stats["bypassed"], ("type",): stats["uncacheable"]},
            "cache_saved_bytes": {(): round(stats["compression_savings_gb"] * 1e9)},
            "cache_entries": {(): stats["num_items"]},
            "cache_bytes": {(): round(stats["current_size_gb"] * 1e9)},
            "cache_reserved_bytes": {(): round(stats["in_flight_gb"] * 1e9)},
            "cache_capacity_bytes": {(): self._cache.max_bytes},
            "cache_compression_ratio": {(): stats["compression_ratio"]},
        }
        ratios = {
            "cache_predicted_hit_ratio": stats["predicted_hit_rate"],
            "cache_observed_hit_ratio": self._observed_hit_rate(),
        }
        return snapshot | {name: {(): ratio} for name, ratio in ratios.items() if ratio is not None}

    @property
    def _hits(self) -> int:
        return max(self._counters.reads - self._counters.samples_fetched, 0)

    @property
    def _prefetch_hits(self) -> int:
        """Reads whose sample had been announced and loaded, or brought in by `fetch`."""
        return self._read_ahead.hits + self._cache.get_metrics().prefetch_hits

    def _observed_hit_rate(self) -> float | None:
        """Hits per read over the last epoch; None before the first read."""
        return self._recent.note(self._counters.reads, self._counters.samples_fetched)

    @property
    def _fetched_bytes(self) -> int:
        """Bytes that arrived from the sources since the metrics were reset."""
        return self._reader.nbytes - self._nbytes_at_reset

    @property
    def _bad_samples(self) -> int:
        return 0 if self._bad is None else self._bad.count
