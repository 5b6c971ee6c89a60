"""Why a trainer waits for its source: failing replicas, a cache that cannot keep the data, too little prefetch."""

from __future__ import annotations

from collections.abc import Iterator

from streaming.monitoring.diagnosis.finding import Case, Finding, nbytes, percent
from streaming.monitoring.diagnosis.thresholds import (
    AT_BOUND,
    ERROR_SHARE,
    EXPIRED_OF_FETCHED,
    EXPIRED_OF_READS,
    HIT_RATIO_SHARE,
    LEAST_PREDICTED,
    SMALL_CACHE_RATIO,
    WAITING_SHARE,
)

__all__ = ["source_findings"]

_NO_ERRORS = ("ok", "cancelled")  # a cancelled request says nothing about the replica

_NEXT_STEP = {
    "not_found": "bring the replica up to date",
    "denied": "renew the credentials (`streaming doctor URL` names those in use)",
    "throttled": "ask for a higher quota, spread the objects over more prefixes, or add a mirror",
    "timeout": "check the network and the server (`streaming doctor URL`), or add a mirror",
    "unavailable": "check the server (`streaming doctor URL`), or add a mirror",
    "truncated": "look for a proxy that cuts answers, or remove the replica from the sources",
    "changed": "objects are not those that were listed: restart the run, which lists them again",
    "refused": "check region, endpoint and max_object_bytes",
    "other": "see the log, which names each kind of error once",
}


def source_findings(case: Case) -> Iterator[Finding]:
    """Yield problems of replicas and cache; if they do not explain the waits, also what limits reading."""
    found = [*_breakers(case), *_errors(case), *_cache(case)]
    yield from found
    if case.share("source") > WAITING_SHARE and not any(finding.share for finding in found):
        yield _starved(case) if case.reads_nothing_ahead else _slow(case)


def _finding(case: Case, code: str, what: str, advice: str, *, explains: bool = True) -> Finding:
    """Make a finding that costs the wait for the source, if it explains that wait and is worth a change."""
    share = case.share("source")
    if not explains or share <= WAITING_SHARE:
        return Finding(code, "warning", f"{what}: {advice}")
    return Finding(code, case.severity, f"{what}, {case.cost('source')}: {advice}", share)


# -- replicas


def _outcomes(case: Case, source: str) -> dict[str, float]:
    window = case.window
    outcomes = window.values_of("source_requests", "outcome")
    return {outcome: window.gained("source_requests", source=source, outcome=outcome) for outcome in outcomes}


def _failed(outcomes: dict[str, float]) -> tuple[float, float]:
    """Return the number of failed requests, and of all that count."""
    failed = sum(number for outcome, number in outcomes.items() if outcome not in _NO_ERRORS)
    return failed, failed + outcomes.get("ok", 0.0)


def _mix(outcomes: dict[str, float]) -> str:
    """Format errors as `9 timeout, 3 unavailable`, the most frequent first."""
    errors = {name: number for name, number in outcomes.items() if number and name not in _NO_ERRORS}
    return ", ".join(f"{number:.0f} {name}" for name, number in sorted(errors.items(), key=lambda item: -item[1]))


def _breakers(case: Case) -> Iterator[Finding]:
    for source in case.window.values_of("source_breaker_state", "source"):
        state = case.figures.breakers.get(source)
        opened = case.window.gained("source_breaker_opened", source=source)
        if state is None and (not opened or case.window.is_since_start):
            continue
        outcomes = _outcomes(case, source)
        failed, requests = _failed(outcomes)
        counts = f" ({failed:.0f} of {requests:.0f} requests failed: {_mix(outcomes)})" if failed else ""
        what = f"the breaker of {source} is {state}" if state else f"the breaker of {source} opened {opened:.0f} times"
        yield _finding(
            case,
            "BreakerOpen",
            f"{what}{counts}",
            f"{source} does not answer; repair it (`streaming doctor URL` shows why), or remove it from the sources",
        )


def _errors(case: Case) -> Iterator[Finding]:
    """Find errors of replicas whose circuit breaker is closed."""
    for source in case.window.values_of("source_requests", "source"):
        outcomes = _outcomes(case, source)
        failed, requests = _failed(outcomes)
        if source in case.figures.breakers or not requests or failed / requests <= ERROR_SHARE:
            continue
        most = max((name for name in outcomes if name not in _NO_ERRORS), key=lambda name: outcomes[name])
        retries = case.window.gained("source_retries", source=source)
        again = f", {retries:.0f} retries" if retries else ""
        what = "throttles" if most == "throttled" else "fails"
        yield _finding(
            case,
            "SourceErrors",
            f"{source} {what} {percent(failed / requests)} of requests ({_mix(outcomes)}{again})",
            _NEXT_STEP.get(most, _NEXT_STEP["other"]),
        )


