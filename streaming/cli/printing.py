"""Output of commands: text for people without terminal control characters, and JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import typer

from streaming.core.escaping import escaped

__all__ = ["Columns", "human_bytes", "print_json", "print_line", "with_progress"]

T = TypeVar("T")


def print_line(text: str, *, to_stderr: bool = False) -> None:
    """Print one line for people; control characters in it are escaped."""
    typer.echo(escaped(text), err=to_stderr)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON to standard output."""
    typer.echo(json.dumps(value, default=str))


def human_bytes(number: float) -> str:
    """Return bytes in units of 1000: `999 B`, `1.2 kB`, `3.4 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def with_progress(items: Iterable[T], total: int, unit: str) -> Iterator[T]:
    """Yield items, with a progress bar on standard error if it is a terminal."""
    from tqdm import tqdm

    with tqdm(items, total=total, unit=unit, file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as bar:
        yield from bar


class Columns:
    """Table that prints each row as soon as it is known.

    Args:
        headings: one per column; a column is at least as wide as its heading.
        width: least width of a column.
        to_stderr: print to standard error, which leaves standard output to JSON.
    """

    def __init__(self, headings: Sequence[str], width: int = 8, *, to_stderr: bool = False) -> None:
        from rich.console import Console

        self._headings = headings
        self._widths = [max(len(heading), width) for heading in headings]
        self._console = Console(stderr=to_stderr, highlight=False, width=sum(self._widths) + 2 * len(headings))
        self._has_begun = False

    def add(self, *cells: str, style: str | None = None) -> None:
        """Print one row, the first one below the headings."""
        from rich.table import Table

        table = Table(box=None, show_header=not self._has_begun, header_style="bold", pad_edge=False)
        for position, (heading, width) in enumerate(zip(self._headings, self._widths, strict=True)):
            table.add_column(heading, justify="left" if position == 0 else "right", min_width=width, max_width=width)
        table.add_row(*cells, style=style)
        self._console.print(table)
        self._has_begun = True
