"""`streaming doctor --live`: diagnose from its metrics what makes the trainer of a run wait."""

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
    """Print the verdict on a window of some seconds, or on the time since the start for 0.

    Raises:
        typer.Exit: FAILED, if something must be changed.
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
    """Wait for a window of some seconds and return the verdict on it; for 0, on the time since the start."""
    first, started = scraper.first(), time.monotonic()
    if not seconds:
        return judge(None, first)
    time.sleep(seconds)
    again = scraper.again()
    return judge(first, again, time.monotonic() - started)
