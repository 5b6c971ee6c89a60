"""Every metric family: its name, kind, labels and meaning. Nothing else makes a name that starts with `streaming_`.

Units are base units (seconds, bytes, ratios from 0 to 1). Labels take values from small closed sets, never keys, paths
or URLs. Each family has the label `rank` besides its own; `dataset` is the name of an adapter. Families of the process
or the build have no `dataset`.

A reading is `{key: {values of the labels without rank: number}}`. The number of a histogram is a list: the counts of
its buckets, not cumulative, one more than `LATENCY_BUCKETS_S`, and last the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from streaming.resilience.breaker import State
from streaming.telemetry.counters import OUTCOMES
from streaming.telemetry.stages import STAGES

__all__ = ["BY_KEY", "FAMILIES", "GROUPS", "PREFIX", "VALUES", "Family"]

PREFIX: Final = "streaming_"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family.

    Attributes:
        key: its name in a reading.
        kind: "counter", "gauge" or "histogram".
        help: meaning of the number, with its unit.
        labels: names, in the order of their values in a reading; `VALUES` has the values that are known beforehand.
    """

    key: str
    kind: str
    help: str
    labels: tuple[str, ...] = ("dataset",)

    @property
    def name(self) -> str:
        """The exposed name; for a histogram without `_bucket`, `_sum` and `_count`."""
        return PREFIX + self.key + ("_total" if self.kind == "counter" else "")


def _counter(key: str, text: str, *labels: str) -> Family:
    return Family(key, "counter", text, labels or ("dataset",))


def _gauge(key: str, text: str, *labels: str) -> Family:
    return Family(key, "gauge", text, labels or ("dataset",))


_SOURCE = ("dataset", "source")

_SOURCES = (
    Family("source_requests", "counter", "Requests to a replica, by outcome.", (*_SOURCE, "outcome")),
    _counter("source_bytes", "Bytes of objects received from a replica, used or not.", *_SOURCE),
    Family("source_request_duration_seconds", "histogram", "Latency of answered requests.", _SOURCE),
    _counter("source_retries", "Retries of reads and listings.", *_SOURCE),
    _counter("source_deadline_exceeded", "Reads given up because their deadline passed.", *_SOURCE),
    _counter("source_hedges", "Hedges: second requests sent because the first was late.", *_SOURCE),
    _counter("source_hedge_wins", "Hedges that answered before the first request.", *_SOURCE),
    _counter("source_failovers", "Reads served by another replica than the first choice.", *_SOURCE),
    _counter("source_integrity_failures", "Answers that were damaged, or not the object that was listed.", *_SOURCE),
    _counter("source_breaker_opened", "Times that the circuit breaker of a replica opened.", *_SOURCE),
    _gauge("source_breaker_state", "1 for the state of a replica's circuit breaker, else 0.", *_SOURCE, "state"),
    _gauge("source_in_flight", "Requests in flight to a replica.", *_SOURCE),
    _gauge("source_queued_requests", "Requests that wait for the concurrency limit of an endpoint.", *_SOURCE),
    _gauge(
        "source_concurrency_limit",
        "Concurrency limit of a replica's endpoint, adapted to its latency.",
        *_SOURCE,
    ),
)

_CACHE = (
    _counter("cache_hits", "Reads of a sample that needed no fetch."),
    _counter("cache_misses", "Samples fetched, ahead of time or on demand."),
    _counter("cache_prefetch_hits", "Reads that found their sample fetched ahead of time."),
    _counter("cache_evictions", "Samples evicted: to make room (capacity) or by age (ttl).", "dataset", "reason"),
    _counter(
        "cache_rejections",
        "Samples not kept: too large (size) or of unsupported types (type).",
        "dataset",
        "reason",
    ),
    _counter("cache_saved_bytes", "Bytes saved by compression."),
    _gauge("cache_entries", "Samples in the cache."),
    _gauge("cache_bytes", "Bytes used by the samples in the cache."),
    _gauge("cache_reserved_bytes", "Bytes of the budget reserved for reads in flight."),
    _gauge("cache_capacity_bytes", "Budget of the cache in bytes."),
    _gauge("cache_compression_ratio", "Bytes of the samples stored so far, over the bytes they were stored in."),
    _gauge("cache_predicted_hit_ratio", "Expected hits per read with this budget and order; absent if unknown."),
    _gauge("cache_observed_hit_ratio", "Hits per read over the last epoch; absent before the first read."),
)

