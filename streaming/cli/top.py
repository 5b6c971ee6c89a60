"""`streaming top`: what the ranks of a run wait for, drawn each second."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from streaming.cli.doctor_live import judge_window
from streaming.cli.printing import print_json
from streaming.cli.scraping import Scraper
from streaming.cli.verdict_view import open_console, rank_table, verdict_text
from streaming.monitoring.diagnosis import Scrape, Verdict, judge

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live

__all__ = ["show_top"]

REFRESH_S = 1.0


def show_top(targets: Sequence[str], seconds: float, once: bool, as_json: bool) -> None:
    """A screen of what happened in the last so many seconds, drawn anew each second until Ctrl-C.

    Where the output is no terminal, or with JSON, frames follow each other. `once` prints one and ends.

    Raises:
        StreamingError: the metrics cannot be read at the beginning.
    """
    scraper, console = Scraper(targets), open_console()
    if once:
        _print_frame(console, judge_window(scraper, seconds), as_json)
        return
    held = deque([(time.monotonic(), scraper.first())])
    with _screen(console, as_json) as screen:
        while True:
            verdict = _newest(held)
            if screen is None:
                _print_frame(console, verdict, as_json)
            else:
                screen.update(_frame(verdict), refresh=True)
            time.sleep(REFRESH_S)
            held.append((time.monotonic(), scraper.again()))
            while len(held) > 2 and held[-1][0] - held[1][0] >= seconds:
                held.popleft()


def _newest(held: deque[tuple[float, Scrape]]) -> Verdict:
    (began, before), (ended, after) = held[0], held[-1]
    return judge(None if len(held) == 1 else before, after, ended - began)


def _screen(console: Console, as_json: bool) -> AbstractContextManager[Live | None]:
    """The other screen of the terminal, which leaves the first as it was; None where there is none."""
    from rich.live import Live

    if as_json or not console.is_terminal:
        return nullcontext()
    return Live(console=console, screen=True, auto_refresh=False)


def _frame(verdict: Verdict) -> Group:
    from rich.console import Group

    return Group(rank_table(verdict.figures), "", verdict_text(verdict))


def _print_frame(console: Console, verdict: Verdict, as_json: bool) -> None:
    if as_json:
        print_json(verdict.as_json())
    else:
        console.print(_frame(verdict))
