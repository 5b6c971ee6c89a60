"""A verdict names the cause of a wait, with its figures and what to change, from two scrapes of the text exposition."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from streaming.counters import LATENCY_BUCKETS_S, OUTCOMES
from streaming.errors import DecodeError
from streaming.metrics.families import FAMILIES, VALUES, Family
from streaming.stages import STAGES
from streaming.verdict import Verdict, judge, merge, parse

Reading = dict[str, dict[tuple[str, ...], Any]]

BY_KEY = {family.key: family for family in FAMILIES}
D = "data"


class Exposed:
    """A collector of readings by rank, as `streaming.metrics.families` defines them."""

    def __init__(self, ranks: Mapping[str, Reading]) -> None:
        self.ranks = ranks

    def collect(self) -> Iterable[Metric]:
        for family in FAMILIES:
            samples = [
                ((rank, *values), number)
                for rank, reading in self.ranks.items()
                for values, number in reading.get(family.key, {}).items()
            ]
            if samples:
                yield metric(family, samples)


def metric(family: Family, samples: Sequence[tuple[tuple[str, ...], Any]]) -> Metric:
    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
    made = kinds[family.kind](f"streaming_{family.key}", family.help, labels=("rank", *family.labels))
    for values, number in samples:
        if family.kind == "histogram":
            counts = [sum(number[: at + 1]) for at in range(len(number) - 1)]
            bounds = [*map(str, LATENCY_BUCKETS_S), "+Inf"]
            made.add_metric(values, list(zip(bounds, counts, strict=True)), number[-1])
        else:
            made.add_metric(values, number)
    return made


def text_of(ranks: Mapping[str, Reading]) -> str:
    registry = CollectorRegistry()
    registry.register(Exposed(ranks))
    return generate_latest(registry).decode()


def reading(changes: Mapping[str, Mapping[tuple[str, ...], Any]] | None = None, *without: str) -> Reading:
    """That of a run in its third epoch whose data are ready: 100 steps in 10 s, waited 1 %; with some changes."""
    process = ("trainer",)
    of_process = {"loop_lag_seconds": 0.002, "process_resident_memory_bytes": 2e9}
    made: Reading = {
        "trainer_steps": {(D,): 100.0},
        "trainer_busy_seconds": {(D,): 9.9},
        "trainer_wait_seconds": {(D, stage): 0.1 if stage == "source" else 0.0 for stage in STAGES},
        "loader_batches": {(D,): 100.0},
        "loader_samples": {(D,): 800.0},
        "loader_epoch": {(D,): 2.0},
        "reads": {(D,): 800.0},
        "fetched_bytes": {(D,): 80e6},
        "source_requests": {(D, "primary", outcome): 100.0 if outcome == "ok" else 0.0 for outcome in OUTCOMES},
        "source_request_duration_seconds": {(D, "primary"): bucketed(0.12, 100)},
        "source_breaker_state": {(D, "primary", state): float(state == "closed") for state in VALUES["state"]},
        "source_in_flight": {(D, "primary"): 12.0},
        "source_limit": {(D, "primary"): 64.0},
        "cache_hits": {(D,): 700.0},
        "cache_misses": {(D,): 100.0},
        "cache_evictions": {(D, "ttl"): 0.0, (D, "capacity"): 0.0},
        "cache_max_bytes": {(D,): 1e9},
        "cache_predicted_hit_ratio": {(D,): 0.9},
        "cache_observed_hit_ratio": {(D,): 0.88},
        "prefetch_depth": {(D,): 64.0},
        "prefetch_ahead": {(D,): 32.0},
        "prefetch_in_flight": {(D,): 12.0},
        "prefetch_is_full": {(D,): 0.0},
        "prefetch_max_bytes": {(D,): 2e8},
        "process_memory_limit_bytes": {labels_of("process_memory_limit_bytes"): 16e9},
        "start_time_seconds": {labels_of("start_time_seconds"): 1000.0},
        **{key: {process: number} for key, number in of_process.items()},
    }
    for key, series in (changes or {}).items():
        made[key] = {**made.get(key, {}), **series}
    for key in without:
        del made[key]
    return made


def labels_of(key: str) -> tuple[str, ...]:
    """Values for a family's labels, whatever it has."""
    return tuple({"dataset": D, "process": "trainer"}.get(label, "x") for label in BY_KEY[key].labels)


