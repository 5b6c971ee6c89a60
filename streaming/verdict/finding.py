"""One thing that a verdict found, and what is known when causes are looked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from streaming.verdict.figures import Figures
from streaming.verdict.thresholds import STARVED_SHARE
from streaming.verdict.window import Window

__all__ = ["CRITICAL", "INFO", "WARNING", "Case", "Finding", "nbytes", "percent"]

CRITICAL: Final = "critical"
WARNING: Final = "warning"
INFO: Final = "info"


@dataclass(frozen=True)
class Finding:
    """What is wrong, or that nothing is.

    Attributes:
        code: a stable name: that of the alert without "Streaming", and after a slash its stage.
        severity: "critical" (training stands, or data are lost), "warning" (something must change) or "info".
        sentence: what is wrong and what to change, with figures.
        share: of the step that it costs, 0.0 to 1.0.
        ranks, dataset: of whom it was found; no data set for what is of a whole process.
    """

    code: str
    severity: str
    sentence: str
    share: float = 0.0
    ranks: tuple[str, ...] = ()
    dataset: str = ""


@dataclass(frozen=True)
class Case:
    """All that is known of one data set of one rank.

    Attributes:
        window: its numbers.
        figures: what they come to.
    """

    window: Window
    figures: Figures

    @property
    def is_stuck(self) -> bool:
        """Whether no step was made and none could be: samples are under way, and none that was read ahead is there."""
        under_way = self.window.level("prefetch_in_flight") or self.window.level("source_in_flight") or 0.0
        is_asking = under_way > 0 or self.window.gained("source_requests") > 0
        there = (self.figures.ahead or 0.0) - under_way
        return not self.figures.steps and self.figures.seconds > 0 and is_asking and there <= 0

    @property
    def passes(self) -> float:
        """How often each sample was read since the process began, on average; infinite if unknown.

        Before the first pass is over most reads are misses, whatever the size of the cache.
        """
        samples, reads = self.window.level("dataset_samples"), self.window.level("reads")
        if samples and reads is not None:
            return reads / samples
        epoch = self.window.level("loader_epoch")
        return math.inf if epoch is None else epoch

    @property
    def reads_nothing_ahead(self) -> bool:
        """Whether no sample was announced, although reading ahead is counted and samples are fetched."""
        window = self.window
        misses, reads = window.gained("cache_misses"), window.gained("reads")
        is_idle = window.has("prefetch_ahead") and not (
            window.peak("prefetch_ahead") or window.peak("prefetch_waiting")
        )
        return is_idle and misses > STARVED_SHARE * reads

    @property
    def latency_s(self) -> float | None:
        """The median of answered requests; None without one."""
        return self.window.quantile("source_request_duration_seconds", 0.5)

    @property
    def severity(self) -> str:
        """Of a cause that the trainer waits for."""
        return CRITICAL if self.is_stuck else WARNING

    def share(self, stage: str) -> float:
        """Of the step, waited for a stage; all of it for the source while the trainer is stuck."""
        return 1.0 if self.is_stuck and stage == "source" else self.figures.stages[stage]

    def cost(self, stage: str) -> str:
        """The share as a sentence says it."""
        if self.is_stuck and stage == "source":
            return f"no step in {self.figures.seconds:.0f} s"
        return f"{percent(self.share(stage))} of {self.figures.whole}"


def percent(share: float) -> str:
    """`38 %`; below one with a digit after the point."""
    return f"{share * 100:.1f} %" if 0 < share < 0.01 else f"{share * 100:.0f} %"


def nbytes(number: float) -> str:
    """Bytes in units of 1000, with three digits at the most where they say something."""
    for unit in ("B", "kB", "MB"):
        if abs(number) < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"
