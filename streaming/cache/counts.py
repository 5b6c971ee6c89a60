"""Counts of a cache: hits, misses, evictions and the like."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class CacheMetrics:
    """Counts since the start or the last `reset_metrics`.

    Attributes:
        hits, misses: reads that found their key, and that did not.
        evictions: entries that were removed to make room.
        prefetch_hits: prefetched entries that were read, each counted once.
        total_bytes_saved: bytes that compression saved.
        total_bytes_stored: bytes that were stored.
        expirations: entries that were removed because of their age.
        bypassed: samples and reads too large for the cache, or for what it may evict.
        uncacheable: samples that hold types which cannot be stored.
    """

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    prefetch_hits: int = 0
    total_bytes_saved: int = 0
    expirations: int = 0
    bypassed: int = 0
    uncacheable: int = 0
    total_bytes_stored: int = 0

    @property
    def hit_rate(self) -> float:
        """Hits per read, 0.0 before the first read."""
        reads = self.hits + self.misses
        return self.hits / reads if reads else 0.0

    @property
    def compression_ratio(self) -> float:
        """Uncompressed bytes per byte stored, 1.0 before the first entry."""
        stored = self.total_bytes_stored
        return (stored + self.total_bytes_saved) / stored if stored else 1.0

    def as_stats(self) -> dict[str, float]:
        """Return the counts under the names of `get_cache_stats`."""
        return {
            "hit_rate": self.hit_rate,
            "total_hits": self.hits,
            "total_misses": self.misses,
            "total_evictions": self.evictions,
            "prefetch_hits": self.prefetch_hits,
            "compression_savings_gb": self.total_bytes_saved / 1e9,
            "compression_ratio": self.compression_ratio,
            "expired": self.expirations,
            "bypassed": self.bypassed,
            "uncacheable": self.uncacheable,
        }
