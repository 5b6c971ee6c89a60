"""The first dashboard to open: does the trainer wait, for what, on which rank, since when, and which alerts fire."""

from __future__ import annotations

from typing import Any, Final

from dashboards.colours import BAD, BUSY, GOOD, LIMIT, OUTCOME, STAGE, WARN
from dashboards.frame import assemble
from dashboards.panels import Text, lines, rows, stack, tile, timeline
from dashboards.queries import (
    ALERTS,
    STEP,
    WAIT,
    breaker_state,
    else_zero,
    errors,
    quantile,
    rate,
    share_by,
    total,
)

__all__ = ["HEALTHY_WAIT", "overview"]

HEALTHY_WAIT: Final = 0.05
"""Share of its time that a trainer may wait: the threshold of the alert StreamingTrainerWaiting."""

_WAITING: Final = ((None, GOOD), (HEALTHY_WAIT, WARN), (2 * HEALTHY_WAIT, BAD))
_FIRING: Final = f'ALERTS{{alertstate="firing",{ALERTS}}}'
_SINCE: Final = f"(ALERTS_FOR_STATE{{{ALERTS}}} * 1000 and ignoring(alertstate) {_FIRING})"
_NONE: Final = 'label_replace(vector(time() * 1000), "alertname", "none", "", "")'
_URGENT: Final = f'ALERTS{{alertstate="firing",severity!="info",{ALERTS}}}'
_STARTED: Final = f"clamp_min({total('start_time_seconds', '', 'min')}, time() - 6 * 3600)"
_LAST_GOOD: Final = f"max_over_time(((({WAIT}) < {HEALTHY_WAIT}) * 0 + time())[6h:1m]) or on() {_STARTED}"


def overview() -> dict[str, Any]:
    """The dashboard."""
    return assemble(
        "overview",
        "Streaming / Overview",
        "Why does the accelerator wait? Read from the top: the tiles, the stages, the alerts, then the cause.",
        {
            "Does the trainer wait?": [*_tiles(), _stages(), _ranks()],
            "Alerts and progress": [_alerts(), _samples(), _position()],
            "Sources": [_breakers(), _errors(), _latency()],
            "Cache, look-ahead, memory": [_hits(), _ahead(), _memory()],
        },
        refresh="30s",
    )


def _tiles() -> list[Any]:
    waits = Text(
        "Trainer waits",
        "Share of the trainer's time spent waiting for batches, over all ranks.",
        "below 5 %.",
        "the next tile names the stage to look at.",
        "StreamingTrainerWaiting",
    )
    mostly = Text(
        "Waits most for",
        "The stage that the trainer waited for most, with its share of the time.",
        "any stage, with less than 5 %.",
        "source: see Sources below; decode, transform, collate: processor time of the trainer's host; "
        "cache: see the cache dashboard; queue: too few workers, or the budget is too small.",
        "StreamingTrainerWaiting",
    )
    slowest = Text(
        "Rank that waits most",
        "The rank whose trainer waits the largest share of its time. The others wait for it at each step.",
        "all ranks similar, below 5 %.",
        "compare this rank with the others on the training dashboard; if it alone is slow, check its host and network.",
        "StreamingRankSlow",
        "training",
    )
    since = Text(
        "Waiting for",
        "Time since the trainer last waited less than 5 %, or since its start; at most 6 hours.",
        "0 to 1 min.",
        "set the time range to a little more than this, and see what changed then: blue marks are starts, "
        "red ones alerts.",
        "StreamingTrainerWaiting",
    )
    steps = Text(
        "Batches per second",
        "Batches delivered to the trainers, all ranks.",
        "the same as an hour ago.",
        "0: the run hangs or has ended; else the trainer is slower, or it waits.",
        "StreamingNoProgress",
        "training",
    )
    firing = Text(
        "Alerts firing",
        "Alerts of this library that fire for this job, not counting severity info.",
        "0.",
        "see the list below; each has a runbook.",
    )
    stalled = ((None, BAD), (0.000001, GOOD))
    ages = ((None, GOOD), (120.0, WARN), (600.0, BAD))
    return [
        tile(waits, "percentunit", 4, {"waits": WAIT}, steps=_WAITING, decimals=1, none="no step"),
        tile(
            mostly,
            "percentunit",
            4,
            {"{{stage}}": f"topk(1, {rate('trainer_wait_seconds', 'stage')} / {STEP})"},
            named=True,
            decimals=1,
            colours={name: colour for name, colour in STAGE.items() if name != BUSY},
            none="no step",
        ),
        tile(
            slowest,
            "percentunit",
            4,
            {"rank {{rank}}": f"topk(1, {share_by('rank')})"},
            steps=_WAITING,
            named=True,
            decimals=1,
            none="no step",
        ),
        tile(since, "s", 4, {"since": f"time() - ({_LAST_GOOD})"}, steps=ages),
        tile(steps, "short", 4, {"batches": rate("loader_batches")}, steps=stalled, decimals=2),
        tile(firing, "short", 4, {"firing": else_zero(f"count({_URGENT})")}, steps=((None, GOOD), (1.0, BAD))),
    ]


