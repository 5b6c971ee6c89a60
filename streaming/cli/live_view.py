"""`streaming doctor --live` and `streaming top`: what a run's metrics say about who makes its trainer wait."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import typer

from streaming.cli.exit_codes import FAILED
from streaming.cli.rank_table import rank_table, verdict_text
from streaming.cli.scraping import Scraper
from streaming.cli.show import print_json
from streaming.core.masking import mask_secrets
from streaming.monitoring.diagnosis import Scrape, Verdict, judge

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live

__all__ = ["examine_live", "show_top"]

REFRESH_S = 1.0


def examine_live(targets: Sequence[str], seconds: float, as_json: bool) -> None:
    """Judge what happens in so many seconds, and print the verdict; with 0 s, what happened since the start.

    Raises:
        typer.Exit: FAILED, if something must change.
        StreamingError: the metrics cannot be read.
    """
    scraper = Scraper(targets)
    verdict = _judge_once(scraper, seconds)
    if as_json:
        print_json({**verdict.as_json(), "urls": [mask_secrets(url) for url in scraper.urls]})
    else:
        _console().print(verdict_text(verdict), rank_table(verdict.figures))
    if not verdict.is_fine:
        raise typer.Exit(FAILED)


def _judge_once(scraper: Scraper, seconds: float) -> Verdict:
    first, started = scraper.first(), time.monotonic()
    if not seconds:
        return judge(None, first)
    time.sleep(seconds)
    again = scraper.again()
    return judge(first, again, time.monotonic() - started)


def _console() -> Console:
    """Where the output is no terminal its lines are not folded: they are for programs and files then."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=10_000, soft_wrap=True)


def show_top(targets: Sequence[str], seconds: float, once: bool, as_json: bool) -> None:
    """A screen of what happened in the last so many seconds, drawn anew each second until Ctrl-C.

    Where the output is no terminal, or with JSON, frames follow each other. `once` prints one and ends.

    Raises:
        StreamingError: the metrics cannot be read at the beginning.
    """
    scraper, console = Scraper(targets), _console()
    if once:
        _print_frame(console, _judge_once(scraper, seconds), as_json)
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
