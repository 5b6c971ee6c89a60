"""Verdict for people: its figures as a table, one row per rank and data set, and its findings as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from streaming.cli.printing import human_bytes
from streaming.core.escaping import escaped
from streaming.monitoring.diagnosis import Figures, Verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

__all__ = ["open_console", "rank_table", "verdict_text"]

_BAR = 10  # cells of a full bar
_STYLES = {"critical": "bold red", "warning": "yellow", "info": "green"}


def open_console() -> Console:
    """Return a console that wraps lines only on a terminal, not in files and pipes."""
    from rich.console import Console

    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=10_000, soft_wrap=True)


def rank_table(figures: Sequence[Figures]) -> Table:
    """Return a table of throughput, waits, cache hits, read-ahead, memory and circuit breakers."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("rank")
    table.add_column("data set")
    for heading in ("samples/s", "waits"):
        table.add_column(heading, justify="right")
    table.add_column("most for")
    for heading in ("hits/predicted", "from sources", "in flight/depth", "memory"):
        table.add_column(heading, justify="right")
    table.add_column("breaker")
    for each in figures:
        table.add_row(*(Text(escaped(cell)) for cell in _cells(each)))  # as Text, since labels could hold markup
    return table


def _cells(figures: Figures) -> tuple[str, ...]:
    top = figures.top_stage
    share = figures.stages[top]
    return (
        figures.rank,
        figures.dataset,
        f"{figures.samples_per_s:.0f}" if figures.samples_per_s >= 10 else f"{figures.samples_per_s:.2g}",
        f"{figures.waited * 100:.0f} %",
        f"{_bar(share)} {top} {share * 100:.0f} %" if share else "-",
        f"{_percent(figures.hit_ratio)}/{_percent(figures.predicted_hit_ratio)}",
        f"{human_bytes(figures.bytes_per_s)}/s",
        f"{_number(figures.in_flight)}/{_number(figures.depth)}",
        human_bytes(figures.memory_bytes),
        ", ".join(f"{source} {state}" for source, state in figures.breakers.items()) or "closed",
    )


def _bar(share: float) -> str:
    filled = min(_BAR, round(share * _BAR))
    return "█" * filled + "░" * (_BAR - filled)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share * 100:.0f} %"


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:.0f}"


def verdict_text(verdict: Verdict) -> Text:
    """Return the findings, the most important first, and the notes, one per line."""
    from rich.text import Text

    text = Text()
    for finding in verdict.findings:
        text.append(escaped(f"{finding.severity} {finding.code}"), style=_STYLES[finding.severity])
        text.append(f"  {escaped(finding.sentence)}\n")
    for note in verdict.notes:
        text.append(f"note  {escaped(note)}\n", style="dim")
    return text
