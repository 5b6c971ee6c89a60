"""The verdict on two scrapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from streaming.monitoring.diagnosis.figures import Figures, figures_of
from streaming.monitoring.diagnosis.finding import CRITICAL, INFO, WARNING, Case, Finding
from streaming.monitoring.diagnosis.scrape import Scrape
from streaming.monitoring.diagnosis.scraped_process import bad_samples, memory, progress, trainer_bound
from streaming.monitoring.diagnosis.slow_rank import joined, slow_ranks
from streaming.monitoring.diagnosis.slow_source import source_findings
from streaming.monitoring.diagnosis.slow_stage import late_loop, stage_findings
from streaming.monitoring.diagnosis.window import Window, open_window

__all__ = ["Verdict", "judge"]

_SEVERITIES: Final = (CRITICAL, WARNING, INFO)
_CAUSES_FIRST: Final = ("ScrapeGone", "RankSlow", "BreakerOpen", "SourceErrors", "CacheExpiring", "CacheTooSmall")
_OF_A_PROCESS: Final = ("MemoryNearLimit",)


@dataclass(frozen=True)
class Verdict:
    """The result of comparing two scrapes.

    Attributes:
        figures: one for each rank and data set.
        findings: the most important first; there is always one.
        notes: what limits the figures, such as a restart between the scrapes.
    """

    figures: tuple[Figures, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The change to make first, or that none is needed."""
        return self.findings[0].sentence

    @property
    def is_fine(self) -> bool:
        """Whether no change is needed."""
        return all(finding.severity == INFO for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return plain values: `verdict`, `code`, `is_fine`, `findings`, `ranks`, `notes`."""
        return {
            "verdict": self.sentence,
            "code": self.findings[0].code,
            "is_fine": self.is_fine,
            "findings": [asdict(finding) for finding in self.findings],
            "ranks": [{**asdict(figures), "waited": figures.waited} for figures in self.figures],
            "notes": list(self.notes),
        }


def judge(before: Scrape | None, after: Scrape, seconds: float | None = None) -> Verdict:
    """Judge what happened between two scrapes, and what to change.

    Args:
        before: the earlier one; None judges the time since the processes started.
        after: the later one; if no process answers any more, the figures are those from the start up to `before`.
        seconds: between them; None computes it from their `taken_at`.
    """
    since, last = (None, before) if before is not None and not after.ranks else (before, after)
    cases = [
        case for rank in sorted(last.ranks, key=_in_order) for case in _cases(open_window(rank, since, last, seconds))
    ]
    ranks = sorted({*after.ranks, *(before.ranks if before else ())}, key=_in_order)
    datasets = sorted({case.figures.dataset for case in cases})
    found = [(case, list(_findings(case))) for case in cases]
    singles = [finding for _, findings in found for finding in findings]
    every = [*_gone(before, after), *slow_ranks(found), *joined(singles, ranks, datasets)]
    return Verdict(
        figures=tuple(case.figures for case in cases),
        findings=tuple(_ordered(every)) or (_nothing(cases),),
        notes=tuple(_notes(before, cases)),
    )


def _cases(window: Window) -> list[Case]:
    seen = list(figures_of(window))
    moving = sum(1 for _, figures in seen if figures.steps)
    return [Case(each, figures, moving > bool(figures.steps)) for each, figures in seen]


def _findings(case: Case) -> Iterator[Finding]:
    for finding in _all_findings(case):
        dataset = "" if finding.code in _OF_A_PROCESS else case.figures.dataset
        yield replace(finding, ranks=(case.figures.rank,), dataset=dataset)


def _all_findings(case: Case) -> Iterator[Finding]:
    found = [*source_findings(case), *stage_findings(case)]
    late = late_loop(case)
    if late is not None and not any(finding.code in _CAUSES_FIRST and finding.share for finding in found):
        yield late
        found = [finding for finding in found if finding.code != late.code]
    yield from found
    yield from bad_samples(case)
    yield from memory(case)
    yield from progress(case)
    yield from trainer_bound(case)


def _ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Sort by severity, then by cost, then causes before their effects.

    Findings of severity "info" are kept only if there are no others.
    """
    kept = list(findings)
    if any(finding.severity != INFO for finding in kept):
        kept = [finding for finding in kept if finding.severity != INFO]
    return sorted(kept, key=lambda each: (_SEVERITIES.index(each.severity), -round(each.share, 3), _place(each.code)))


def _place(code: str) -> int:
    if code == "NoProgress":
        return len(_CAUSES_FIRST) + 1
    return _CAUSES_FIRST.index(code) if code in _CAUSES_FIRST else len(_CAUSES_FIRST)


def _gone(before: Scrape | None, after: Scrape) -> Iterator[Finding]:
    gone = [] if before is None else sorted(before.ranks.keys() - after.ranks.keys(), key=_in_order)
    if gone:
        many = len(gone) > 1
        shown = f"{'ranks' if many else 'rank'} {', '.join(gone)} no longer {'answer' if many else 'answers'}"
        yield Finding(
            "ScrapeGone",
            CRITICAL,
            f"{shown}: the process ended or hangs; see its log",
            share=1.0,
            ranks=tuple(gone),
        )


def _nothing(cases: Sequence[Case]) -> Finding:
    if cases:
        return Finding("NoProgress", INFO, "nothing happened in this window: leave more time between the scrapes")
    return Finding(
        "ScrapeGone",
        CRITICAL,
        "no data set is in these metrics: call streaming.start_metrics_server() in the process that makes the "
        "adapter, and read its URL",
    )


def _notes(before: Scrape | None, cases: Iterable[Case]) -> Iterator[str]:
    for case in cases:
        figures = case.figures
        if figures.is_since_start and before is not None:
            yield f"rank {figures.rank}, {figures.dataset}: it started after the first scrape; figures are since then"
        if figures.basis == "reads" and figures.steps:
            yield (
                f"rank {figures.rank}, {figures.dataset}: the trainer's steps are not measured, so shares are "
                "those of reads; iterate over streaming.monitor_stalls(dataloader), or use StreamingDataLoader"
            )


def _in_order(rank: str) -> tuple[bool, int, str]:
    return (not rank.isdecimal(), int(rank) if rank.isdecimal() else 0, rank)
