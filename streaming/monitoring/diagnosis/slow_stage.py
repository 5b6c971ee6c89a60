"""Advice for each stage that a trainer waits for, except the source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from streaming.monitoring.diagnosis.finding import Case, Finding, percent
from streaming.monitoring.diagnosis.thresholds import LOOP_LAG_S, WAITING_SHARE
from streaming.telemetry.stages import STAGES

__all__ = ["late_loop", "stage_findings"]

_ADVICE: Final = {
    "decompress": "the objects end in .zst: store them uncompressed, or raise decode_threads",
    "decode": (
        "store samples in a faster format (.safetensors, .npy), raise decode_threads, or give the cache room for more "
        "of them (cache_size_gb): it keeps them decoded"
    ),
    "prepare": (
        "store what prepare returns instead of its input, raise decode_threads, or give the cache room for more "
        "results (cache_size_gb)"
    ),
    "cache": "set compression_type='none' if memory allows, return fewer and larger tensors, or use num_workers",
    "transform": (
        "it runs before each batch: use num_workers (or more of them), make it cheaper, or move deterministic parts "
        "into prepare"
    ),
    "collate": (
        "it runs before each batch: use num_workers (or more of them), make it cheaper (StackCollate() for samples of "
        "one shape), or group samples of similar length"
    ),
    "device": "set pin_memory=True, and move fewer and larger tensors",
    "queue": (
        "batches are ready but arrive late: with workers raise prefetch_factor, set pin_memory=True, or send fewer and "
        "larger tensors; without workers make batches larger, as each has a fixed cost"
    ),
}

_IN_LINE: Final = ("source", "decompress", "decode", "prepare", "cache", "queue")
"""Stages that take longer when threads wait for the interpreter lock: those that read, decode and copy."""

_COMPUTED_AHEAD: Final = ("decompress", "decode", "prepare")
"""Stages that run in threads next to the trainer's and may hold the interpreter lock themselves."""


def stage_findings(case: Case) -> Iterator[Finding]:
    """Yield each stage but the source that costs enough alone, or the longest if only all together do."""
    slow = [stage for stage in STAGES if stage != "source" and case.share(stage) > WAITING_SHARE]
    for stage in slow:
        advice = _ADVICE[stage]
        if stage == "queue" and case.window.peak("prefetch_budget_exhausted"):
            advice = "reads wait for room in the cache's budget: raise cache_size_gb"
        lag = _lags(case)["trainer"]
        if stage in ("transform", "collate") and lag > LOOP_LAG_S:
            advice += (
                f"; the event loop wakes up {lag * 1e3:.0f} ms late: if the Python of prepare or of a codec holds "
                "the interpreter lock, set owner='process'"
            )
        yield Finding(f"TrainerWaiting/{stage}", "warning", f"{stage}, {case.cost(stage)}: {advice}", case.share(stage))
    if not slow and case.share("source") <= WAITING_SHARE < case.figures.waited:
        yield _spread(case)


def _spread(case: Case) -> Finding:
    figures = case.figures
    parts = sorted(((share, stage) for stage, share in figures.stages.items() if share), reverse=True)
    shares = ", ".join(f"{stage} {percent(share)}" for share, stage in parts[:4])
    top = figures.top_stage
    advice = _ADVICE.get(top, "raise look-ahead or add a mirror")
    return Finding(
        f"TrainerWaiting/{top}",
        "warning",
        f"many short waits, {percent(figures.waited)} of {figures.whole} ({shares}); start with {top}: {advice}",
        figures.waited,
    )


def _lags(case: Case) -> dict[str, float]:
    return {process: case.window.held("event_loop_lag_seconds", process=process) for process in ("trainer", "owner")}


def late_loop(case: Case) -> Finding | None:
    """Find threads that wait for the interpreter lock: the event loop is late, and not because of slow requests."""
    shares = [(case.share(stage), stage) for stage in _IN_LINE]
    waited, (_, stage) = sum(share for share, _ in shares), max(shares)
    lags = _lags(case)
    lag = max(lags.values())
    is_of_source = stage == "source" and lag < (case.latency_s or 0.0) / 2
    if waited <= WAITING_SHARE or lag <= LOOP_LAG_S or is_of_source or case.is_stuck:
        return None
    if lags["trainer"] < lags["owner"]:
        cause = "the process that reads gets too little processor time; give the node more cores, or fewer ranks"
    elif stage in _COMPUTED_AHEAD:
        cause = f"its Python or the trainer's holds the interpreter lock; set owner='process'; {_ADVICE[stage]}"
    else:
        cause = "the trainer's Python holds the interpreter lock; set owner='process'"
    what = f"the event loop wakes up {lag * 1e3:.0f} ms late, {percent(waited)} of {case.figures.whole} ({stage})"
    return Finding(f"TrainerWaiting/{stage}", "warning", f"{what}: {cause}", waited)
