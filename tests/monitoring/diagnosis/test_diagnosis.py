"""A verdict names the cause of a wait, with its figures and what to change, from two scrapes of the text exposition."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from streaming.errors import DecodeError
from streaming.monitoring.diagnosis import Verdict, judge, merge, parse
from streaming.monitoring.metrics.families import FAMILIES, VALUES, Family
from streaming.telemetry.counters import LATENCY_BUCKETS_S, OUTCOMES
from streaming.telemetry.stages import STAGES

MetricsSnapshot = dict[str, dict[tuple[str, ...], Any]]

BY_KEY = {family.key: family for family in FAMILIES}
D = "data"


class Exposed:
    """A collector of readings by rank, as `streaming.monitoring.metrics.families` defines them."""

    def __init__(self, ranks: Mapping[str, MetricsSnapshot]) -> None:
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


def text_of(ranks: Mapping[str, MetricsSnapshot]) -> str:
    registry = CollectorRegistry()
    registry.register(Exposed(ranks))
    return generate_latest(registry).decode()


def reading(changes: Mapping[str, Mapping[tuple[str, ...], Any]] | None = None, *without: str) -> MetricsSnapshot:
    """Return the snapshot of a healthy run in its third epoch (100 steps in 10 s, 1 % waited), with `changes`."""
    process = ("trainer",)
    of_process = {"event_loop_lag_seconds": 0.002, "process_resident_memory_bytes": 2e9}
    made: MetricsSnapshot = {
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
        "source_concurrency_limit": {(D, "primary"): 64.0},
        "cache_hits": {(D,): 700.0},
        "cache_misses": {(D,): 100.0},
        "cache_evictions": {(D, "ttl"): 0.0, (D, "capacity"): 0.0},
        "cache_capacity_bytes": {(D,): 1e9},
        "cache_predicted_hit_ratio": {(D,): 0.9},
        "cache_observed_hit_ratio": {(D,): 0.88},
        "prefetch_depth": {(D,): 64.0},
        "prefetch_buffered_samples": {(D,): 32.0},
        "prefetch_in_flight": {(D,): 12.0},
        "prefetch_budget_exhausted": {(D,): 0.0},
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


def begun(after: MetricsSnapshot) -> MetricsSnapshot:
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


def verdict_on(*ranks: MetricsSnapshot, seconds: float = 10.0) -> Verdict:
    """Judge ranks 0, 1, ... that gained all their counts within the window."""
    after = {str(rank): each for rank, each in enumerate(ranks)}
    before = {rank: begun(each) for rank, each in after.items()}
    return judge(parse(text_of(before), 2000.0), parse(text_of(after), 2000.0 + seconds))


def waiting(stage: str, share: float = 0.38) -> MetricsSnapshot:
    """Changes that let the trainer wait so much of its step for a stage."""
    waits: dict[tuple[str, ...], float] = {(D, each): 10 * share if each == stage else 0.0 for each in STAGES}
    return {"trainer_wait_seconds": waits, "trainer_busy_seconds": {(D,): 10 * (1 - share)}}


def outcomes(**numbers: float) -> dict[str, dict[tuple[str, ...], float]]:
    return {"source_requests": {(D, "primary", outcome): number for outcome, number in numbers.items()}}


OPEN: MetricsSnapshot = {"source_breaker_state": {(D, "primary", "open"): 1.0, (D, "primary", "closed"): 0.0}}
FULL = {"prefetch_budget_exhausted": {(D,): 1.0}, "prefetch_buffered_samples": {(D,): 20.0}}
SMALL = {"cache_predicted_hit_ratio": {(D,): 0.12}, "cache_observed_hit_ratio": {(D,): 0.12}}
EXPIRING = {"cache_evictions": {(D, "ttl"): 90.0}}
FIRST_EPOCH = {"loader_epoch": {(D,): 0.0}}
NO_STEP: MetricsSnapshot = {
    "trainer_steps": {(D,): 0.0},
    "trainer_busy_seconds": {(D,): 0.0},
    "trainer_wait_seconds": {(D, stage): 0.0 for stage in STAGES},
}
NOTHING_READY = {"prefetch_buffered_samples": {(D,): 12.0}}

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
        [waiting("source"), {"prefetch_buffered_samples": {(D,): 64.0}}],
        "TrainerWaiting/source",
        ["depth-bound at 64", "prefetch_ahead"],
    ),
    (
        "limit",
        [
            waiting("source"),
            {"source_in_flight": {(D, "primary"): 64.0}, "source_queued_requests": {(D, "primary"): 5.0}},
        ],
        "TrainerWaiting/source",
        ["source bandwidth, 38 % of step", "limit-bound at 64"],
    ),
    (
        "first epoch",
        [waiting("source"), FIRST_EPOCH],
        "TrainerWaiting/source",
        ["after the first epoch the cache serves 90 %"],
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
        ["the cache of 1 GB keeps 12 % of the data", "38 % of step", "raise it to about 8.33 GB per rank"],
    ),
    (
        "low hit rate",
        [{"cache_observed_hit_ratio": {(D,): 0.2}}],
        "HitRateLow",
        ["hit rate 20 %, predicted 90 %"],
    ),
    (
        "types",
        [{"cache_observed_hit_ratio": {(D,): 0.2}, "cache_rejections": {(D, "type"): 7.0}}],
        "HitRateLow",
        ["7 samples were of types that cannot be cached"],
    ),
    (
        "no look-ahead",
        [waiting("source"), {"prefetch_buffered_samples": {(D,): 0.0}, "prefetch_queued_samples": {(D,): 0.0}}],
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
        [waiting("decode"), {"event_loop_lag_seconds": {("trainer",): 0.15}}],
        "TrainerWaiting/decode",
        [
            "the event loop wakes up 150 ms late, 38 % of step (decode): its Python or the trainer's",
            "owner='process'; store",
        ],
    ),
    (
        "interpreter, where samples are copied",
        [waiting("cache"), {"event_loop_lag_seconds": {("trainer",): 0.04}}],
        "TrainerWaiting/cache",
        ["the event loop wakes up 40 ms late, 38 % of step (cache)", "owner='process'"],
    ),
    (
        "interpreter, where the trainer's own thread gets it late",
        [waiting("collate"), {"event_loop_lag_seconds": {("trainer",): 0.04}}],
        "TrainerWaiting/collate",
        ["collate, 38 % of step: it runs before each batch", "40 ms late", "prepare or of a codec", "owner='process'"],
    ),
    (
        "processors",
        [waiting("decode"), {"event_loop_lag_seconds": {("owner",): 0.15}}],
        "TrainerWaiting/decode",
        ["too little processor time"],
    ),
    (
        "bad samples",
        [{"samples_replaced": {(D,): 3.0}}],
        "BadSamples",
        ["3 samples were replaced, 3 % of those loaded"],
    ),
    ("memory", [{"process_resident_memory_bytes": {("trainer",): 15e9}}], "MemoryNearLimit", ["15 GB of 16 GB"]),
    (
        "stuck",
        [NO_STEP, NOTHING_READY],
        "TrainerWaiting/source",
        ["source latency, no step in 10 s"],
    ),
    ("stuck while later samples are ready", [NO_STEP, OPEN], "BreakerOpen", ["no step in 10 s"]),
    (
        "stuck by a breaker",
        [NO_STEP, NOTHING_READY, OPEN],
        "BreakerOpen",
        ["the breaker of primary is open, no step in 10 s"],
    ),
]


@pytest.mark.parametrize(("changes", "code", "parts"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_first_sentence_names_the_cause(changes: list[Mapping[str, Any]], code: str, parts: Sequence[str]) -> None:
    """Each planted state is named first, in a sentence with its figures and the next step."""
    merged: dict[str, dict[tuple[str, ...], Any]] = {}
    for change in changes:
        for key, series in change.items():
            merged[key] = {**merged.get(key, {}), **series}
    verdict = verdict_on(reading(merged))
    assert verdict.findings[0].code == code
    assert [part for part in parts if part not in verdict.sentence] == [], verdict.sentence
    assert verdict.is_fine == (code == "TrainerBound")
    sources = {
        "BreakerOpen",
        "SourceErrors",
        "CacheExpiring",
        "CacheTooSmall",
        "PrefetchStarved",
        "TrainerWaiting/source",
    }
    assert len(sources & {finding.code for finding in verdict.findings}) <= 1  # effects of a named cause are not listed


@pytest.mark.parametrize("changes", [[], [waiting("source"), OPEN], [NO_STEP, NOTHING_READY]])
def test_a_verdict_is_plain_values(changes: list[Mapping[str, Any]]) -> None:
    """What programs read has the sentence, the code, the findings and the figures of each rank."""
    merged = {key: series for change in changes for key, series in change.items()}
    verdict = verdict_on(reading(merged))
    plain = json.loads(json.dumps(verdict.as_json()))
    assert plain["verdict"] == verdict.sentence == plain["findings"][0]["sentence"]
    assert plain["ranks"][0]["stages"].keys() == set(STAGES)
    assert plain["ranks"][0]["waited"] == pytest.approx(verdict.figures[0].waited)


def test_every_code_is_an_alert() -> None:
    """Who got an alert finds the same name in the verdict."""
    rules = (Path(__file__).parents[3] / "deploy" / "alerts.yml").read_text()
    codes = {case[2].partition("/")[0] for case in CASES} | {"NoProgress", "ScrapeGone", "RankSlow"}
    assert [code for code in codes if f"- alert: Streaming{code}\n" not in rules] == []


def test_figures_of_a_window() -> None:
    """Rates, shares, hits and gauges come from what the window gained and where it ended."""
    [figures] = verdict_on(reading({**waiting("decode", 0.25), **OPEN})).figures
    assert (figures.rank, figures.dataset, figures.basis, figures.steps) == ("0", D, "steps", 100)
    assert figures.stages["decode"] == pytest.approx(0.25)
    assert figures.waited == pytest.approx(0.25)
    assert figures.busy == pytest.approx(0.75)
    assert (figures.samples_per_s, figures.bytes_per_s) == (80.0, 8e6)
    assert figures.hit_ratio == pytest.approx(7 / 8)
    assert (figures.in_flight, figures.ahead, figures.depth, figures.memory_bytes) == (12, 32, 64, 2e9)
    assert figures.breakers == {"primary": "open"}


# -- ranks and data sets


def test_a_slow_rank_is_named_with_its_cause() -> None:
    """The rank that slows down the others comes first, with the reason in the same sentence."""
    verdict = verdict_on(reading(), reading(waiting("decompress", 0.41)), reading(), reading())
    assert verdict.findings[0].code == "RankSlow"
    assert verdict.findings[0].ranks == ("1",)
    assert verdict.sentence.startswith(
        "rank 1 slows down the others, it waits 41 % of step and they wait 1 %: decompress, 41 % of step"
    )
    assert [finding.code for finding in verdict.findings] == ["RankSlow", "TrainerWaiting/decompress"]


def test_the_others_of_a_slow_rank_are_taken_on_average() -> None:
    """As the alert takes them, which agrees therefore: 41 % is not twice the 21 % that the other three have."""
    waits = [reading(waiting("decompress", share)) for share in (0.41, 0.61)]
    verdict = verdict_on(reading(), *waits, reading())
    assert [finding.ranks for finding in verdict.findings if finding.code == "RankSlow"] == [("2",)]


def test_a_slow_rank_comes_before_what_it_has_alone() -> None:
    """The rank that slows down the others comes first, and the same sentence says that its breaker is open."""
    verdict = verdict_on(reading(), reading({**waiting("source", 0.41), **OPEN}))
    assert [finding.code for finding in verdict.findings] == ["RankSlow", "BreakerOpen"]
    assert "the breaker of primary is open, 41 % of step" in verdict.sentence


def test_what_all_ranks_have_is_said_once() -> None:
    """With how many ranks have it, in the figures of the one that it costs most."""
    ranks = [reading(waiting("collate", share)) for share in (0.30, 0.32, 0.28)]
    verdict = verdict_on(*ranks)
    assert [finding.code for finding in verdict.findings] == ["TrainerWaiting/collate"]
    assert verdict.sentence.startswith("all 3 ranks (most in rank 1): collate, 32 % of step")
    two = verdict_on(*ranks[:2], reading(waiting("collate", 0.2)), *[reading(waiting("decode", 0.2))] * 5)
    assert "ranks 0, 1, 2 (most in rank 1): collate" in two.sentence
    assert any("ranks 3, 4, 5, 6, ... (most in rank 3): decode" in finding.sentence for finding in two.findings)


def named(made: MetricsSnapshot, name: str) -> MetricsSnapshot:
    """The same reading for a data set of another name."""
    return {
        key: {(name, *values[1:]) if values[:1] == (D,) else values: number for values, number in series.items()}
        for key, series in made.items()
    }


def both(*readings: MetricsSnapshot) -> MetricsSnapshot:
    together: MetricsSnapshot = {}
    for each in readings:
        for key, series in each.items():
            together[key] = {**together.get(key, {}), **series}
    return together


def test_data_sets_are_named_where_there_are_several() -> None:
    """An idle one, such as that for validation, is not a finding while another makes progress."""
    verdict = verdict_on(both(named(reading(waiting("decode")), "train"), named(reading(NO_STEP), "valid")))
    assert verdict.sentence.startswith("train: decode, 38 % of step")
    assert len(verdict.findings) == 1
    assert [figures.dataset for figures in verdict.figures] == ["train", "valid"]


def test_a_loader_over_several_adapters_is_judged_by_what_they_say() -> None:
    """Its own name is that of no adapter: their breakers are the cause of its waits."""
    of_loader = {"trainer_steps", "trainer_busy_seconds", "trainer_wait_seconds", "loader_batches", "loader_samples"}
    made = reading({**waiting("source"), **OPEN})
    mix = named({key: series for key, series in made.items() if key in of_loader}, "mix")
    parts = {key: series for key, series in made.items() if key not in of_loader}
    verdict = verdict_on(both(mix, named(parts, "web"), named(parts, "books")))
    assert [figures.dataset for figures in verdict.figures] == ["mix"]
    assert verdict.findings[0].code == "BreakerOpen"


def test_reads_are_judged_without_measured_steps() -> None:
    """A plain DataLoader: shares are of the time, and the note says how to get more."""
    without = [key for key in reading() if key.startswith(("trainer_", "loader_"))]
    waits: MetricsSnapshot = {"read_wait_seconds": {(D, "source"): 4.0}, "read_waits": {(D,): 40.0}}
    verdict = verdict_on(reading(waits, *without))
    assert verdict.sentence.startswith("source latency, 40 % of the time")
    assert "streaming.monitor_stalls(dataloader)" in verdict.notes[0]
    assert verdict.figures[0].busy is None
    ready = verdict_on(reading({}, *without))
    assert ready.is_fine
    assert "reads hardly wait, 0 % of the time" in ready.sentence
    many = verdict_on(reading({"read_wait_seconds": {(D, "source"): 70.0, (D, "decode"): 10.0}}, *without))
    assert many.figures[0].waited == pytest.approx(1.0)


# -- windows that are not as they should be


def test_a_restart_between_the_scrapes_is_said_and_counted_from_zero() -> None:
    """The counters of the new process are its own."""
    before, after = reading(), reading(waiting("decode"))
    for made, began in ((before, 1000.0), (after, 2005.0)):
        made["start_time_seconds"] = dict.fromkeys(made["start_time_seconds"], began)
    verdict = judge(parse(text_of({"0": before}), 2000.0), parse(text_of({"0": after}), 2010.0))
    assert verdict.sentence.startswith("decode, 38 % of step")
    assert verdict.figures[0].seconds == 5.0
    assert "it started after the first scrape" in verdict.notes[0]


def test_a_counter_that_fell_was_reset() -> None:
    """As in Prometheus; without a start time nothing else shows a restart."""
    before, after = reading({}, "start_time_seconds"), reading(waiting("decode"), "start_time_seconds")
    before["trainer_steps"] = {(D,): 5000.0}
    verdict = judge(parse(text_of({"0": before}), 2000.0), parse(text_of({"0": after}), 2010.0))
    assert verdict.figures[0].steps == 100


def test_one_scrape_is_judged_since_the_start() -> None:
    """Without an earlier one the window is the life of the process."""
    verdict = judge(None, parse(text_of({"0": reading(waiting("decode"))}), 1100.0))
    assert verdict.sentence.startswith("decode, 38 % of step")
    assert (verdict.figures[0].seconds, verdict.notes) == (100.0, ())


def test_a_rank_that_is_gone_comes_first() -> None:
    """A rank that answered the first time alone has ended, whatever the others wait for."""
    after = {"0": reading(waiting("decode")), "1": reading()}
    before = parse(text_of({rank: begun(each) for rank, each in after.items()}), 2000.0)
    verdict = judge(before, parse(text_of({"0": after["0"]}), 2010.0))
    assert verdict.findings[0].code == "ScrapeGone"
    assert verdict.sentence.startswith("rank 1 no longer answers")
    none = judge(before, parse("", 2010.0))
    assert none.sentence.startswith("ranks 0, 1 no longer answer:")
    assert len(none.figures) == 2  # from the start up to the first scrape


def test_an_empty_window_says_so() -> None:
    """Two scrapes at one moment show nothing, which is nothing bad."""
    scrape = parse(text_of({"0": reading()}), 2000.0)
    verdict = judge(scrape, scrape)
    assert verdict.is_fine
    assert "leave more time between the scrapes" in verdict.sentence


def test_before_the_first_step() -> None:
    """A run that starts is not reported as stuck."""
    idle: MetricsSnapshot = {"source_requests": {(D, "primary", "ok"): 0.0}, "source_in_flight": {(D, "primary"): 0.0}}
    verdict = verdict_on(reading({**NO_STEP, **idle, "prefetch_in_flight": {(D,): 0.0}}))
    assert (verdict.findings[0].code, verdict.is_fine) == ("NoProgress", True)
    assert "no batch was requested yet" in verdict.sentence


def test_a_trainer_that_hangs() -> None:
    """Samples are ready and not used: data is not the reason."""
    idle: MetricsSnapshot = {"prefetch_in_flight": {(D,): 0.0}, "source_in_flight": {(D, "primary"): 0.0}}
    text = text_of({"0": reading(idle)})
    verdict = judge(parse(text, 2000.0), parse(text, 2010.0))
    assert (verdict.findings[0].code, verdict.is_fine) == ("NoProgress", False)
    assert "no step in 10 s, but data is ready" in verdict.sentence


def test_no_metric_of_this_library() -> None:
    """Metrics of other programs do not count; the next step is to start the server."""
    verdict = judge(None, parse("# TYPE up gauge\nup 1\n"))
    assert "start_metrics_server()" in verdict.sentence
    assert not verdict.is_fine


@pytest.mark.parametrize("text", ["<html>hello</html>\n", "hello world\n", 'up{a="b" 1\n'])
def test_text_that_is_not_an_exposition_is_refused(text: str) -> None:
    """An HTML page or any other text is an error that says what to give."""
    with pytest.raises(DecodeError, match=r"not a Prometheus text exposition .*/metrics"):
        parse(text)


def test_a_value_that_is_not_a_number_becomes_none() -> None:
    """A gauge that is NaN is ignored."""
    verdict = verdict_on(reading({"cache_predicted_hit_ratio": {(D,): float("nan")}}))
    assert verdict.figures[0].predicted_hit_ratio is None


def test_ranks_of_separate_runs_keep_their_numbers_apart() -> None:
    """Two processes that both call themselves rank 0 are named after where they were read."""
    scrape = parse(text_of({"0": reading()}))
    other = parse(text_of({"1": reading()}))
    assert sorted(merge([("a:1", scrape), ("b:2", scrape), ("c:3", other)]).ranks) == ["0@a:1", "0@b:2", "1"]


numbers = st.one_of(st.floats(), st.floats(0, 100), st.just(0.0), st.just(1.0))


@st.composite
def metrics_snapshot(draw: st.DrawFn) -> MetricsSnapshot:
    """Any numbers of any families, for known values of their labels."""
    made: MetricsSnapshot = {}
    for family in draw(st.lists(st.sampled_from(FAMILIES), max_size=25, unique=True)):
        values = [VALUES.get(label, ("data", "other")) for label in family.labels]
        keys = st.tuples(*map(st.sampled_from, values))
        number = st.lists(numbers, min_size=17, max_size=17) if family.kind == "histogram" else numbers
        made[family.key] = draw(st.dictionaries(keys, number, min_size=1, max_size=3))
    return made


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(st.none(), st.dictionaries(st.sampled_from("012"), metrics_snapshot(), max_size=3)),
    st.dictionaries(st.sampled_from("012"), metrics_snapshot(), max_size=3),
    st.one_of(st.none(), st.floats(-10, 100)),
)
def test_any_metrics_give_a_verdict(
    before: dict[str, MetricsSnapshot] | None, after: dict[str, MetricsSnapshot], seconds: float | None
) -> None:
    """Whatever is missing or odd: there is a sentence, and shares are parts of one whole."""
    first = None if before is None else parse(text_of(before), 2000.0)
    verdict = judge(first, parse(text_of(after), 1990.0), seconds)
    assert verdict.sentence
    for figures in verdict.figures:
        assert all(0 <= share <= 1 for share in figures.stages.values())
        assert sum(figures.stages.values()) + (figures.busy or 0.0) <= 1 + 1e-9
    json.dumps(verdict.as_json())
