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
    """Show the verdict on the last seconds, updated every second until Ctrl-C.

    If the output is not a terminal, or with JSON, frames follow each other. `once` prints one and ends.

    Raises:
        StreamingError: the metrics cannot be read at the start.
    """
    scraper, console = Scraper(targets), open_console()
    if once:
        _print_frame(console, judge_window(scraper, seconds), as_json)
        return
    scrapes = deque([(time.monotonic(), scraper.first())])
    with _screen(console, as_json) as screen:
        while True:
            verdict = _newest(scrapes)
            if screen is None:
                _print_frame(console, verdict, as_json)
            else:
                screen.update(_frame(verdict), refresh=True)
            time.sleep(REFRESH_S)
            scrapes.append((time.monotonic(), scraper.again()))
            while len(scrapes) > 2 and scrapes[-1][0] - scrapes[1][0] >= seconds:
                scrapes.popleft()


def _newest(scrapes: deque[tuple[float, Scrape]]) -> Verdict:
    (began, before), (ended, after) = scrapes[0], scrapes[-1]
    return judge(None if len(scrapes) == 1 else before, after, ended - began)


def _screen(console: Console, as_json: bool) -> AbstractContextManager[Live | None]:
    """Open the alternate screen of the terminal, which leaves the first as it was; None without a terminal."""
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
