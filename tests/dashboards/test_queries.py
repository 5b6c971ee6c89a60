"""Every query of every dashboard, run on a real Prometheus that scraped a real run."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from dashboards.evaluate import PrometheusError, Range, ask, board_of, panels_of, substituted
from dashboards.frame import VARIABLES
from dashboards.generate import DASHBOARDS
from tests.dashboards.conftest import DAMAGED, DATASET, Shown
from tests.prometheus import query

PANELS = [(name, panel) for name in DASHBOARDS for panel in panels_of(board_of(name))]


def values(shown: Shown, dashboard: str, title: str, place: int = 0) -> dict[str, list[float]]:
    """Run one query of a panel; return the values of each series by its label values, joined by spaces."""
    panel = next(panel for name, panel in PANELS if name == dashboard and panel["title"] == title)
    series = ask(shown.url, panel["targets"][place], shown.variables, shown.over)
    return {" ".join(each.labels.values()): [v for v in each.values if math.isfinite(v)] for each in series}


@pytest.mark.parametrize("dashboard", DASHBOARDS)
def test_every_query_gives_data(shown: Shown, dashboard: str) -> None:
    """No panel is empty on a run that has everything: each query gives a series with a number in it."""
    empty = [
        f"{panel['title']}: {target['expr']}"
        for panel in panels_of(board_of(dashboard))
        for target in panel["targets"]
        if not any(math.isfinite(v) for s in ask(shown.url, target, shown.variables, shown.over) for v in s.values)
    ]
    assert empty == []


@pytest.mark.parametrize("dashboard", DASHBOARDS)
def test_every_query_gives_the_same_kind_of_data_for_all_values(shown: Shown, dashboard: str) -> None:
    """With every variable at All, as a dashboard opens, no panel is empty either."""
    empty = [
        panel["title"]
        for panel in panels_of(board_of(dashboard))
        for target in panel["targets"]
        if not ask(shown.url, target, {}, shown.over)
    ]
    assert empty == []


def test_every_variable_has_its_values(shown: Shown) -> None:
    """Grafana offers the values that the run had."""
    found = {}
    for name, (_, text) in VARIABLES.items():
        series, label = text.removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
        asked = substituted(series, shown.variables, shown.over)
        found[name] = {sample.labels[label] for sample in query(shown.url, f"last_over_time({asked}[10m])")}
    assert found == {"job": {"trainer"}, "dataset": {DATASET}, "rank": {"0", "1"}, "source": {"primary", "mirror"}}


def test_the_annotations_mark_starts_and_alerts(shown: Shown) -> None:
    """Both queries give something, and the start is a time in milliseconds within the last hour of the run."""
    alerts, starts = board_of("overview")["annotations"]["list"]
    over = shown.over
    assert ask(shown.url, alerts, shown.variables, over)[0].labels["alertname"] == "StreamingBadSamples"
    for start in ask(shown.url, starts, shown.variables, over):
        assert over.end - 3600 < start.values[-1] / 1000 <= over.end


def test_the_stages_and_busy_are_all_of_the_time(shown: Shown) -> None:
    """At each point of the stack the parts add up to one."""
    busy = values(shown, "overview", "Where the trainer's time goes", 0)
    waits = values(shown, "overview", "Where the trainer's time goes", 1)
    assert set(busy) == {""}
    assert "source" in waits
    for parts in zip(busy[""], *waits.values(), strict=True):
        assert sum(parts) == pytest.approx(1)


def test_what_went_wrong_is_on_the_overview(shown: Shown) -> None:
    """The dead replica is shown failing, excluded and replaced; the alert is listed with its start, to the second."""
    assert 2 in values(shown, "overview", "Breakers")["primary"]
    assert 0 in values(shown, "overview", "Breakers")["mirror"]
    assert max(max(each) for each in values(shown, "overview", "Failed requests per second").values()) > 0
    assert max(values(shown, "sources", "Failed requests by source")["primary"]) > 0
    firing = values(shown, "overview", "Firing alerts")
    assert len(firing) == len(shown.variables["rank"])
    assert all("StreamingBadSamples" in labels for labels in firing)
    assert all(int(shown.over.start) * 1000 <= since <= shown.over.end * 1000 for (since,) in firing.values())
    assert values(shown, "overview", "Alerts firing") == {"": [2]}


def test_what_went_wrong_is_on_the_other_dashboards(shown: Shown) -> None:
    """Panels show reads that another replica served, replaced samples, and expired samples."""
    assert max(values(shown, "sources", "Reads failed over")[""]) > 0
    assert values(shown, "training", "Bad samples") == {"": [2 * DAMAGED]}
    assert max(values(shown, "cache", "Evictions by reason")["ttl"]) > 0
    assert {*values(shown, "training", "Samples per second by rank")} == {"0", "1"}


def test_a_quiet_list_of_alerts_says_so(shown: Shown) -> None:
    """Before anything fires the list has one row, none, and the tile a 0."""
    early = replace(shown, over=replace(shown.over, start=shown.over.start - 60, end=shown.over.start - 1))
    assert list(values(early, "overview", "Firing alerts")) == ["none"]
    assert values(early, "overview", "Alerts firing") == {"": [0]}


def test_a_prometheus_that_refuses_or_does_not_answer_is_named(shown: Shown) -> None:
    """The error names the query, or the URL that did not answer."""
    target: dict[str, Any] = {"expr": "sum(", "instant": True}
    with pytest.raises(PrometheusError, match=r"sum\(: .*parse error"):
        ask(shown.url, target, {}, shown.over)
    with pytest.raises(PrometheusError, match=r"no Prometheus answers at http://127\.0\.0\.1:9"):
        ask("http://127.0.0.1:9", target, {}, shown.over)


def test_variables_are_put_in_as_grafana_does() -> None:
    """One value as it is, several as alternatives, none as any; intervals with their units."""
    over = Range(start=0, end=600, step_s=2.5, scrape_s=15)
    text = 'x{job=~"$job",rank=~"${rank}",source=~"$source"}[$__rate_interval] y[$__range] z[$__interval]'
    assert substituted(text, {"job": "a", "rank": ["0", "1"]}, over) == (
        'x{job=~"a",rank=~"(0|1)",source=~".*"}[60000ms] y[600s] z[2500ms]'
    )
