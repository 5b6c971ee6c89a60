"""Each copy of the data: what is asked of it, how it answers, and what is done when it does not."""

from __future__ import annotations

from typing import Any

from dashboards.colours import BAD, GOOD, LIMIT, OUTCOME, WARN
from dashboards.frame import assemble
from dashboards.panels import Text, heat, lines, stack, tile, timeline
from dashboards.queries import WINDOW, breaker_state, else_zero, errors, increase, quantile, rate, selector, total

__all__ = ["sources"]


def sources() -> dict[str, Any]:
    """The dashboard."""
    return assemble(
        "sources",
        "Streaming / Sources",
        "Is a copy of the data slow, failing or held back, and what did that cost?",
        {
            "At a glance": _tiles(),
            "Requests": [_outcomes(), _bytes(), _errors()],
            "Latency": [_heat(), _quantiles()],
            "What was done about it": [_breakers(), _retries(), _hedges(), _failovers()],
            "How much at a time": [_in_flight(), _waiting(), _mismatches()],
        },
        refresh="1m",
    )


def _tiles() -> list[Any]:
    failed = Text(
        "Failed requests",
        "Part of the requests that failed; without those cancelled because another was faster.",
        "below 1 %.",
        "see by outcome below.",
        "StreamingSourceErrors",
    )
    tail = Text(
        "p99 latency",
        "99 of 100 answered requests took no longer, all sources.",
        "what this store had last week.",
        "see the heatmap: a second band is a slow server, a broad one a slow network.",
        "StreamingTrainerWaiting",
    )
    opened = Text(
        "Breakers not closed",
        "Copies that are kept back or just tried again, by any rank.",
        "0.",
        "see the states below.",
        "StreamingBreakerOpen",
    )
    over = Text(
        "Reads failed over",
        "Reads in the time shown that another copy served than the one asked first.",
        "0, or a few at a deployment of the store.",
        "the first copy in the settings fails: see its errors. The run goes on as long as a copy answers.",
        "StreamingSourceErrors",
    )
    share = f"{errors()} / {rate('source_requests', outcome='!cancelled')}"
    count = f"count({breaker_state('source')} > 0)"
    return [
        tile(failed, "percentunit", 6, {"failed": share}, steps=((None, GOOD), (0.01, WARN), (0.05, BAD)), decimals=2),
        tile(tail, "s", 6, {"p99": quantile(0.99)}, none="no answer"),
        tile(opened, "short", 6, {"not closed": else_zero(count)}, steps=((None, GOOD), (1.0, BAD))),
        tile(
            over,
            "short",
            6,
            {"failovers": else_zero(increase("source_failovers"))},
            steps=((None, GOOD), (1.0, WARN)),
            decimals=0,
        ),
    ]


def _outcomes() -> Any:
    text = Text(
        "Requests by outcome",
        "Requests per second by what came of them.",
        "green, with a thin grey of second requests cancelled.",
        "any other colour is a failure of that kind, see the runbook.",
        "StreamingSourceErrors",
    )
    return stack(text, "reqps", 8, {"{{outcome}}": rate("source_requests", "outcome")}, colours=OUTCOME)


def _bytes() -> Any:
    text = Text(
        "Bytes per second",
        "What each copy sent.",
        "high in the first epoch, then lower by the hit ratio.",
        "at the limit of the network while the trainer waits: compress, keep more in the cache, or use a nearer copy.",
        "StreamingTrainerWaiting",
    )
    return stack(text, "Bps", 8, {"{{source}}": rate("source_bytes", "source")})


def _errors() -> Any:
    text = Text(
        "Failed requests by source",
        "Failed requests per second of each copy.",
        "0.",
        "one copy: its store; all: the network of this host, or credentials.",
        "StreamingSourceErrors",
    )
    return lines(text, "reqps", 8, {"{{source}}": errors("source")})