def bucketed(seconds: float, count: int) -> list[float]:
    """A histogram of so many requests that took so long."""
    buckets = [0.0] * (len(LATENCY_BUCKETS_S) + 1)
    buckets[next(at for at, bound in enumerate(LATENCY_BUCKETS_S) if seconds <= bound)] = count
    return [*buckets, seconds * count]


def begun(after: Reading) -> Reading:
    """The same run before it did anything: counters at zero, gauges as they are."""
    return {
        key: {
            values: [0.0] * len(number) if isinstance(number, list) else 0.0 if counts(key) else number
            for values, number in series.items()
        }
        for key, series in after.items()
    }


def counts(key: str) -> bool:
    return BY_KEY[key].kind != "gauge"


def verdict_on(*ranks: Reading, seconds: float = 10.0) -> Verdict:
    """Of ranks 0, 1, ... that gained all their counts within the window."""
    after = {str(rank): each for rank, each in enumerate(ranks)}
    before = {rank: begun(each) for rank, each in after.items()}
    return judge(parse(text_of(before), 2000.0), parse(text_of(after), 2000.0 + seconds))


def waiting(stage: str, share: float = 0.38) -> dict[str, dict[tuple[str, ...], float]]:
    """Changes that let the trainer wait so much of its step for a stage."""
    waits = {(D, each): 0.0 for each in STAGES} | {(D, stage): 10 * share}
    return {"trainer_wait_seconds": waits, "trainer_busy_seconds": {(D,): 10 * (1 - share)}}


def outcomes(**numbers: float) -> dict[str, dict[tuple[str, ...], float]]:
    return {"source_requests": {(D, "primary", outcome): number for outcome, number in numbers.items()}}


OPEN = {"source_breaker_state": {(D, "primary", "open"): 1.0, (D, "primary", "closed"): 0.0}}
FULL = {"prefetch_is_full": {(D,): 1.0}, "prefetch_ahead": {(D,): 20.0}}
SMALL = {"cache_predicted_hit_ratio": {(D,): 0.12}, "cache_observed_hit_ratio": {(D,): 0.12}}
EXPIRING = {"cache_evictions": {(D, "ttl"): 90.0}}
FIRST_EPOCH = {"loader_epoch": {(D,): 0.0}}
NO_STEP = {
    "trainer_steps": {(D,): 0.0},
    "trainer_busy_seconds": {(D,): 0.0},
    "trainer_wait_seconds": {(D, stage): 0.0 for stage in STAGES},
}
NOTHING_READY = {"prefetch_ahead": {(D,): 12.0}}

