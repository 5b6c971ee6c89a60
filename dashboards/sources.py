"""Dashboard of the replicas: their requests, latency and errors, and how the library reacts."""

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
        "Is a replica slow, failing or blocked, and what does that cost?",
        {
            "At a glance": _tiles(),
            "Requests": [_outcomes(), _bytes(), _errors()],
            "Latency": [_heat(), _quantiles()],
            "Breakers, retries, hedges, failovers": [_breakers(), _retries(), _hedges(), _failovers()],
            "Concurrency and integrity": [_in_flight(), _waiting(), _mismatches()],
        },
        refresh="1m",
    )


def _tiles() -> list[Any]:
    failed = Text(
        "Failed requests",
        "Share of failed requests, not counting those cancelled because another was faster.",
        "below 1 %.",
        "see the outcomes below.",
        "StreamingSourceErrors",
    )
    tail = Text(
        "p99 latency",
        "99th percentile of the latency of answered requests, all sources.",
        "the same as last week.",
        "see the heatmap: a second band is a slow server, a broad one a slow network.",
        "StreamingTrainerWaiting",
    )
    opened = Text(
        "Breakers not closed",
        "Replicas whose circuit breaker is open or half-open on any rank.",
        "0.",
        "see the states below.",
        "StreamingBreakerOpen",
    )
    over = Text(
        "Reads failed over",
        "Reads in the time range that were served by another replica than the first choice.",
        "0, or a few while the store is being deployed.",
        "the first replica in the settings fails: see its errors. The run continues while any replica answers.",
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
        "Requests per second by outcome.",
        "green, with a thin grey line of cancelled hedges.",
        "any other colour is a failure of that kind; see the runbook.",
        "StreamingSourceErrors",
    )
    return stack(text, "reqps", 8, {"{{outcome}}": rate("source_requests", "outcome")}, colours=OUTCOME)


def _bytes() -> Any:
    text = Text(
        "Bytes per second",
        "Bytes received from each replica.",
        "high in the first epoch, then lower by the hit ratio.",
        "at the limit of the network while the trainer waits: compress, cache more, or use a nearer mirror.",
        "StreamingTrainerWaiting",
    )
    return stack(text, "Bps", 8, {"{{source}}": rate("source_bytes", "source")})


def _errors() -> Any:
    text = Text(
        "Failed requests by source",
        "Failed requests per second of each replica.",
        "0.",
        "one replica: its store; all: the network of this host, or credentials.",
        "StreamingSourceErrors",
    )
    return lines(text, "reqps", 8, {"{{source}}": errors("source")})


def _heat() -> Any:
    text = Text(
        "Latency of all requests",
        "Distribution of the latency of answered requests, for the sources chosen above.",
        "one narrow band.",
        "a second band above: one slow server or cold objects; a rising band: the store is overloaded.",
        "StreamingTrainerWaiting",
    )
    bucket = selector("source_request_duration_seconds", "_bucket")
    return heat(text, "s", 12, f"sum by (le) (increase({bucket}{WINDOW}))")


def _quantiles() -> Any:
    text = Text(
        "Latency by source",
        "50th, 90th and 99th percentile of the latency of answered requests.",
        "level; p99 below ten times the median.",
        "p99 alone rose: a slow tail, see hedges; all rose: move the source or add a mirror.",
        "StreamingTrainerWaiting",
    )
    queries = {f"p{round(100 * q)} {{{{source}}}}": quantile(q, "source") for q in (0.5, 0.9, 0.99)}
    return lines(text, "s", 12, queries)


def _breakers() -> Any:
    text = Text(
        "Breaker of each replica",
        "The worst state on any rank: closed lets requests through, open blocks them, half-open tries one.",
        "green.",
        "red: the replica failed repeatedly. Repair it or remove it from the settings; no restart is needed "
        "once it answers.",
        "StreamingBreakerOpen",
    )
    return timeline(text, 6, {"{{source}}": breaker_state("source")})


def _retries() -> Any:
    text = Text(
        "Retries and deadlines",
        "Retries per second, and reads given up because their deadline passed.",
        "0, or a few at a time.",
        "retries cost latency, which the stage source shows; passed deadlines are errors in the trainer.",
        "StreamingSourceErrors",
    )
    queries = {
        "retries {{source}}": rate("source_retries", "source"),
        "deadlines {{source}}": rate("source_deadline_exceeded", "source"),
    }
    return lines(text, "ops", 6, queries)


def _hedges() -> Any:
    text = Text(
        "Hedges",
        "Second requests sent because the first was late, and those that answered first.",
        "at most 5 % of the requests.",
        "at 5 % and rarely winning: the whole store is slow, not just its tail; a mirror helps, more requests do not.",
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
        "Reads per second served by another replica than the first choice, by first choice.",
        "0.",
        "a replica that never answers delays each read until its breaker opens: repair it or list it last.",
        "StreamingSourceErrors",
    )
    return lines(text, "ops", 6, {"{{source}}": rate("source_failovers", "source")})


def _in_flight() -> Any:
    text = Text(
        "In flight and limit",
        "Requests in flight to each replica's endpoint, and its concurrency limit.",
        "below the limit; the limit level.",
        "at a falling limit: the endpoint throttles or slows down under load. At a level limit: it is the bottleneck.",
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
        "Requests that wait for the endpoint's concurrency limit.",
        "0, or short peaks at the start of an epoch.",
        "always above 0 while the trainer waits: a second endpoint (a mirror) carries more.",
        "StreamingTrainerWaiting",
    )
    return lines(text, "short", 8, {"{{source}}": total("source_queued_requests", "source")}, colours={"limit": LIMIT})


def _mismatches() -> Any:
    text = Text(
        "Wrong or damaged answers",
        "Answers per second that were damaged, or not the object that was listed; each was requested again.",
        "0.",
        "the replica was changed during the run, or differs from the others: build the index again.",
        "StreamingSourceErrors",
    )
    return lines(text, "ops", 8, {"{{source}}": rate("source_integrity_failures", "source")})
