"""The figures of a verdict: for each rank and data set the shares of a step, with rates, cache and memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from streaming.monitoring.diagnosis.scrape import LABELS
from streaming.monitoring.diagnosis.window import Window
from streaming.telemetry.stages import STAGES

__all__ = ["Figures", "figures_of"]

_STEPS: Final = ("trainer_steps", "trainer_busy_seconds", "trainer_wait_seconds", "loader_batches")
_READS: Final = (
    "reads",
    "read_waits",
    "read_wait_seconds",
    "cache_capacity_bytes",
    "prefetch_depth",
    "source_requests",
)
_PER_STATE: Final = ("open", "half-open")


@dataclass(frozen=True)
class Figures:
    """One data set of one rank in one window.

    Attributes:
        rank, dataset: labels of these figures.
        seconds: length of the window; 0.0 if unknown.
        basis: "steps": shares are of the trainer's time, waited and busy; "reads": the steps were not measured, so
            shares are of the window, and of waits of readers for fetches.
        steps: batches (with "reads": reads) in the window.
        stages: `{stage: share}`, 0.0 to 1.0, for all stages; with `busy` they add up to 1 once there was a step.
        busy: share of the time in which the trainer computed; None if unknown.
        samples_per_s, bytes_per_s: samples delivered, and bytes fetched from sources.
        hit_ratio: hits per read in the window; None without a read.
        predicted_hit_ratio: as exposed; None if unknown.
        in_flight, ahead, depth: samples in flight, samples read ahead, and their limit, at the end; None if unknown.
        memory_bytes: resident memory of the trainer and the process that reads.
        breakers: `{source: state}` of the circuit breakers that are not closed.
        is_since_start: whether the window reaches back to the start of the process.
    """

    rank: str
    dataset: str
    seconds: float
    basis: str
    steps: float
    stages: dict[str, float]
    busy: float | None
    samples_per_s: float
    bytes_per_s: float
    hit_ratio: float | None
    predicted_hit_ratio: float | None
    in_flight: float | None
    ahead: float | None
    depth: float | None
    memory_bytes: float
    breakers: dict[str, str] = field(default_factory=dict)
    is_since_start: bool = False

    @property
    def waited(self) -> float:
        """Share of the time waited, over all stages."""
        return min(1.0, sum(self.stages.values()))

    @property
    def whole(self) -> str:
        """Name of the time that the shares refer to, in a sentence."""
        return "step" if self.basis == "steps" else "the time"

    @property
    def top_stage(self) -> str:
        """Stage with the longest wait."""
        return max(self.stages, key=lambda stage: self.stages[stage])


def figures_of(window: Window) -> Iterator[tuple[Window, Figures]]:
    """Yield the figures of each data set that the trainer steps over, or that is read without measured steps.

    A loader over several adapters has a name that no adapter has; the numbers of those adapters are part of it.
    """
    stepped = _datasets(window, _STEPS)
    read = _datasets(window, _READS)
    parts = read - stepped
    for dataset in sorted(stepped):
        seen = window.of({dataset} if dataset in read else {dataset, *parts})
        yield seen, _figures(seen, dataset, "steps")
    if stepped <= read:  # else the rest is part of a loader
        for dataset in sorted(parts):
            seen = window.of({dataset})
            yield seen, _figures(seen, dataset, "reads")


def _datasets(window: Window, keys: tuple[str, ...]) -> set[str]:
    return {name for key in keys if LABELS[key][0] == "dataset" for name in window.values_of(key, "dataset")}


def _figures(window: Window, dataset: str, basis: str) -> Figures:
    stages, busy = _shares(window, basis)
    hits, misses = window.gained("cache_hits"), window.gained("cache_misses")
    rate = window.per_second("loader_samples") if window.has("loader_samples") else window.per_second("reads")
    return Figures(
        rank=window.rank,
        dataset=dataset,
        seconds=window.seconds,
        basis=basis,
        steps=window.gained("trainer_steps" if basis == "steps" else "reads"),
        stages=stages,
        busy=busy,
        samples_per_s=rate,
        bytes_per_s=window.per_second("fetched_bytes"),
        hit_ratio=hits / (hits + misses) if hits + misses else window.level("cache_observed_hit_ratio"),
        predicted_hit_ratio=_least(window, "cache_predicted_hit_ratio"),
        in_flight=window.level("prefetch_in_flight"),
        ahead=window.level("prefetch_buffered_samples"),
        depth=window.level("prefetch_depth"),
        memory_bytes=window.level("process_resident_memory_bytes") or 0.0,
        breakers=_breakers(window),
        is_since_start=window.is_since_start,
    )


def _shares(window: Window, basis: str) -> tuple[dict[str, float], float | None]:
    """Return the shares of the stages and of the trainer's own work. Several readers may wait at once."""
    key = "trainer_wait_seconds" if basis == "steps" else "read_wait_seconds"
    waits = {stage: window.gained(key, stage=stage) for stage in STAGES}
    waited = sum(waits.values())
    busy = window.gained("trainer_busy_seconds") if basis == "steps" else max(0.0, window.seconds - waited)
    total = waited + busy
    if not total or (basis == "reads" and not window.seconds):
        return dict.fromkeys(STAGES, 0.0), None
    return {stage: seconds / total for stage, seconds in waits.items()}, busy / total if basis == "steps" else None


def _least(window: Window, key: str) -> float | None:
    """Return the lowest value over several adapters."""
    return min(window.now.get(key, {}).values(), default=None)


def _breakers(window: Window) -> dict[str, str]:
    return {
        source: state
        for source in window.values_of("source_breaker_state", "source")
        for state in _PER_STATE
        if window.level("source_breaker_state", source=source, state=state)
    }
