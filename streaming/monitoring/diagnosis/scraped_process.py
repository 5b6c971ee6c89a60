"""Findings about a process or its data, whatever the trainer waits for."""

from __future__ import annotations

from collections.abc import Iterator

from streaming.monitoring.diagnosis.finding import CRITICAL, INFO, WARNING, Case, Finding, nbytes, percent
from streaming.monitoring.diagnosis.thresholds import BAD_SHARE, MEMORY_SHARE, WAITING_SHARE

__all__ = ["bad_samples", "memory", "progress", "trainer_bound"]


def bad_samples(case: Case) -> Iterator[Finding]:
    """Find samples replaced since the start; `max_bad_share` of them, by default 1 %, ends the run."""
    window = case.window
    bad, loaded = window.level("samples_replaced") or 0.0, window.level("cache_misses") or 0.0
    if bad > BAD_SHARE * (loaded + bad):
        yield Finding(
            "BadSamples",
            WARNING,
            f"{bad:.0f} samples were replaced, {percent(bad / (loaded + bad))} of those loaded "
            f"({window.gained('samples_replaced'):.0f} just now): the file at quarantine_path lists them with their "
            "errors; repair or remove them before max_bad_share ends the run",
        )


def memory(case: Case) -> Iterator[Finding]:
    """Find resident memory of the trainer and the process that reads close to their limit."""
    used = case.window.level("process_resident_memory_bytes")
    limit = case.window.level("process_memory_limit_bytes")
    if used and case.window.level("process_resident_memory_bytes", process="owner"):
        used -= case.window.level("cache_bytes") or 0.0  # both processes map it
    if used and limit and used > MEMORY_SHARE * limit:
        budget = case.window.level("cache_capacity_bytes")
        of_it = f", of which the cache may take {nbytes(budget)}" if budget else ""
        yield Finding(
            "MemoryNearLimit",
            WARNING,
            f"{nbytes(used)} of {nbytes(limit)} of memory are in use{of_it}: lower cache_size_gb or raise the limit, "
            "before the system ends the run",
        )


def progress(case: Case) -> Iterator[Finding]:
    """Find that no step was made in the whole window."""
    window, figures = case.window, case.figures
    if not case.is_idle:
        return
    span = f"{figures.seconds:.0f} s"
    if case.is_stuck:
        yield Finding(
            "NoProgress",
            CRITICAL,
            f"no step in {span}, while {window.peak('prefetch_in_flight'):.0f} samples are in flight: find out what "
            "they wait for; if steps are that long, run this again with --seconds longer than a step",
            1.0,
        )
    elif not window.level("trainer_steps" if figures.basis == "steps" else "reads"):
        yield Finding("NoProgress", INFO, "no batch was requested yet: look again after the first step")
    else:
        yield Finding(
            "NoProgress",
            WARNING,
            f"no step in {span}, but data is ready: the trainer itself hangs, saves, or computes longer than that; "
            "look with --seconds longer than a step, or at its stack (`py-spy dump --pid PID`)",
            1.0,
        )


def trainer_bound(case: Case) -> Iterator[Finding]:
    """Find that data is ready whenever it is requested."""
    figures = case.figures
    if figures.basis == "reads":
        if figures.steps and figures.waited <= WAITING_SHARE:
            yield Finding(
                "TrainerBound",
                INFO,
                f"reads hardly wait, {percent(figures.waited)} of the time; other waits of the trainer are not known "
                "unless you iterate over streaming.monitor_stalls(dataloader)",
            )
    elif figures.busy is not None and figures.waited <= WAITING_SHARE:
        yield Finding(
            "TrainerBound",
            INFO,
            f"trainer-bound: the data is ready, waits are {percent(figures.waited)} of step; a faster input would "
            "change nothing",
        )
