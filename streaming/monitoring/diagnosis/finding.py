"""A finding of a verdict, and the facts from which findings are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from streaming.monitoring.diagnosis.figures import Figures
from streaming.monitoring.diagnosis.thresholds import STARVED_SHARE
from streaming.monitoring.diagnosis.window import Window

__all__ = ["CRITICAL", "INFO", "WARNING", "Case", "Finding", "nbytes", "percent"]

CRITICAL: Final = "critical"
WARNING: Final = "warning"
INFO: Final = "info"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or the fact that nothing is.

    Attributes:
        code: a stable name: that of the alert without "Streaming", and after a slash its stage.
        severity: "critical" (training is blocked, or data is lost), "warning" (something must change) or "info".
        sentence: what is wrong and what to change, with figures.
        share: share of the step that it costs, 0.0 to 1.0.
        ranks, dataset: where it was found; the data set is empty for findings about a process.
    """

    code: str
    severity: str
    sentence: str
    share: float = 0.0
    ranks: tuple[str, ...] = ()
    dataset: str = ""


@dataclass(frozen=True)
class Case:
    """The facts about one data set of one rank.

    Attributes:
        window: its numbers.
        figures: figures computed from them.
        others_move: whether another data set of this rank made steps, so that this one may be idle.
    """

    window: Window
    figures: Figures
    others_move: bool = False

    @property
    def is_idle(self) -> bool:
        """Whether the rank made no step."""
        return not self.figures.steps and not self.others_move and self.figures.seconds > 0

    @property
    def is_stuck(self) -> bool:
        """Whether no step was made although samples are in flight.

        If the trainer itself is idle, prefetch finishes and nothing is in flight. Samples that are ready say nothing:
        they may come after the one that the trainer waits for.
        """
        under_way = self.window.level("prefetch_in_flight") or self.window.level("source_in_flight") or 0.0
        return self.is_idle and under_way > 0

    @property
    def passes(self) -> float:
        """Average number of reads of each sample since the process began; infinite if unknown.

        During the first pass most reads are misses, whatever the size of the cache.
        """
        samples, reads = self.window.level("dataset_samples"), self.window.level("reads")
        if samples and reads is not None:
            return reads / samples
        epoch = self.window.level("loader_epoch")
        return math.inf if epoch is None else epoch

    @property
    def reads_nothing_ahead(self) -> bool:
        """Whether samples are fetched, but hardly any of them ahead of time."""
        window = self.window
        if (
            not window.has("prefetch_buffered_samples")
            or window.peak("prefetch_buffered_samples")
            or window.peak("prefetch_queued_samples")
        ):
            return False
        fetched = window.gained("cache_misses")
        ahead = window.gained("cache_prefetch_hits") + window.gained("prefetch_late")
        return fetched > 0 and ahead < STARVED_SHARE * fetched

    @property
    def latency_s(self) -> float | None:
        """Median latency of answered requests; None without one."""
        return self.window.quantile("source_request_duration_seconds", 0.5)

    @property
    def severity(self) -> str:
        """Severity of a cause of the trainer's waits."""
        return CRITICAL if self.is_stuck else WARNING

    def share(self, stage: str) -> float:
        """Return the share of the step spent waiting for a stage; while the trainer is stuck, all for the source."""
        return 1.0 if self.is_stuck and stage == "source" else self.figures.stages[stage]

    def cost(self, stage: str) -> str:
        """Return the share in words."""
        if self.is_stuck and stage == "source":
            return f"no step in {self.figures.seconds:.0f} s"
        return f"{percent(self.share(stage))} of {self.figures.whole}"


def percent(share: float) -> str:
    """Format a share as `38 %`; below 1 % with one decimal."""
    return f"{share * 100:.1f} %" if 0 < share < 0.01 else f"{share * 100:.0f} %"


def nbytes(number: float) -> str:
    """Format bytes in units of 1000, with three significant digits."""
    for unit in ("B", "kB", "MB"):
        if abs(number) < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"
