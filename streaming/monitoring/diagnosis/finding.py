"""One thing that a verdict found, and what is known when causes are looked for."""

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
        others_move: whether another data set of this rank made steps, so that this one may rest.
    """

    window: Window
    figures: Figures
    others_move: bool = False

    @property
    def stands(self) -> bool:
        """Whether the rank made no step."""
        return not self.figures.steps and not self.others_move and self.figures.seconds > 0

    @property
    def is_stuck(self) -> bool:
        """Whether no step was made, and samples are still under way.

        While a trainer rests by itself, what is read ahead comes to its end. Samples that are there say nothing: they
        may be later ones than the one that is waited for.
        """
        under_way = self.window.level("prefetch_in_flight") or self.window.level("source_in_flight") or 0.0
        return self.stands and under_way > 0

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
        """Whether samples are fetched, and hardly any of them before it is asked for."""
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
