"""The numbers of an owner as metrics: see `streaming.monitoring.metrics.families` for names, labels and meaning."""

from __future__ import annotations

from streaming.cache.sample import SmartLRUCache
from streaming.prefetch.readahead import ReadAhead
from streaming.telemetry.counters import Counters, MetricsSnapshot
from streaming.telemetry.stages import by_stage

__all__ = ["of_cache", "of_read_ahead", "of_reads"]


def of_cache(cache: SmartLRUCache, hits: int, misses: int, observed: float | None) -> MetricsSnapshot:
    """What a cache holds, and what reading through it brought.

    Args:
        hits, misses: reads that needed no fetch, and fetches.
        observed: hits per read lately; None before the first read.
    """
    stats = cache.get_cache_stats()
    reading: MetricsSnapshot = {
        "cache_hits": {(): hits},
        "cache_misses": {(): misses},
        "cache_evictions": {("capacity",): stats["total_evictions"], ("ttl",): stats["expired"]},
        "cache_rejections": {("size",): stats["bypassed"], ("type",): stats["uncacheable"]},
        "cache_saved_bytes": {(): round(stats["compression_savings_gb"] * 1e9)},
        "cache_entries": {(): stats["num_items"]},
        "cache_bytes": {(): round(stats["current_size_gb"] * 1e9)},
        "cache_reserved_bytes": {(): round(stats["in_flight_gb"] * 1e9)},
        "cache_capacity_bytes": {(): cache.max_bytes},
        "cache_compression_ratio": {(): stats["compression_ratio"]},
    }
    rates = {"cache_predicted_hit_ratio": stats["predicted_hit_rate"], "cache_observed_hit_ratio": observed}
    return reading | {key: {(): rate} for key, rate in rates.items() if rate is not None}


def of_read_ahead(engine: ReadAhead, cache: SmartLRUCache) -> MetricsSnapshot:
    """How far reading ahead is, and what it may take."""
    return {
        "prefetch_depth": {(): engine.announced.depth},
        "prefetch_buffered_samples": {(): len(engine.announced.started)},
        "prefetch_in_flight": {(): engine.in_flight},
        "prefetch_queued_samples": {(): engine.announced.waiting},
        "prefetch_bytes": {(): cache.bytes_ahead},
        "prefetch_max_bytes": {(): cache.window},
        "prefetch_budget_exhausted": {(): int(engine.is_full)},
    }


def of_reads(counters: Counters, received_bytes: int, bad_samples: int) -> MetricsSnapshot:
    """What was read, how many bytes came for it, and how long readers waited."""
    return {
        "prefetch_late": {(): counters.late},
        "reads": {(): counters.reads},
        "fetched_objects": {(): counters.objects_fetched},
        "fetched_bytes": {(): received_bytes},
        "samples_replaced": {(): bad_samples},
        "read_waits": {(): counters.waits},
        "read_wait_seconds": by_stage(counters.waited),
    }
