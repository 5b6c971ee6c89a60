"""The routes of alerts, checked with Alertmanager's own tool."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.prometheus import ALERTS, Tool, amtool

__all__ = ["amtool"]

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "alertmanager.yml"


def test_config_is_valid(amtool: Tool) -> None:
    """Amtool accepts the configuration."""
    done = amtool("check-config", CONFIG)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("severity", "receiver"), [("critical", "oncall"), ("warning", "team"), ("info", "discard")])
def test_the_severity_of_an_alert_chooses_its_receiver(amtool: Tool, severity: str, receiver: str) -> None:
    """Critical alerts page, warnings go to the team, information is discarded."""
    done = amtool("config", "routes", "test", f"--config.file={CONFIG}", f"severity={severity}")
    assert done.stdout.strip() == receiver


def test_what_is_silenced_by_another_alert_exists() -> None:
    """An inhibiting alert and the inhibited one exist, and share the labels that are compared."""
    tests = yaml.safe_load(ALERTS.with_name("alerts_test.yml").read_text())["tests"]
    labels = {
        case["alertname"]: set(alert["exp_labels"])
        for test in tests
        for case in test["alert_rule_test"]
        for alert in case["exp_alerts"]
    }
    inhibitions = yaml.safe_load(CONFIG.read_text())["inhibit_rules"]
    assert len(inhibitions) == 4
    for inhibition in inhibitions:
        for matcher in inhibition["source_matchers"][:1] + inhibition["target_matchers"][:1]:
            for name in matcher.partition("=")[2].strip('~"').split("|"):
                assert set(inhibition["equal"]) <= labels[name]
