"""A run degrades: the alert arrives and is resolved, and the verdict names each fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from streaming.cli.scraping import Scraper
from streaming.monitoring.diagnosis import Scrape, Verdict, judge, parse
from streaming.monitoring.metrics import Collector, start_metrics_server
from tests.calm import calmly
from tests.fault_settings import FAULTS, HEALTHY, Fault
from tests.faulty_runs import WARM_UP_STEPS, Training, started
from tests.prometheus import ALERTS, Prometheus, prometheus, scaled

__all__ = ["prometheus"]

SHORTER = 150
"""Rules take this many times less: 10 minutes are 4 s, and rates over 5 minutes are over 8 scrapes."""


def test_an_alert_fires_while_the_source_is_slow_and_resolves_after(
    prometheus: Callable[..., Prometheus], tmp_path: Path
) -> None:
    """Alertmanager gets the alert while the source is slow, and its resolution afterwards."""
    healthy = replace(HEALTHY, ahead=16)  # few samples are ready by the time the source turns slow
    slow = replace(healthy, line_s=0.03)
    rules = scaled(ALERTS, SHORTER, tmp_path / "alerts.yml")
    with Training(healthy) as run, start_metrics_server(0, registry=CollectorRegistry()) as metrics:
        run.await_steps(5)
        server = prometheus(targets=[f"127.0.0.1:{metrics.port}"], rules=[rules], job="run", INTERVAL="250ms")
        server.await_query("streaming:trainer_wait_total:ratio_rate5m < 0.05")
        run.change(slow)
        fired = server.receiver.await_alert("StreamingTrainerWaiting", "firing", stage="source")
        assert fired["labels"].items() >= {"job": "run", "dataset": "train", "rank": "0"}.items()
        assert fired["annotations"]["runbook_url"] == "docs/runbooks/trainer-waiting.md"
        run.change(healthy)
        server.receiver.await_alert("StreamingTrainerWaiting", "resolved", stage="source")


ALONE = [name for name, fault in FAULTS.items() if fault.ranks == 1]
LOOKED_AT = 12
"""Steps between the two scrapes."""
LOOKS = 100
"""At most. One in which the machine did not let the trainer work as planted, by its own clock, does not count: reading
ahead may take the interpreter's lock from it for the first seconds where coverage slows everything down."""
AGREE = 3
"""Looks that must agree: other work of the machine can take a few milliseconds from a stage in one of them."""


@pytest.mark.parametrize("name", ALONE)
def test_the_verdict_names_the_planted_fault(name: str) -> None:
    """Two scrapes of a run with a fault are enough to name it; three such looks agree before any other three do."""
    fault = FAULTS[name]
    registry = CollectorRegistry()
    registry.register(Collector())
    named: dict[str, list[Verdict]] = {}
    with Training(fault.setting) as run:
        looked = run.await_steps(WARM_UP_STEPS + fault.first_pass)
        for look in range(LOOKS):
            began, before = looked, _scrape(registry)
            looked = run.await_steps(began.steps + LOOKED_AT)
            verdict = judge(before, _scrape(registry))
            made = looked.since(began)
            planned_s = made.steps * fault.setting.step_s
            is_as_planned = made.busy < 1.1 * planned_s and made.collated < 0.02 * planned_s
            if is_as_planned or look >= LOOKS - AGREE:
                same = named.setdefault(verdict.findings[0].code, [])
                same.append(verdict)
                if len(same) == AGREE:
                    break
    most = max(named.values(), key=len)
    assert most[0].findings[0].code == fault.code, named
    assert all(verdict.is_fine == (fault.code == "TrainerBound") for verdict in most)


def test_the_verdict_names_the_slow_rank() -> None:
    """The slow one of three processes that synchronize at every step is named, with its source."""
    with started(FAULTS["slow-rank"]) as processes:
        scraper = Scraper([process.address for process in processes])

        def look() -> Verdict:
            before = scraper.first()
            processes[1].await_steps(LOOKED_AT)
            return judge(before, scraper.again())

        verdict = calmly(look)
    assert verdict.findings[0].code == "RankSlow", verdict.findings
    assert verdict.findings[0].ranks == ("1",)
    assert ": source " in verdict.sentence


def _scrape(registry: CollectorRegistry) -> Scrape:
    return parse(generate_latest(registry).decode())


REPOSITORY = Path(__file__).resolve().parents[1]
WALK_THROUGH = REPOSITORY / "docs" / "howto" / "debug-stalls.md"
MOST_BYTES = 60_000


@pytest.mark.parametrize("fault", FAULTS.values(), ids=lambda fault: fault.name)
def test_the_walk_through_shows_each_fault(fault: Fault) -> None:
    """The page for the person on duty has the picture of each fault, small enough for it, and its alert."""
    text = WALK_THROUGH.read_text()
    picture = REPOSITORY / "docs" / "images" / "stalls" / f"{fault.name}.png"
    assert f"](../images/stalls/{picture.name})" in text
    assert f"**Alert.** `{fault.alert}`" in text or not fault.alert
    assert 1_000 < picture.stat().st_size < MOST_BYTES