_PREFETCH = (
    _gauge("prefetch_depth", "Limit at this moment on samples of one order read ahead and not yet used."),
    _gauge("prefetch_buffered_samples", "Samples read ahead or in flight, and not yet used."),
    _gauge("prefetch_in_flight", "Samples in flight."),
    _gauge("prefetch_queued_samples", "Announced samples whose read has not begun."),
    _gauge("prefetch_bytes", "Bytes of the budget used by samples read ahead."),
    _gauge("prefetch_max_bytes", "Limit on the bytes of the budget used by samples read ahead."),
    _gauge("prefetch_budget_exhausted", "1 while the budget has no room for the next read ahead, else 0."),
    _counter("prefetch_late", "Samples still in flight when they were read."),
)

_READS = (
    _gauge("dataset_samples", "Number of samples in the data set."),
    _counter("reads", "Samples handed to the trainer or a worker."),
    _counter("fetched_objects", "Objects, or ranges of objects, read from sources."),
    _counter("fetched_bytes", "Bytes received from all sources, including retries, hedges and the index."),
    _counter("samples_replaced", "Samples replaced because they could not be loaded, each counted once."),
    _counter("read_waits", "Reads, or batches of reads, that had to wait for a fetch."),
    _counter("read_wait_seconds", "Seconds that they waited, by stage.", "dataset", "stage"),
)

_LOADER = (
    _counter("loader_batches", "Batches handed to the trainer."),
    _counter("loader_samples", "Samples in them; a pack or group counts as one."),
    _gauge("loader_epoch", "Current epoch, or the next one between epochs."),
    _gauge("loader_position", "Samples or groups of the epoch delivered so far, over all ranks."),
    _gauge("loader_padding_ratio", "Share of padding in the batches of this epoch; absent without `batching`."),
    _counter("trainer_steps", "Batches delivered to a trainer whose waits are measured."),
    _counter(
        "trainer_wait_seconds",
        "Seconds that the trainer waited for batches, by stage.",
        "dataset",
        "stage",
    ),
    _counter("trainer_busy_seconds", "Seconds between getting a batch and asking for the next."),
)

_PROCESS = (
    _gauge("process_resident_memory_bytes", "Resident memory of the trainer or of the process that reads.", "process"),
    Family(
        "process_memory_limit_bytes",
        "gauge",
        "Memory limit of this process: that of its control group, or of the machine.",
        (),
    ),
    _gauge("event_loop_lag_seconds", "90th percentile of how late timers of the event loop ran, over 10 s.", "process"),
    Family("start_time_seconds", "gauge", "Start of the metrics of this process, in seconds since 1970.", ()),
    _gauge("build_info", "1; the labels are the versions in use.", "version", "python", "torch"),
    Family("scrape_duration_seconds", "gauge", "How long this scrape took to read the numbers.", ()),
    _counter("scrape_errors", "Failed readings of a data set; its last numbers were given again."),
)


VALUES: Final[dict[str, tuple[str, ...]]] = {
    "outcome": OUTCOMES,
    "stage": STAGES,
    "state": tuple(state.value for state in State),
    "reason": ("capacity", "ttl", "size", "type"),
    "process": ("trainer", "owner"),
}
"""Values of each label that are known beforehand; those of `dataset` and `source` are names from the settings."""

GROUPS: Final[dict[str, tuple[Family, ...]]] = {
    "Sources": _SOURCES,
    "Cache": _CACHE,
    "Prefetch": _PREFETCH,
    "Reads": _READS,
    "Loader and trainer": _LOADER,
    "Process": _PROCESS,
}
"""The families by subject."""

FAMILIES: Final[tuple[Family, ...]] = tuple(family for group in GROUPS.values() for family in group)
"""All families, in the order in which they are exposed."""

BY_KEY: Final[dict[str, Family]] = {family.key: family for family in FAMILIES}