def _stages() -> Any:
    text = Text(
        "Where the trainer's time goes",
        "Share of the trainer's time by stage; green is the trainer at work. All colours add up to its whole time.",
        "green nearly to the top.",
        "change the stage with the widest colour; where it starts is when the problem began. "
        "Gaps: no step ended in that time, the trainer may hang in one wait.",
        "StreamingTrainerWaiting",
        "training",
    )
    queries = {
        BUSY: f"{rate('trainer_busy_seconds')} / {STEP}",
        "{{stage}}": f"{rate('trainer_wait_seconds', 'stage')} / {STEP}",
    }
    return stack(text, "percentunit", 16, queries, height=9, colours=STAGE, top=1)


def _ranks() -> Any:
    text = Text(
        "Wait by rank",
        "Share of its time that each rank's trainer waits.",
        "all lines low and together.",
        "one line above the others: a slow host or network; all lines high: a source, or settings.",
        "StreamingRankSlow",
        "training",
    )
    return lines(text, "percentunit", 8, {"rank {{rank}}": share_by("rank")}, height=9)


def _alerts() -> Any:
    text = Text(
        "Firing alerts",
        "Alerts that fire now, with their labels and since when.",
        "one row: none.",
        "see the page in docs/runbooks with the alert's name.",
    )
    columns = ("alertname", "severity", "dataset", "stage", "source", "rank")
    expression = f"{_SINCE} or on() {_NONE}"
    return rows(text, "dateTimeFromNow", 12, expression, columns=columns, value="since", height=7)


def _samples() -> Any:
    text = Text(
        "Samples per second",
        "Samples delivered to the trainers, by rank.",
        "level; a dip at the start of an epoch is shorter than a minute.",
        "0: see the runbook; lower: see above whether busy or waiting grew.",
        "StreamingNoProgress",
        "training",
    )
    return lines(text, "short", 6, {"rank {{rank}}": rate("loader_samples", "rank")}, height=7)


def _position() -> Any:
    text = Text(
        "Position in the epoch",
        "Samples of the epoch delivered so far, over all ranks.",
        "a sawtooth of constant height.",
        "flat: no progress; a step back without a new epoch: the run resumed from an older state.",
        "StreamingNoProgress",
        "training",
    )
    return lines(text, "short", 6, {"{{dataset}}": total("loader_position", "dataset", "max")}, height=7)


def _breakers() -> Any:
    text = Text(
        "Breakers",
        "State of each replica's circuit breaker: closed lets requests through, open blocks them, half-open tries one.",
        "green.",
        "red: this replica failed repeatedly; another one serves if there is one. See its errors.",
        "StreamingBreakerOpen",
        "sources",
    )
    return timeline(text, 8, {"{{source}}": breaker_state("source")})


def _errors() -> Any:
    text = Text(
        "Failed requests per second",
        "By outcome, not counting requests cancelled because another was faster.",
        "0.",
        "denied: credentials; throttled: lower concurrency; timeout, unavailable: the store or the network.",
        "StreamingSourceErrors",
        "sources",
    )
    return stack(text, "reqps", 8, {"{{outcome}}": errors("outcome")}, colours=OUTCOME)


def _latency() -> Any:
    text = Text(
        "Latency",
        "Median and 99th percentile of the latency of answered requests.",
        "level; p99 below ten times the median.",
        "both rose: the store or the network; p99 alone: a slow tail, which hedges shorten.",
        "StreamingTrainerWaiting",
        "sources",
    )
    queries = {"p50 {{source}}": quantile(0.5, "source"), "p99 {{source}}": quantile(0.99, "source")}
    return lines(text, "s", 8, queries)


def _hits() -> Any:
    text = Text(
        "Hit ratio",
        "Share of reads that needed no fetch over the last epoch, and the share expected with this budget and order.",
        "observed within 70 % of predicted.",
        "lower: samples expire, are not kept, or are evicted too early; both low: give the cache more memory.",
        "StreamingHitRateLow",
        "cache",
    )
    queries = {
        "observed {{dataset}}": total("cache_observed_hit_ratio", "dataset", "avg"),
        "predicted {{dataset}}": total("cache_predicted_hit_ratio", "dataset", "avg"),
    }
    return lines(text, "percentunit", 8, queries, top=1)


def _ahead() -> Any:
    text = Text(
        "Look-ahead",
        "Samples read ahead or in flight, and their limit.",
        "both lines together; ahead falls only where everything is cached.",
        "ahead at 0 while the trainer waits: prefetch is starved; see the cache dashboard.",
        "StreamingPrefetchStarved",
        "cache",
    )
    queries = {"ahead": total("prefetch_buffered_samples"), "depth": total("prefetch_depth")}
    return lines(text, "short", 8, queries, colours={"ahead": GOOD, "depth": LIMIT})


def _memory() -> Any:
    text = Text(
        "Memory",
        "Largest resident memory of a trainer and of a process that reads, and the memory limit.",
        "level after the first epoch, below 90 % of the limit.",
        "make the cache smaller before the kernel kills the run.",
        "StreamingMemoryNearLimit",
        "training",
    )
    queries = {
        "{{process}}": total("process_resident_memory_bytes", "process", "max"),
        "limit": total("process_memory_limit_bytes", "", "min"),
    }
    return lines(text, "bytes", 8, queries, colours={"limit": LIMIT})
