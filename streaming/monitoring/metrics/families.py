"""Every metric family: its name, kind, labels and meaning. Nothing else makes a name that starts with `streaming_`.

Units are base units (seconds, bytes, ratios of 0 to 1). Labels take values from small closed sets: no key, path or URL
is ever one. Each family has the label `rank` besides its own; `dataset` is the name of an adapter. What is not of a
data set (the process, the build) has no `dataset`.

A reading is `{key: {values of the labels without rank: number}}`; in place of a number a histogram has the counts of
its buckets, each by itself and one more than `LATENCY_BUCKETS_S`, and last the sum: a list.
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
        key: what it is called in a reading.
        kind: "counter", "gauge" or "histogram".
        help: what the number says, with its unit.
        labels: names, in the order of the values in a reading; `VALUES` has all values of those that are known.
    """

    key: str
    kind: str
    help: str
    labels: tuple[str, ...] = ("dataset",)

    @property
    def name(self) -> str:
        """As it is exposed; of a histogram without `_bucket`, `_sum`, `_count`."""
        return PREFIX + self.key + ("_total" if self.kind == "counter" else "")


def _counter(key: str, text: str, *labels: str) -> Family:
    return Family(key, "counter", text, labels or ("dataset",))


def _gauge(key: str, text: str, *labels: str) -> Family:
    return Family(key, "gauge", text, labels or ("dataset",))


_SOURCE = ("dataset", "source")

_SOURCES = (
    Family(
        "source_requests", "counter", "Requests to a copy of the data, by what came of them.", (*_SOURCE, "outcome")
    ),
    _counter("source_bytes", "Bytes of objects that a copy sent, used or not.", *_SOURCE),
    Family("source_request_duration_seconds", "histogram", "How long answered requests took.", _SOURCE),
    _counter("source_retries", "Attempts beyond the first of a read or listing.", *_SOURCE),
    _counter("source_deadline_exceeded", "Reads given up because their deadline passed.", *_SOURCE),
    _counter("source_hedges", "Second requests beside one that was late.", *_SOURCE),
    _counter("source_hedge_wins", "Second requests that answered first.", *_SOURCE),
    _counter("source_failovers", "Reads that another copy served than the one asked first.", *_SOURCE),
    _counter("source_integrity_failures", "Answers that were not the object which was listed, or damaged.", *_SOURCE),
    _counter("source_breaker_opened", "Times that the breaker before a copy opened.", *_SOURCE),
    _gauge("source_breaker_state", "1 for the state that the breaker before a copy is in, else 0.", *_SOURCE, "state"),
    _gauge("source_in_flight", "Requests under way to a copy.", *_SOURCE),
    _gauge("source_queued_requests", "Requests that wait because a copy's endpoint takes no more at a time.", *_SOURCE),
    _gauge(
        "source_concurrency_limit",
        "Requests that a copy's endpoint is asked at a time, found from its latency.",
        *_SOURCE,
    ),
)

_CACHE = (
    _counter("cache_hits", "Reads of a sample that needed no fetch."),
    _counter("cache_misses", "Samples fetched, ahead of time or on demand."),
    _counter("cache_prefetch_hits", "Reads that found their sample fetched ahead of time."),
    _counter(
        "cache_evictions", "Samples that left: to make room (capacity), or by their age (ttl).", "dataset", "reason"
    ),
    _counter(
        "cache_rejections",
        "Samples not kept: larger than the room (size), or of other types (type).",
        "dataset",
        "reason",
    ),
    _counter("cache_saved_bytes", "Bytes that compression did not store."),
    _gauge("cache_entries", "Samples held."),
    _gauge("cache_bytes", "Bytes that the held samples take."),
    _gauge("cache_reserved_bytes", "Bytes of the budget held for reads under way."),
    _gauge("cache_capacity_bytes", "The budget in bytes."),
    _gauge("cache_compression_ratio", "Bytes of the samples stored so far over what they were stored in."),
    _gauge("cache_predicted_hit_ratio", "Hits per read to be expected with this budget and order; absent if unknown."),
    _gauge("cache_observed_hit_ratio", "Hits per read over the last epoch; absent before the first read."),
)

_PREFETCH = (
    _gauge("prefetch_depth", "Most samples of one order read ahead and not yet used, at this moment."),
    _gauge("prefetch_buffered_samples", "Samples read ahead, or on their way, and not yet used."),
    _gauge("prefetch_in_flight", "Samples on their way."),
    _gauge("prefetch_queued_samples", "Announced samples whose load has not begun."),
    _gauge("prefetch_bytes", "Bytes of the budget held by what was read ahead."),
    _gauge("prefetch_max_bytes", "Most bytes of the budget that may be held so."),
    _gauge("prefetch_budget_exhausted", "1 while the next load ahead finds no room in the budget, else 0."),
    _counter("prefetch_late", "Samples on their way, but not there, when they were read."),
)

_READS = (
    _gauge("dataset_samples", "Samples of the data set."),
    _counter("reads", "Samples handed to the trainer or a worker."),
    _counter("fetched_objects", "Objects, or ranges of objects, read from sources."),
    _counter("fetched_bytes", "Bytes of objects that came from all sources, also for retries, hedges and the index."),
    _counter("samples_replaced", "Samples replaced because they could not be loaded, each counted once."),
    _counter("read_waits", "Reads, or batches of reads, that had to wait for a fetch."),
    _counter("read_wait_seconds", "Seconds that they waited, by what they waited for.", "dataset", "stage"),
)

_LOADER = (
    _counter("loader_batches", "Batches handed to the trainer."),
    _counter("loader_samples", "Samples in them; packs or groups count as one."),
    _gauge("loader_epoch", "Epoch under way, or that comes next."),
    _gauge("loader_position", "Samples or groups of the epoch, over all ranks, handed out so far."),
    _gauge("loader_padding_ratio", "Share of padding in the batches of this epoch; absent without a plan."),
    _counter("trainer_steps", "Batches that the trainer asked for and got while its time was taken."),
    _counter(
        "trainer_wait_seconds",
        "Seconds that the trainer waited for a batch, by what it waited for.",
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
        "Memory that this process may use: of its control group, or the machine.",
        (),
    ),
    _gauge(
        "event_loop_lag_seconds", "How late nine of ten timers of the reading loop were at most, in 10 s.", "process"
    ),
    Family("start_time_seconds", "gauge", "When the metrics of this process began, in seconds since 1970.", ()),
    _gauge("build_info", "1; the labels say what runs.", "version", "python", "torch"),
    Family("scrape_duration_seconds", "gauge", "How long this reading of the numbers took.", ()),
    _counter("scrape_errors", "Readings of a data set that failed; its last numbers were given again."),
)


VALUES: Final[dict[str, tuple[str, ...]]] = {
    "outcome": OUTCOMES,
    "stage": STAGES,
    "state": tuple(state.value for state in State),
    "reason": ("capacity", "ttl", "size", "type"),
    "process": ("trainer", "owner"),
}
"""All values of each label that are known beforehand; those of `dataset` and `source` are names from the settings."""

GROUPS: Final[dict[str, tuple[Family, ...]]] = {
    "Sources": _SOURCES,
    "Cache": _CACHE,
    "Reading ahead": _PREFETCH,
    "Reads": _READS,
    "Loader and trainer": _LOADER,
    "Process": _PROCESS,
}
"""By what they are about."""

FAMILIES: Final[tuple[Family, ...]] = tuple(family for group in GROUPS.values() for family in group)
"""All of them, in the order in which they are exposed."""

BY_KEY: Final[dict[str, Family]] = {family.key: family for family in FAMILIES}