CASES: list[tuple[str, list[Mapping[str, Any]], str, Sequence[str]]] = [
    ("ready", [], "TrainerBound", ["trainer-bound: the data is ready", "1 % of step"]),
    ("source", [waiting("source")], "TrainerWaiting/source", ["source latency, 38 % of step", "p50", "12 in flight"]),
    (
        "budget",
        [waiting("source"), FULL],
        "TrainerWaiting/source",
        ["raise look-ahead (budget-bound: 20 samples", "add a mirror"],
    ),
    (
        "depth",
        [waiting("source"), {"prefetch_ahead": {(D,): 64.0}}],
        "TrainerWaiting/source",
        ["depth-bound at 64", "prefetch_ahead"],
    ),
    (
        "limit",
        [waiting("source"), {"source_in_flight": {(D, "primary"): 64.0}, "source_waiting": {(D, "primary"): 5.0}}],
        "TrainerWaiting/source",
        ["source bandwidth, 38 % of step", "limit-bound at 64"],
    ),
    (
        "first epoch",
        [waiting("source"), FIRST_EPOCH],
        "TrainerWaiting/source",
        ["after the first epoch the cache answers 90 %"],
    ),
    (
        "breaker",
        [waiting("source"), OPEN, outcomes(timeout=9, unavailable=3, ok=88)],
        "BreakerOpen",
        ["the breaker of primary is open (12 of 100 requests failed: 9 timeout, 3 unavailable), 38 % of step"],
    ),
    ("breaker and no wait", [OPEN], "BreakerOpen", ["the breaker of primary is open"]),
    ("breaker opened", [{"source_breaker_opened": {(D, "primary"): 2.0}}], "BreakerOpen", ["primary opened 2 times"]),
    (
        "throttled",
        [waiting("source"), outcomes(throttled=25, ok=75), {"source_retries": {(D, "primary"): 25.0}}],
        "SourceErrors",
        ["primary throttles 25 % of requests (25 throttled, 25 retries), 38 % of step", "quota"],
    ),
    (
        "denied",
        [outcomes(denied=10, ok=90)],
        "SourceErrors",
        ["primary fails 10 % of requests", "renew the credentials"],
    ),
    ("expiring", [waiting("source"), EXPIRING], "CacheExpiring", ["90 by age", "38 % of step", "max_ttl_seconds=None"]),
    (
        "expiring and small",
        [waiting("source"), EXPIRING, SMALL],
        "CacheExpiring",
        ["max_ttl_seconds"],
    ),
    (
        "small cache",
        [waiting("source"), SMALL],
        "CacheTooSmall",
        ["the cache of 1 GB keeps 12 % of the data", "38 % of step", "raise cache_size_gb to 8.33 GB"],
    ),
    (
        "low hit rate",
        [{"cache_observed_hit_ratio": {(D,): 0.2}}],
        "HitRateLow",
        ["hit rate 20 % where 90 % are predicted"],
    ),
    (
        "types",
        [{"cache_observed_hit_ratio": {(D,): 0.2}, "cache_refused": {(D, "type"): 7.0}}],
        "HitRateLow",
        ["7 samples were of types that cannot be cached"],
    ),
    (
        "no look-ahead",
        [waiting("source"), {"prefetch_ahead": {(D,): 0.0}, "prefetch_waiting": {(D,): 0.0}}],
        "PrefetchStarved",
        ["nothing is read ahead, 38 % of step", "look_ahead(sampler)"],
    ),
    ("decompress", [waiting("decompress")], "TrainerWaiting/decompress", ["decompress, 38 % of step", "uncompressed"]),
    ("decode", [waiting("decode")], "TrainerWaiting/decode", ["decode, 38 % of step", "decode_threads"]),
    ("prepare", [waiting("prepare")], "TrainerWaiting/prepare", ["store what prepare returns"]),
    ("cache", [waiting("cache")], "TrainerWaiting/cache", ["compression_type='none'"]),
    ("transform", [waiting("transform")], "TrainerWaiting/transform", ["num_workers"]),
    ("collate", [waiting("collate")], "TrainerWaiting/collate", ["num_workers"]),
    ("device", [waiting("device")], "TrainerWaiting/device", ["pin_memory"]),
    ("queue", [waiting("queue")], "TrainerWaiting/queue", ["prefetch_factor"]),
    ("queue for room", [waiting("queue"), FULL], "TrainerWaiting/queue", ["raise cache_size_gb"]),
    (
        "spread",
        [{"trainer_wait_seconds": {(D, "collate"): 0.4, (D, "source"): 0.2}, "trainer_busy_seconds": {(D,): 9.4}}],
        "TrainerWaiting/collate",
        ["many short waits, 6 % of step (collate 4 %, source 2 %)"],
    ),
    (
        "interpreter",
        [waiting("decode"), {"loop_lag_seconds": {("trainer",): 0.15}}],
        "TrainerWaiting/decode",
        ["the reading loop wakes up 150 ms late, 38 % of step (decode)", "owner='process'"],
    ),
    (
        "processors",
        [waiting("decode"), {"loop_lag_seconds": {("owner",): 0.15}}],
        "TrainerWaiting/decode",
        ["too little of the processors"],
    ),
    ("bad samples", [{"bad_samples": {(D,): 3.0}}], "BadSamples", ["3 samples were replaced, 3 % of those loaded"]),
    ("memory", [{"process_resident_memory_bytes": {("trainer",): 15e9}}], "MemoryNearLimit", ["15 GB of 16 GB"]),
    (
        "stuck",
        [NO_STEP, NOTHING_READY],
        "TrainerWaiting/source",
        ["source latency, no step in 10 s"],
    ),
    (
        "stuck by a breaker",
        [NO_STEP, NOTHING_READY, OPEN],
        "BreakerOpen",
        ["the breaker of primary is open, no step in 10 s"],
    ),
]


@pytest.mark.parametrize(("changes", "code", "parts"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_first_sentence_names_the_cause(changes: list[Mapping[str, Any]], code: str, parts: Sequence[str]) -> None:
    """Each planted state is told by its code first, in a sentence with its figures and the next step."""
    merged: dict[str, dict[tuple[str, ...], Any]] = {}
    for change in changes:
        for key, series in change.items():
            merged[key] = {**merged.get(key, {}), **series}
    verdict = verdict_on(reading(merged))
    assert verdict.findings[0].code == code
    assert [part for part in parts if part not in verdict.sentence] == [], verdict.sentence
    assert verdict.is_fine == (code == "TrainerBound")