# -- the cache


def _cache(case: Case) -> Iterator[Finding]:
    window, predicted = case.window, case.figures.predicted_hit_ratio
    misses, reads = window.gained("cache_misses"), window.gained("reads")
    expired = window.gained("cache_evictions", reason="ttl")
    if expired > EXPIRED_OF_FETCHED * misses and expired > EXPIRED_OF_READS * reads:
        yield _finding(
            case,
            "CacheExpiring",
            f"cached samples expire before they are read again ({expired:.0f} by age, {misses:.0f} fetched)",
            "set max_ttl_seconds=None, as changed objects are detected without it, or to longer than an epoch",
        )
        return
    if predicted is None:
        return
    if predicted < SMALL_CACHE_RATIO and case.share("source") > WAITING_SHARE:
        yield _small(case, predicted)
    observed = window.level("cache_observed_hit_ratio")
    is_known = observed is not None and case.passes >= 2 and predicted > LEAST_PREDICTED
    if is_known and observed is not None and observed < HIT_RATIO_SHARE * predicted:
        yield _low(case, observed, predicted)


def _small(case: Case, predicted: float) -> Finding:
    budget = case.window.level("cache_capacity_bytes")
    size = f" of {nbytes(budget)}" if budget else ""
    needed = f"to about {nbytes(budget / predicted)} per rank" if budget and predicted else "as far as memory allows"
    return _finding(
        case,
        "CacheTooSmall",
        f"the cache{size} keeps {percent(predicted)} of the data and the source cannot deliver the rest in time",
        f"raise it {needed} (cache_size_gb is per node), or add a mirror",
        explains=case.passes >= 1,  # during the first pass no cache could help
    )


def _low(case: Case, observed: float, predicted: float) -> Finding:
    window = case.window
    kinds, sizes = (window.gained("cache_rejections", reason=reason) for reason in ("type", "size"))
    if kinds or sizes:
        why = f"{kinds:.0f} samples were of types that cannot be cached, {sizes:.0f} were too large"
        advice = f"{why}; return tensors, arrays, text and numbers from prepare, and raise cache_size_gb"
    else:
        advice = "samples are evicted before they are read again: use StreamingDataLoader or look_ahead"
    return _finding(case, "HitRateLow", f"hit rate {percent(observed)}, predicted {percent(predicted)}", advice)


# -- reading ahead


def _starved(case: Case) -> Finding:
    return _finding(
        case,
        "PrefetchStarved",
        "nothing is read ahead",
        "the order is not known before samples are read; use StreamingDataLoader, or wrap the sampler with "
        "adapter.look_ahead(sampler)",
    )


def _slow(case: Case) -> Finding:
    """Find what limits the number of reads in flight, which decides the advice."""
    window, figures = case.window, case.figures
    in_flight = window.peak("source_in_flight") or window.peak("prefetch_in_flight")
    limit = window.peak("source_concurrency_limit")
    ahead, depth = window.peak("prefetch_buffered_samples"), window.peak("prefetch_depth")
    kind, change = "source latency", "raise look-ahead"
    if window.peak("source_queued_requests") and limit and in_flight >= AT_BOUND * limit:
        kind = "source bandwidth"
        change = f"more requests at once would only slow each down (limit-bound at {limit:.0f}); raise cache_size_gb"
    elif window.peak("prefetch_budget_exhausted"):
        held = nbytes(window.peak("prefetch_max_bytes"))
        change = f"raise look-ahead (budget-bound: {ahead:.0f} samples fill its {held}) with cache_size_gb"
    elif depth and ahead >= AT_BOUND * depth:
        change = f"raise look-ahead (depth-bound at {depth:.0f}) with prefetch_ahead"
    elif in_flight:
        change = f"raise look-ahead (concurrency-bound at {in_flight:.0f}) with concurrency"
    facts = [f"p50 {p50 * 1e3:.0f} ms" for p50 in [case.latency_s] if p50 is not None]
    facts += [f"{in_flight:.0f} in flight"] if in_flight else []
    facts += [f"{nbytes(figures.bytes_per_s)}/s"] if figures.bytes_per_s else []
    late, reads = window.gained("prefetch_late"), window.gained("reads")
    facts += [f"{percent(min(1.0, late / reads))} of reads late"] if late and reads else []
    shown = f" ({', '.join(facts)})" if facts else ""
    sentence = f"{kind}, {case.cost('source')}{shown}; {change} or add a mirror"
    if case.passes < 1 and figures.predicted_hit_ratio:
        sentence += f"; after the first epoch the cache serves {percent(figures.predicted_hit_ratio)}"
    return Finding("TrainerWaiting/source", case.severity, sentence, case.share("source"))
