"""The generated dashboards are up to date and have what an engineer on call needs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dashboards import generate
from dashboards.colours import OUTCOME, STAGE
from dashboards.evaluate import board_of, panels_of
from dashboards.generate import DASHBOARDS
from dashboards.queries import selector
from streaming.monitoring.metrics.families import FAMILIES, VALUES
from streaming.telemetry.counters import OUTCOMES
from streaming.telemetry.stages import STAGES

REPOSITORY = Path(__file__).resolve().parents[2]
RUNBOOKS = REPOSITORY / "docs" / "runbooks"
NAMES = sorted(DASHBOARDS)
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
LABELS = {family.name + part: {*family.labels, "job", "rank"} for family in FAMILIES for part in SUFFIXES[family.kind]}
CHECK = [sys.executable, str(REPOSITORY / "dashboards" / "generate.py"), "--check"]


def expressions(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each query of a dashboard, with its place."""
    for panel in panels_of(board):
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for annotation in board["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]


def test_the_committed_files_are_fresh(tmp_path: Path) -> None:
    """`generate.py --check` passes without an error message, from any folder."""
    done = subprocess.run(CHECK, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stale_or_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dashboard that was edited by hand, or is missing, gives exit status 1 and a message that says what to run."""
    assert generate.main(["--folder", str(tmp_path)]) == 0
    assert generate.main(["--folder", str(tmp_path), "--check"]) == 0
    file = tmp_path / "cache.json"
    file.write_text(file.read_text().replace("Hit ratio", "Hit rate"))
    (tmp_path / "training.json").unlink()
    assert generate.main(["--folder", str(tmp_path), "--check"]) == 1
    assert "stale: cache, training; run python dashboards/generate.py" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_every_name_and_label_is_a_family_s(name: str) -> None:
    """Each selector names a listed family and labels that it has; other labels are those of an aggregation."""
    known = set().union(*LABELS.values()) | {"le"}
    for place, expression in expressions(board_of(name)):
        for metric, matchers in re.findall(r"\b(streaming_\w+)(?:\{([^}]*)\})?", expression):
            assert metric in LABELS, f"{place}: {metric}"
            assert set(re.findall(r"(\w+)=", matchers)) <= LABELS[metric], f"{place}: {metric}"
        grouped = re.findall(r"\b(?:by|on|ignoring) ?\(([^)]*)\)", expression)
        labels = {label.strip() for group in grouped for label in group.split(",")} - {""}
        assert labels <= known | {"alertstate"}, place


@pytest.mark.parametrize("name", NAMES)
def test_every_label_value_in_a_query_exists(name: str) -> None:
    """A matcher of an outcome, stage, state, reason or process names values that the label can have."""
    for place, expression in expressions(board_of(name)):
        for label, values in re.findall(r'(\w+)[!=]~"([^$"]*)"', expression):
            assert label not in VALUES or set(values.split("|")) <= set(VALUES[label]), f"{place}: {label}"


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_says_what_it_is_and_what_to_do(name: str) -> None:
    """Title, unit, description with what is normal and what to do, and a data source that can be chosen."""
    titles = [panel["title"] for panel in panels_of(board_of(name))]
    assert len(set(titles)) == len(titles)
    for panel in panels_of(board_of(name)):
        assert panel["title"]
        assert re.search(r"\S+\n\n\*\*Normal:\*\* \S.*\n\n\*\*If not:\*\* \S", panel["description"])
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_stable_and_panels_do_not_overlap(name: str) -> None:
    """The uid comes from the name, ids count the panels, and each place of the grid has one panel at most."""
    board = board_of(name)
    assert board["uid"] == f"streaming-{name}"
    assert "id" not in board
    assert [panel["id"] for panel in board["panels"]] == list(range(1, len(board["panels"]) + 1))
    taken: set[tuple[int, int]] = set()
    for grid in (panel["gridPos"] for panel in board["panels"]):
        left, top = grid.get("x", 0), grid.get("y", 0)
        cells = {(x, y) for x in range(left, left + grid["w"]) for y in range(top, top + grid["h"])}
        assert left + grid["w"] <= 24
        assert not cells & taken
        taken |= cells


@pytest.mark.parametrize("name", NAMES)
def test_every_dashboard_has_the_same_frame(name: str) -> None:
    """Variables with several values and all, links to the others and the runbooks, marks, a refresh of a minute."""
    board = board_of(name)
    variables = {each["name"]: each for each in board["templating"]["list"]}
    assert [*variables] == ["datasource", "job", "dataset", "rank", "source", "runbooks"]
    for each in ("job", "dataset", "rank", "source"):
        assert variables[each]["multi"]
        assert variables[each]["includeAll"]
        assert variables[each]["allValue"] == ".*"
    assert [link["title"] for link in board["links"]] == ["Streaming", "Runbooks"]
    assert [each["name"] for each in board["annotations"]["list"]] == ["Alerts", "Starts"]
    assert board["refresh"] in ("30s", "1m")
    assert board["schemaVersion"] >= 36
    assert board["tags"] == ["streaming"]


@pytest.mark.parametrize("name", NAMES)
def test_links_of_panels_lead_somewhere(name: str) -> None:
    """Each link goes to another of these dashboards, or to the runbook of an alert."""
    for panel in panels_of(board_of(name)):
        for link in panel.get("links") or ():
            board = re.fullmatch(r"/d/streaming-(\w+)", link["url"])
            page = re.fullmatch(r"\$\{runbooks\}/([a-z-]+\.md)", link["url"])
            is_page = page is not None and (RUNBOOKS / page[1]).is_file()
            assert is_page or (board and board[1] in DASHBOARDS), link["url"]


def test_a_stage_has_one_colour_everywhere() -> None:
    """Each stage, and busy, has the same colour in every panel, and no two share one."""
    assert set(STAGE) == {*STAGES, "busy"}
    assert len(set(STAGE.values())) == len(STAGE)
    assert set(OUTCOME) == set(OUTCOMES)
    drawn = set()
    for name in NAMES:
        for panel in panels_of(board_of(name)):
            for each in panel["fieldConfig"]["overrides"]:
                stage = each["matcher"]["options"]
                if stage in STAGE and "{{stage}}" in [target["legendFormat"] for target in panel["targets"]]:
                    assert [part["value"]["fixedColor"] for part in each["properties"]] == [STAGE[stage]]
                    drawn.add(stage)
    assert drawn == set(STAGE)


def test_an_unknown_family_or_label_is_refused() -> None:
    """A selector refuses an unknown family, and a label that the family does not have."""
    with pytest.raises(KeyError, match="nonsense"):
        selector("nonsense")
    with pytest.raises(ValueError, match=r"reads has no label \['stage'\]"):
        selector("reads", stage="source")
