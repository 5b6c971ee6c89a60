"""The alerts use names that exist; each is shown to fire and to stay silent, and has a runbook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from streaming.monitoring.diagnosis import thresholds
from streaming.monitoring.metrics.families import FAMILIES, VALUES
from tests.prometheus import ALERTS, Tool, promtool, scaled

__all__ = ["promtool"]

REPOSITORY = ALERTS.parents[1]
TESTS = ALERTS.with_name("alerts_test.yml")
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]
RECORDED = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
ALERTING = [rule for rule in RULES if "alert" in rule]
NAMES = sorted({rule["alert"] for rule in ALERTING})
SECTIONS = ["What it means", "Why", "What to do", "How to see it got better"]

EXPOSED = {
    family.name + suffix: family
    for family in FAMILIES
    for suffix in (("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",))
}


def expressions() -> list[str]:
    """Return every expression of the rules."""
    return [rule["expr"] for rule in RULES]


def test_rules_are_valid(promtool: Tool) -> None:
    """Promtool accepts the rules."""
    done = promtool("check", "rules", ALERTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_do_what_their_tests_say(promtool: Tool) -> None:
    """Every case of alerts_test.yml passes: firing, thresholds, start-up, pauses, resolving."""
    done = promtool("test", "rules", TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_family_in_an_expression_exists_with_its_labels() -> None:
    """Rules use only metrics, labels and label values that the library exposes."""
    found = set()
    for expression in expressions():
        for name, matchers in re.findall(r"\b(streaming_\w+)(?:\{([^}]*)\})?", expression):
            found.add(name)
            labels = {*EXPOSED[name].labels, "rank"}
            for label, values in re.findall(r'(\w+)(?:=|!=|=~|!~)"([^"]*)"', matchers):
                assert label in labels, (name, label)
                assert set(values.split("|")) <= set(VALUES[label]), (name, label, values)
    assert len(found) > 15


def test_every_sum_keeps_labels_that_its_family_has() -> None:
    """`by` names labels of the family in the sum, or those that scraping adds."""
    checked = 0
    for expression in expressions():
        for labels, name in re.findall(r"by \(([^)]*)\) \((?:\w+\()?(streaming_\w+)", expression):
            assert {*labels.split(", ")} <= {*EXPOSED[name].labels, "rank", "job", "instance"}, (name, labels)
            checked += 1
    assert checked > 20


def test_every_shared_figure_is_recorded_and_used() -> None:
    """Every recorded figure that an expression uses exists, and every one that exists is used."""
    used = {name for expression in expressions() for name in re.findall(r"\bstreaming:[\w:]+", expression)}
    assert used == set(RECORDED)


JUDGED = {
    "StreamingTrainerWaiting": [thresholds.WAITING_SHARE, thresholds.WAITING_SHARE],
    "StreamingHitRateLow": [thresholds.LEAST_PREDICTED, thresholds.HIT_RATIO_SHARE],
    "StreamingCacheTooSmall": [
        thresholds.SMALL_CACHE_RATIO,
        thresholds.WAITING_SHARE,
        thresholds.EXPIRED_OF_FETCHED,
    ],
    "StreamingCacheExpiring": [thresholds.EXPIRED_OF_FETCHED, thresholds.EXPIRED_OF_READS],
    "StreamingSourceErrors": [thresholds.ERROR_SHARE],
    "StreamingBadSamples": [thresholds.BAD_SHARE],
    "StreamingPrefetchStarved": [thresholds.STARVED_SHARE, thresholds.WAITING_SHARE],
    "StreamingMemoryNearLimit": [thresholds.MEMORY_SHARE],
    "StreamingRankSlow": [thresholds.WAITING_SHARE],
}
"""Thresholds of `streaming doctor --live`, in the order in which the alert compares with them."""


@pytest.mark.parametrize("name", JUDGED)
def test_an_alert_fires_where_the_doctor_finds_something(name: str) -> None:
    """Alert and diagnosis have the same thresholds."""
    [expression] = [rule["expr"] for rule in ALERTING if rule["alert"] == name]
    assert [float(number) for number in re.findall(r"[<>]=? (0\.\d+)", expression)] == JUDGED[name]
    if name == "StreamingRankSlow":
        assert f"> {thresholds.SLOW_RANK_FACTOR:g} *" in expression


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_is_proven_to_fire_and_to_stay_silent(name: str) -> None:
    """The tests of the rules have a moment at which it fires, with its annotations, and one at which it does not."""
    cases = [
        case
        for test in yaml.safe_load(TESTS.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == name
    ]
    summaries = {alert["exp_annotations"]["summary"] for case in cases for alert in case["exp_alerts"]}
    assert summaries == {rule["annotations"]["summary"] for rule in ALERTING if rule["alert"] == name}
    assert any(not case["exp_alerts"] for case in cases)


@pytest.mark.parametrize("rule", ALERTING, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_an_alert_says_what_where_why_and_what_to_do(rule: dict[str, Any]) -> None:
    """Its annotations name the run, and its runbook has the four sections in order."""
    assert set(rule["annotations"]) == {"summary", "description", "cause", "runbook_url"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert "$labels.job" in rule["annotations"]["description"]
    page = (REPOSITORY / rule["annotations"]["runbook_url"]).read_text()
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == SECTIONS
    assert f"`{rule['alert']}`" in page


def test_every_runbook_belongs_to_an_alert() -> None:
    """There is no page for a removed alert, and the list of pages is complete."""
    pages = {rule["annotations"]["runbook_url"] for rule in ALERTING}
    listed = (REPOSITORY / "docs" / "runbooks" / "README.md").read_text()
    found = sorted((REPOSITORY / "docs" / "runbooks").glob("*.md"))
    assert pages == {str(page.relative_to(REPOSITORY)) for page in found if page.name != "README.md"}
    assert all(f"({Path(page).name})" in listed for page in pages)
    assert all(f"`{name}`" in listed for name in NAMES)


def test_runbooks_name_metrics_that_exist() -> None:
    """Every metric and every shared figure in a runbook exists."""
    for page in (REPOSITORY / "docs" / "runbooks").glob("*.md"):
        text = page.read_text()
        for name in re.findall(r"\bstreaming_[a-z_]+", text):
            assert name in EXPOSED, (page.name, name)
        for name in re.findall(r"\bstreaming:[a-z_:0-9]+", text):
            assert name in RECORDED, (page.name, name)


def test_scaled_rules_differ_in_durations_alone(promtool: Tool, tmp_path: Path) -> None:
    """Rules for a run that is 60 times as short have each `for` and each range 60 times as short."""
    target = scaled(ALERTS, 60, tmp_path / "short.yml")
    assert promtool("check", "rules", target).returncode == 0
    rules = [rule for group in yaml.safe_load(target.read_text())["groups"] for rule in group["rules"]]
    assert [rule.get("alert") for rule in rules] == [rule.get("alert") for rule in RULES]
    [low] = [rule for rule in rules if rule.get("alert") == "StreamingHitRateLow"]
    assert low["for"] == "15000ms"
    [wait] = [rule for rule in rules if rule.get("record") == "streaming:trainer_wait:ratio_rate5m"]
    assert wait["expr"] == RECORDED["streaming:trainer_wait:ratio_rate5m"].replace("[5m]", "[5000ms]")