def _heat() -> Any:
    text = Text(
        "Latency of all requests",
        "How many answered requests took how long, all sources chosen above.",
        "one narrow band.",
        "a second band above: one slow server or cold objects; a band that climbs: the store is loaded.",
        "StreamingTrainerWaiting",
    )
    bucket = selector("source_request_duration_seconds", "_bucket")
    return heat(text, "s", 12, f"sum by (le) (increase({bucket}{WINDOW}))")


def _quantiles() -> Any:
    text = Text(
        "Latency by source",
        "How long half, 90 and 99 of 100 answered requests took.",
        "level; p99 below ten times the median.",
        "p99 alone rose: a slow tail, see second requests; all rose: move the source or add a mirror.",
        "StreamingTrainerWaiting",
    )
    queries = {f"p{round(100 * q)} {{{{source}}}}": quantile(q, "source") for q in (0.5, 0.9, 0.99)}
    return lines(text, "s", 12, queries)


def _breakers() -> Any:
    text = Text(
        "Breaker of each copy",
        "The worst state on any rank: closed lets requests through, open keeps them back, half-open tries one.",
        "green.",
        "red: the copy failed again and again. Repair it or take it out of the settings; no restart is needed "
        "once it answers.",
        "StreamingBreakerOpen",
    )
    return timeline(text, 6, {"{{source}}": breaker_state("source")})


def _retries() -> Any:
    text = Text(
        "Retries and deadlines",
        "Attempts beyond the first per second, and reads given up because their deadline passed.",
        "0, or a few at a time.",
        "retries cost latency, which the stage source shows; deadlines passed reach the trainer as errors.",
        "StreamingSourceErrors",
    )
    queries = {
        "retries {{source}}": rate("source_retries", "source"),
        "deadlines {{source}}": rate("source_deadline_exceeded", "source"),
    }
    return lines(text, "ops", 6, queries)


def _hedges() -> Any:
    text = Text(
        "Second requests",
        "Requests sent beside one that was late, and those that answered first.",
        "at most 5 % of the requests.",
        "at 5 % and rarely winning: the whole store is slow, not its tail; a mirror helps, more requests do not.",
        "StreamingTrainerWaiting",
    )
    queries = {
        "sent {{source}}": rate("source_hedges", "source"),
        "won {{source}}": rate("source_hedge_wins", "source"),
    }
    return lines(text, "ops", 6, queries)


def _failovers() -> Any:
    text = Text(
        "Failovers",
        "Reads per second that another copy served than the one asked first, by the one asked first.",
        "0.",
        "a copy that never answers costs each read a wait until its breaker opens: repair it or list it last.",
        "StreamingSourceErrors",
    )
    return lines(text, "ops", 6, {"{{source}}": rate("source_failovers", "source")})


def _in_flight() -> Any:
    text = Text(
        "In flight and limit",
        "Requests under way to each copy's endpoint, with the most it is asked at a time.",
        "below the limit; the limit level.",
        "at a limit that falls: the endpoint throttles or slows when asked more. At a level limit: it is the bound.",
        "StreamingTrainerWaiting",
    )
    queries = {
        "in flight {{source}}": total("source_in_flight", "source"),
        "limit {{source}}": total("source_concurrency_limit", "source"),
    }
    return lines(text, "short", 8, queries)


def _waiting() -> Any:
    text = Text(
        "Waiting for an endpoint",
        "Requests that wait because the endpoint takes no more at a time.",
        "0, or short peaks at the start of an epoch.",
        "always above 0 while the trainer waits: a second endpoint (a mirror) carries more.",
        "StreamingTrainerWaiting",
    )
    return lines(text, "short", 8, {"{{source}}": total("source_queued_requests", "source")}, colours={"limit": LIMIT})


def _mismatches() -> Any:
    text = Text(
        "Wrong or damaged answers",
        "Answers per second that were not the object listed, or damaged; each was asked for anew.",
        "0.",
        "the copy was written to during the run, or differs from the others: build its index anew.",
        "StreamingSourceErrors",
    )
    return lines(text, "ops", 8, {"{{source}}": rate("source_integrity_failures", "source")})
