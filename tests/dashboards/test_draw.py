"""Pictures of dashboards, drawn from a real Prometheus that scraped a real run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dashboards import draw as drawing
from dashboards.colours import STAGE
from dashboards.draw import draw
from dashboards.drawing import LIGHT, text_of
from dashboards.generate import DASHBOARDS
from tests.dashboards.conftest import SCRAPE_S, Shown

MOST_BYTES = 150_000


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def has(path: Path, colour: str) -> bool:
    """Whether a picture has a patch of about this colour."""
    wanted = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)])
    return bool((np.abs(pixels(path) - wanted).max(axis=2) <= 12).sum() > 50)


@pytest.mark.parametrize("dashboard", DASHBOARDS)
def test_a_whole_dashboard_is_a_small_picture(shown: Shown, dashboard: str, tmp_path: Path) -> None:
    """Every kind of panel is drawn, into folders that are made, in fewer bytes than a document minds."""
    path = draw(shown.url, dashboard, shown.over.start, shown.over.end, tmp_path / "deep" / "x.png", scrape_s=SCRAPE_S)
    assert 10_000 < path.stat().st_size < MOST_BYTES
    height, width, _ = pixels(path).shape
    assert (width, height > 500) == (960, True)


def test_panels_are_chosen_by_title_and_stages_keep_their_colours(shown: Shown, tmp_path: Path) -> None:
    """One panel alone shows the time at work and the time that the source took, each in its colour."""
    start, end, title = shown.over.start, shown.over.end, "Where the trainer's time goes"
    path = draw(shown.url, "overview", start, end, tmp_path / "a.png", [title], {"rank": "0"}, scrape_s=SCRAPE_S)
    assert has(path, STAGE["source"])
    assert has(path, "#181b1f")
    light = draw(shown.url, "overview", start, end, tmp_path / "b.png", [title], look=LIGHT, scrape_s=SCRAPE_S)
    assert has(light, "#ffffff")
    assert not has(light, "#181b1f")


def test_what_has_no_data_is_drawn_without(shown: Shown, tmp_path: Path) -> None:
    """A range before the run gives empty panels, and no error."""
    for dashboard in DASHBOARDS:
        path = draw(shown.url, dashboard, shown.over.start - 600, shown.over.start - 300, tmp_path / "x.png")
        assert path.stat().st_size < MOST_BYTES


def test_what_cannot_be_drawn_is_named(shown: Shown, tmp_path: Path) -> None:
    """The error names the title, range or dashboard that was not found."""
    start, end, path = shown.over.start, shown.over.end, tmp_path / "x.png"
    with pytest.raises(ValueError, match="no panel is called Nonsense; there are Trainer waits, "):
        draw(shown.url, "overview", start, end, path, ["Nonsense"])
    with pytest.raises(ValueError, match="the range ends at"):
        draw(shown.url, "overview", end, start, path)
    with pytest.raises(FileNotFoundError):
        draw(shown.url, "nonsense", start, end, path)


def test_the_command_draws_or_says_why_not(shown: Shown, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 0 and a picture; 1 and a sentence where nothing answers."""
    path = tmp_path / "x.png"
    chosen = ["--end", str(shown.over.end), "--minutes", "0.1", "--scrape", str(SCRAPE_S), "--set", "rank=1", "--light"]
    assert drawing.main([shown.url, "cache", str(path), *chosen, "--panels", "Late reads ahead", "Samples held"]) == 0
    assert path.stat().st_size > 3_000
    assert drawing.main(["http://127.0.0.1:9", "cache", str(path)]) == 1
    assert "no Prometheus answers at http://127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.1234, "percentunit", "12.3 %"),
        (0.0042, "s", "4.2 ms"),
        (90, "s", "1.5 min"),
        (2**31, "bytes", "2 GiB"),
        (1.5e6, "Bps", "1.5 MB/s"),
        (0.25, "reqps", "0.25 req/s"),
        (12_000, "short", "12 K"),
        (float("nan"), "short", "no data"),
    ],
)
def test_numbers_have_their_units(value: float, unit: str, text: str) -> None:
    """Numbers are formatted as Grafana formats them."""
    assert text_of(value, unit) == text
