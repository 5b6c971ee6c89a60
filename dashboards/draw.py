"""Draw a dashboard from a Prometheus as one picture, for documents and where there is no Grafana.

    python dashboards/draw.py http://127.0.0.1:9090 overview overview.png
    python dashboards/draw.py http://127.0.0.1:9090 overview waits.png --panels "Where the trainer's time goes" --light

Panels stand where the dashboard has them, with its colours, units and thresholds; those named with `--panels` alone
flow from left to right. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))  # run as a file, Python looks into this folder alone

import matplotlib as mpl  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from dashboards.drawing import DARK, LIGHT, Look, draw_panel  # noqa: E402
from dashboards.evaluate import PrometheusError, Range, Values, ask, board_of, panels_of  # noqa: E402

__all__ = ["draw", "main"]

COLUMNS: Final = 24
"""Columns of Grafana's grid."""

WIDTH_IN: Final = 12.0
ROW_IN: Final = 0.3
DOTS_PER_INCH: Final = 80
POINTS: Final = 240
"""Points in a line: about one per four dots of a panel that takes a third of the width."""


def draw(
    prometheus_url: str,
    dashboard: str,
    start: float,
    end: float,
    path: str | Path,
    panels: Sequence[str] | None = None,
    variables: Values | None = None,
    *,
    look: Look = DARK,
    scrape_s: float = 1.0,
) -> Path:
    """Draw the panels of a dashboard to a PNG; returns its path. Folders are made.

    Args:
        prometheus_url: such as http://127.0.0.1:9090.
        dashboard: name of the file without its suffix: overview, sources, cache, training.
        start, end: seconds since 1970.
        panels: titles of those to draw; None is all.
        variables: values of the dashboard's variables, one or several each; what is missing has all.
        look: colours of the page.
        scrape_s: seconds between two scrapes, which a rate must span.

    Raises:
        PrometheusError: no answer, or a query that it refuses.
        ValueError: no panel has such a title, or the range is empty.
        FileNotFoundError: no such dashboard.
    """
    if not start < end:
        raise ValueError(f"the range ends at {end:.0f}, not after its start at {start:.0f}")
    over = Range(start, end, max((end - start) / POINTS, scrape_s), scrape_s)
    placed = _placed(list(panels_of(board_of(dashboard))), panels)
    height = max(y + h for _, (_, y, _, h) in placed)
    figure = Figure((WIDTH_IN, height * ROW_IN + 0.15), dpi=DOTS_PER_INCH, facecolor=look.page)
    for panel, (x, y, w, h) in placed:
        answers = [
            (target, ask(prometheus_url.rstrip("/"), target, variables or {}, over)) for target in panel["targets"]
        ]
        gap_x, gap_y = 0.08 / WIDTH_IN, 0.08 / figure.get_figheight()
        place = (x / COLUMNS + gap_x / 2, 1 - (y + h) / height + gap_y / 2, w / COLUMNS - gap_x, h / height - gap_y)
        draw_panel(figure, place, panel, answers, over, look)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _save(figure, target)
    return target


def _placed(panels: list[dict[str, Any]], titles: Sequence[str] | None) -> list[tuple[dict[str, Any], tuple[int, ...]]]:
    """Panels with x, y, width and height on the grid, from above, without the rows between them."""
    if titles is None:
        tops = sorted({panel["gridPos"]["y"] for panel in panels})
        heights = [max(panel["gridPos"]["h"] for panel in panels if panel["gridPos"]["y"] == top) for top in tops]
        y_of = {top: sum(heights[:number]) for number, top in enumerate(tops)}
        grids = [panel["gridPos"] for panel in panels]
        places: list[tuple[int, ...]] = [(grid.get("x", 0), y_of[grid["y"]], grid["w"], grid["h"]) for grid in grids]
        return list(zip(panels, places, strict=True))
    by_title = {panel["title"]: panel for panel in panels}
    if missing := [title for title in titles if title not in by_title]:
        raise ValueError(f"no panel is called {', '.join(missing)}; there are {', '.join(by_title)}")
    placed: list[tuple[dict[str, Any], tuple[int, ...]]] = []
    x = y = tallest = 0
    for panel in (by_title[title] for title in titles):
        width, height = panel["gridPos"]["w"], panel["gridPos"]["h"]
        if x + width > COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        placed.append((panel, (x, y, width, height)))
        x, tallest = x + width, max(tallest, height)
    return placed


def _save(figure: Figure, path: Path) -> None:
    """Save the figure with a palette of 128 colours, which makes the file three times smaller."""
    with mpl.rc_context({"savefig.facecolor": figure.get_facecolor()}):
        figure.savefig(path, metadata={"Software": None})
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Draw a dashboard from a Prometheus as a PNG.")
    parser.add_argument("url", help="of the Prometheus")
    parser.add_argument("dashboard", help="overview, sources, cache or training")
    parser.add_argument("path", help="of the picture")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the range that ends now, or at --end")
    parser.add_argument("--end", type=float, default=None, help="in seconds since 1970; default now")
    parser.add_argument("--panels", nargs="+", default=None, metavar="TITLE", help="only these, in this order")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="values of variables")
    parser.add_argument("--scrape", type=float, default=15.0, help="seconds between two scrapes")
    parser.add_argument("--light", action="store_true", help="on white")
    chosen = parser.parse_args(arguments)
    end = time.time() if chosen.end is None else chosen.end
    start = end - 60 * chosen.minutes
    variables = dict(pair.split("=", 1) for pair in chosen.set)
    look = LIGHT if chosen.light else DARK
    try:
        draw(
            chosen.url,
            chosen.dashboard,
            start,
            end,
            chosen.path,
            chosen.panels,
            variables,
            look=look,
            scrape_s=chosen.scrape,
        )
    except (PrometheusError, ValueError, FileNotFoundError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
