"""`streaming doctor --live`: what a run's metrics say about who makes its trainer wait."""

from __future__ import annotations

import time
from collections.abc import Sequence

import typer

from streaming.cli.exit_codes import FAILED
from streaming.cli.printing import print_json
from streaming.cli.scraping import Scraper
from streaming.cli.verdict_view import open_console, rank_table, verdict_text
from streaming.core.masking import mask_secrets
from streaming.monitoring.diagnosis import Verdict, judge

__all__ = ["examine_live", "judge_window"]


def examine_live(targets: Sequence[str], seconds: float, as_json: bool) -> None:
    """Judge what happens in so many seconds, and print the verdict; with 0 s, what happened since the start.

    Raises:
        typer.Exit: FAILED, if something must change.
        StreamingError: the metrics cannot be read.
    """
    scraper = Scraper(targets)
    verdict = judge_window(scraper, seconds)
    if as_json:
        print_json({**verdict.as_json(), "urls": [mask_secrets(url) for url in scraper.urls]})
    else:
        open_console().print(verdict_text(verdict), rank_table(verdict.figures))
    if not verdict.is_fine:
        raise typer.Exit(FAILED)


def judge_window(scraper: Scraper, seconds: float) -> Verdict:
    first, started = scraper.first(), time.monotonic()
    if not seconds:
        return judge(None, first)
    time.sleep(seconds)
    again = scraper.again()
    return judge(first, again, time.monotonic() - started)
