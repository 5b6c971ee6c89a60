"""Findings of many ranks as those of the run: a slow rank is named, and common findings are joined."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from streaming.monitoring.diagnosis.finding import WARNING, Case, Finding, percent
from streaming.monitoring.diagnosis.thresholds import SLOW_RANK_FACTOR, WAITING_SHARE

__all__ = ["joined", "slow_ranks"]

_SHOWN = 4  # ranks in a message


def slow_ranks(found: Sequence[tuple[Case, Sequence[Finding]]]) -> list[Finding]:
    """Return findings for ranks that wait much longer than the others on average, each with its cause."""
    by_dataset: dict[str, list[tuple[Case, Sequence[Finding]]]] = defaultdict(list)
    for case, findings in found:
        by_dataset[case.figures.dataset].append((case, findings))
    slow = []
    for of_one in by_dataset.values():
        for case, findings in of_one:
            others = [_waited(other) for other, _ in of_one if other is not case]
            share = _waited(case)
            usual = fmean(others) if others else share
            if share > WAITING_SHARE and share > SLOW_RANK_FACTOR * usual:
                slow.append(_slow(case, findings, share, usual))
    return slow


def _waited(case: Case) -> float:
    return 1.0 if case.is_stuck else case.figures.waited


def _slow(case: Case, findings: Sequence[Finding], share: float, usual: float) -> Finding:
    figures = case.figures
    cause = max(findings, key=lambda finding: finding.share, default=None)
    why = f": {cause.sentence}" if cause is not None and cause.share else ""
    sentence = (
        f"rank {figures.rank} slows down the others, it waits {percent(share)} of {figures.whole} and they wait "
        f"{percent(usual)}{why}"
    )
    severity = cause.severity if cause is not None else WARNING
    return Finding("RankSlow", severity, sentence, share, (figures.rank,), figures.dataset)


def joined(findings: Sequence[Finding], ranks: Sequence[str], datasets: Sequence[str]) -> list[Finding]:
    """Join findings of the same code and data set, in the words of the rank with the highest cost.

    Args:
        findings: findings of single ranks.
        ranks, datasets: all of the run; a single one is not named.
    """
    groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.code, finding.dataset].append(finding)
    return [_join(group, ranks, datasets) for group in groups.values()]


def _join(group: Sequence[Finding], ranks: Sequence[str], datasets: Sequence[str]) -> Finding:
    worst = max(group, key=lambda finding: finding.share)
    held = tuple(dict.fromkeys(rank for finding in group for rank in finding.ranks))
    whose = [worst.dataset] if len(datasets) > 1 and worst.dataset else []
    if len(ranks) > 1 and worst.code != "RankSlow":
        whose.append(_named(held, ranks, worst.ranks))
    prefix = f"{', '.join(whose)}: " if whose else ""
    return replace(worst, sentence=f"{prefix}{worst.sentence}", ranks=held)


def _named(held: Sequence[str], ranks: Sequence[str], worst: Sequence[str]) -> str:
    if len(held) == 1:
        return f"rank {held[0]}"
    shown = ", ".join(held[:_SHOWN]) + (", ..." if len(held) > _SHOWN else "")
    who = f"all {len(ranks)} ranks" if len(held) == len(ranks) else f"ranks {shown}"
    return f"{who} (most in rank {worst[0]})"
