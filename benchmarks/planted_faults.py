"""Do alerts, dashboards and the doctor reveal each of eight planted faults?

Real runs, each in its own processes, over a real Prometheus that scrapes once a second and has the alerts of `deploy/`
with durations divided by 75. Each run has its fault until its alert fires and the doctor has judged it; then the fault
is repaired, until the alert resolves. A fault is found if the expected alert fires, and the doctor's first finding is
the expected one. If the fault is a resource that limits the run, the stall that it must cause is known from outside
(`tests.faulty_runs.Account.planted`), and the figure of the library may be off by 5 %.

    python benchmarks/planted_faults.py --only slow-codec healthy
    python benchmarks/planted_faults.py --draw docs/images/stalls     the pictures of docs/howto/debug-stalls.md
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import report

sys.path.append(str(Path(__file__).parents[1]))
from dashboards.draw import draw
from dashboards.drawing import LIGHT
from tests.fault_settings import FAULTS, Fault
from tests.faulty_runs import Account, Process, started
from tests.prometheus import ALERTS, Prometheus, Sample, running, scaled

REPOSITORY: Final = Path(__file__).resolve().parents[1]
SHORTER: Final = 75
"""Divisor of all durations: rates over 5 minutes become 4 s, and the longest `for`, 30 minutes, becomes 24 s."""
AT_ONCE: Final = 3
"""Number of runs on two cores that do not slow each other down."""
LEAST_S: Final = 20.0
"""Minimum duration of a fault, for the picture."""
MOST_S: Final = 90.0
"""Time limit for an alert."""
AFTER_S: Final = 12.0
"""Minimum duration of a run after its repair."""
LOOK_S: Final = 5.0
"""Window of the doctor."""
MOST_ERROR: Final = 0.05

_HITS: Final = "Hit ratio, observed and predicted"
_TIME: Final = "Where the trainer's time goes"
PICTURES: Final[dict[str, tuple[str, list[str]]]] = {
    "healthy": ("overview", [_TIME, "Look-ahead"]),
    "slow-source": ("overview", [_TIME, "Latency"]),
    "slow-codec": ("overview", [_TIME, "Latency"]),
    "slow-collate": ("overview", [_TIME, "Look-ahead"]),
    "small-cache": ("overview", [_TIME, "Hit ratio"]),
    "short-ttl": ("cache", ["Samples that left, by reason", _HITS, "Reads, hits, fetches"]),
    "breaker-open": ("overview", ["Breakers", "Failed requests per second", "Latency"]),
    "slow-rank": ("overview", [_TIME, "Wait by rank"]),
    "trainer-bound": ("overview", [_TIME, "Samples per second"]),
}
"""The panels that show each fault."""


@dataclass(frozen=True)
class Seen:
    """Observations of one run.

    Attributes:
        fault: the planted one.
        began, ended: times of the run, in seconds since 1970.
        fired_s, resolved_s: seconds from the start to the alert, and from the repair to its end.
        alerts: severity of every alert that fired during the fault, by `name` or `name{stage or source or rank}`.
        verdict, after: the diagnoses with the fault and after its repair.
        account: figures of the run during the fault, from the rank that has it.
    """

    fault: Fault
    began: float
    ended: float
    fired_s: float
    resolved_s: float
    alerts: dict[str, str]
    verdict: dict[str, Any]
    after: dict[str, Any]
    account: Account

    @property
    def error(self) -> float | None:
        """Error of the wait for the faulty stage, as a share of all waits; None if it is not measured from outside."""
        fault = self.fault
        return self.account.error(fault.stage, fault.resource) if fault.resource else None

    @property
    def wrong(self) -> list[str]:
        """Return what the run should have shown and did not."""
        fault, found = self.fault, []
        if fault.alert and self.fired_s >= MOST_S:
            found.append(f"{fault.alert} did not fire")
        if self.resolved_s >= MOST_S:
            found.append(f"{fault.alert} did not resolve")
        loud = [name for name, severity in self.alerts.items() if severity != "info"]
        if fault.code == "TrainerBound" and loud:
            found.append(f"{', '.join(loud)} fired without a reason")
        if self.verdict["code"] != fault.code:
            found.append(f"the doctor says {self.verdict['code']}")
        if not self.after["is_fine"]:
            found.append(f"after the repair the doctor says {self.after['code']}")
        if self.error is not None and self.error > MOST_ERROR:
            found.append(f"waits for {fault.stage} are off by {self.error:.1%}")
        return found


class Watch:
    """Run faults under one Prometheus."""

    def __init__(self, server: Prometheus) -> None:
        self._server = server
        self._targets: dict[str, list[str]] = {}
        self._lock = threading.Lock()

    def see(self, fault: Fault) -> Seen:
        """Plant a fault, wait for its alert, repair it, and wait until the alert resolves."""
        with started(fault) as processes:
            began = time.time()
            self._scrape(fault.name, [process.address for process in processes])
            try:
                return self._seen(fault, processes, began)
            finally:
                self._scrape(fault.name, [])

    def _seen(self, fault: Fault, processes: Sequence[Process], began: float) -> Seen:
        fired_s = self._await(fault, is_there=True)
        time.sleep(max(0.0, LEAST_S - (time.time() - began)))
        verdict = self._doctor(processes)
        accounts = [process.repair() for process in processes]
        repaired = time.time()
        alerts = self._fired(fault, repaired - began)
        resolved_s = self._await(fault, is_there=False)
        time.sleep(max(0.0, AFTER_S - (time.time() - repaired)))
        after = self._doctor(processes)
        account = accounts[fault.setting.line_rank or 0]
        return Seen(fault, began, time.time(), fired_s, resolved_s, alerts, verdict, after, account)

    def _scrape(self, job: str, targets: list[str]) -> None:
        with self._lock:
            self._targets[job] = targets
            self._server.scrape_jobs({job: places for job, places in self._targets.items() if places})

    def _await(self, fault: Fault, *, is_there: bool) -> float:
        """Return the seconds until the alert fires, or resolves; `MOST_S` if it does not."""
        if not fault.alert:
            return 0.0
        labels = {"job": fault.name, "alertname": fault.alert, "alertstate": "firing", **fault.labels}
        matchers = ",".join(f'{name}="{value}"' for name, value in labels.items())
        began = time.time()
        try:
            self._server.await_query(f"ALERTS{{{matchers}}}", lambda found: bool(found) == is_there, MOST_S)
        except TimeoutError:
            return MOST_S
        return time.time() - began

    def _fired(self, fault: Fault, seconds: float) -> dict[str, str]:
        chosen = f'ALERTS{{job="{fault.name}",alertstate="firing"}}'
        found = self._server.query(f"max_over_time({chosen}[{max(1, round(seconds))}s])")
        return {_name(sample): sample.labels["severity"] for sample in sorted(found, key=_name)}

    def _doctor(self, processes: Sequence[Process]) -> dict[str, Any]:
        urls = [process.address for process in processes]
        command = [sys.executable, "-m", "streaming.cli", "doctor", "--live", "--json", "--seconds", str(LOOK_S), *urls]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        if not done.stdout:
            raise RuntimeError(f"the doctor failed: {done.stderr}")
        told: dict[str, Any] = json.loads(done.stdout)
        return told


def _name(sample: Sample) -> str:
    details = [sample.labels[label] for label in ("stage", "source") if label in sample.labels]
    if sample.labels["alertname"] == "StreamingRankSlow":
        details.append(f"rank {sample.labels['rank']}")
    return sample.labels["alertname"].removeprefix("Streaming") + (f"({', '.join(details)})" if details else "")


def _show(seen: Sequence[Seen]) -> None:
    rows: list[list[object]] = [["fault", "alert after s", "gone after s", "error", "alerts"]]
    for each in seen:
        error = "" if each.error is None else f"{each.error:.1%}"
        rows.append([each.fault.name, each.fired_s, each.resolved_s, error, ", ".join(each.alerts)])
    report.table("Planted faults and their alerts", rows)
    for each in seen:
        print(f"\n{each.fault.name}: {each.verdict['verdict']}\n  repaired: {each.after['verdict']}")
        for wrong in each.wrong:
            print(f"  NOT FOUND: {wrong}")
    print()


def _draw(server: Prometheus, seen: Sequence[Seen], folder: Path) -> None:
    for each in seen:
        dashboard, panels = PICTURES[each.fault.name]
        path, chosen = folder / f"{each.fault.name}.png", {"job": each.fault.name}
        draw(server.url, dashboard, each.began + 2, each.ended, path, panels, chosen, look=LIGHT, scrape_s=1.0)


def _figures(seen: Sequence[Seen]) -> dict[str, Any]:
    """Summarize all repeats, by fault."""
    figures: dict[str, Any] = {}
    for name in dict.fromkeys(each.fault.name for each in seen):
        runs = [each for each in seen if each.fault.name == name]
        errors = [each.error for each in runs if each.error is not None]
        figures[name] = {
            "alert": runs[-1].fault.alert,
            "alerts": sorted(set().union(*(each.alerts for each in runs))),
            "code": runs[-1].verdict["code"],
            "sentence": runs[-1].verdict["verdict"],
            "fired_after_s": report.spread([each.fired_s for each in runs]),
            "resolved_after_s": report.spread([each.resolved_s for each in runs]),
            "attribution_error": report.spread(errors) if errors else None,
            "is_found": not any(each.wrong for each in runs),
        }
    errors = [each.error for each in seen if each.error is not None]
    return {
        "faults": figures,
        "found": sum(each["is_found"] for each in figures.values()),
        "attribution_error": report.spread(errors) if errors else None,
        "shorter": SHORTER,
    }


def main() -> int:
    """Run everything, print what was found, and one line of JSON; 1 if a fault was not found."""
    parser = report.options(__doc__, repeats=1)
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS), help="only these faults")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="also draw a picture of each run")
    arguments = parser.parse_args()
    seen: list[Seen] = []
    with tempfile.TemporaryDirectory() as folder:
        rules = scaled(ALERTS, SHORTER, Path(folder) / "alerts.yml")
        with running(Path(folder) / "prometheus", rules=[rules]) as server, ThreadPoolExecutor(AT_ONCE) as pool:
            watch = Watch(server)
            for _ in range(arguments.repeats):
                seen += pool.map(watch.see, [FAULTS[name] for name in arguments.only])
            if arguments.draw:
                _draw(server, seen, arguments.draw)
    _show(seen)
    report.emit("planted_faults", _figures(seen), seed=arguments.seed)
    return int(any(each.wrong for each in seen))


if __name__ == "__main__":
    sys.exit(main())
