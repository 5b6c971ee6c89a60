"""A real Prometheus with Alertmanager, and a Pushgateway, for tests: on free ports of loopback, stopped afterwards.

`from tests.prometheus import prometheus` gives a test the fixture, a function that starts one:

    server = prometheus(targets=[address], rules=[path])
    server.query("up")

`pushgateway` is the URL of an empty gateway. Without Debian's packages these tests are left out; see `conftest.py`.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import queue
import re
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import SERVICES
from tests.loopback import held_port, held_ports

__all__ = [
    "ALERTS",
    "Prometheus",
    "Receiver",
    "Sample",
    "Tool",
    "alerts",
    "amtool",
    "prometheus",
    "promtool",
    "pushgateway",
    "query",
    "reload",
    "running",
    "scaled",
]

ALERTS = Path(__file__).resolve().parents[1] / "deploy" / "alerts.yml"
"""The alerts in deploy/, with their recording rules."""

PATIENCE_S = 60.0
"""Time limit of every wait here; each takes a few scrapes of one second."""


@dataclass(frozen=True)
class Sample:
    """One element of an instant vector: labels, with `__name__` if it is kept, and the number."""

    labels: dict[str, str]
    value: float


def query(url: str, promql: str) -> list[Sample]:
    """Evaluate an expression to an instant vector, a scalar to one sample without labels; ValueError if invalid."""
    answer = _get(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': promql})}")
    if answer["status"] != "success":
        raise ValueError(f"{promql}: {answer['error']}")
    found, kind = answer["data"]["result"], answer["data"]["resultType"]
    if kind == "scalar":
        return [Sample({}, float(found[1]))]
    return [Sample(row["metric"], float(row["value"][1])) for row in found]


def alerts(url: str) -> list[dict[str, Any]]:
    """Return the pending and firing alerts: dicts with `labels` (and `alertname`), `annotations`, `state`, `value`."""
    found: list[dict[str, Any]] = _get(f"{url}/api/v1/alerts")["data"]["alerts"]
    return found


def reload(url: str) -> None:
    """Reload configuration and rules; `urllib.error.HTTPError` says what is wrong with them."""
    urllib.request.urlopen(urllib.request.Request(f"{url}/-/reload", method="POST"), timeout=PATIENCE_S).close()


def scaled(rules: Path, divisor: int, target: Path) -> Path:
    """Write the same rules to `target` with every duration (`for` and ranges) divided by a number.

    So `StreamingHitRateLow`, which takes 15 minutes, fires after 15 s with a divisor of 60, for runs that are shorter
    by the same factor. Ranges must still cover 4 scrapes or more. Thresholds do not change.
    """

    def shorter(duration: str) -> str:
        return f"{int(duration[:-1]) * _MS[duration[-1]] // divisor}ms"

    document = yaml.safe_load(rules.read_text())
    for rule in (rule for group in document["groups"] for rule in group["rules"]):
        rule["expr"] = re.sub(r"\[(\d+[smhd])\]", lambda found: f"[{shorter(found[1])}]", rule["expr"])
        if "for" in rule:
            rule["for"] = shorter(rule["for"])
    target.write_text(yaml.safe_dump(document, sort_keys=False))
    return target


_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def _get(url: str) -> Any:
    """Return the JSON of a response, also of an error response."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return json.load(error)


@dataclass(frozen=True)
class Receiver:
    """A queue of the alerts from Alertmanager: dicts with `status` (firing, resolved), `labels`, `annotations`."""

    url: str
    received: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)

    def await_alert(self, name: str, status: str, **labels: str) -> dict[str, Any]:
        """Return the first alert with this name, status and labels; earlier ones are taken off the queue.

        Raises:
            queue.Empty: if no alert came for `PATIENCE_S`.
        """
        wanted = {"alertname": name, **labels}.items()
        while True:
            alert = self.received.get(timeout=PATIENCE_S)
            if alert["status"] == status and wanted <= alert["labels"].items():
                return alert


@contextlib.contextmanager
def _receiver() -> Iterator[Receiver]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Queue each alert of a notification."""
            for alert in json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"]:
                receiver.received.put(alert)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Do not log."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(f"http://127.0.0.1:{server.server_port}/")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Prometheus:
    """A server at `url` and its Alertmanager at `alertmanager_url`, which sends each alert to `receiver` at once."""

    url: str
    alertmanager_url: str
    receiver: Receiver
    folder: Path

    def query(self, promql: str) -> list[Sample]:
        """See the function of this name."""
        return query(self.url, promql)

    def alerts(self) -> list[dict[str, Any]]:
        """See the function of this name."""
        return alerts(self.url)

    def scrape(self, targets: Sequence[str], **labels: str) -> None:
        """Scrape these `host:port` instead from now on, and add these labels to their metrics."""
        self._scrape_groups([{"targets": list(targets), "labels": labels}])

    def scrape_jobs(self, targets: Mapping[str, Sequence[str]]) -> None:
        """Scrape the `host:port` of each `job` instead from now on."""
        self._scrape_groups([{"targets": list(places), "labels": {"job": job}} for job, places in targets.items()])

    def _scrape_groups(self, groups: list[dict[str, Any]]) -> None:
        fresh = self.folder / "targets.new"
        fresh.write_text(json.dumps(groups))
        fresh.replace(self.folder / "targets.json")

    def await_query(
        self, promql: str, is_so: Callable[[list[Sample]], object] = bool, timeout_s: float = PATIENCE_S
    ) -> list[Sample]:
        """Wait until `is_so` is true for the value of an expression, by default until it has one, and return the value.

        Raises:
            TimeoutError: if that takes longer; the message has the last value.
        """
        pause, waits = threading.Event(), int(timeout_s / 0.1)
        for _ in range(waits):
            found = self.query(promql)
            if is_so(found):
                return found
            pause.wait(0.1)
        raise TimeoutError(f"{promql} gives {found} after {timeout_s:g} s")


@contextlib.contextmanager
def running(
    folder: Path, targets: Sequence[str] = (), rules: Sequence[Path] = (), job: str = "app", **settings: str
) -> Iterator[Prometheus]:
    """Run a Prometheus that keeps everything in `folder`, which is new.

    Args:
        folder: for its data and logs.
        targets: `host:port` that it scrapes each second.
        rules: files with rules and alerts.
        job: the label `job`.
        settings: more variables of start-prometheus.sh.
    """
    with held_ports(2) as (port, manager_port), _receiver() as receiver:
        environment = {
            **os.environ,
            "AM_PORT": str(manager_port),
            "SCRAPE": ",".join(targets),
            "RULES": ",".join(map(str, rules)),
            "JOB": job,
            "WEBHOOK": receiver.url,
            **settings,
        }
        with _started("prometheus", folder, port, environment) as url:
            server = Prometheus(url, f"http://127.0.0.1:{manager_port}", receiver, folder)
            yield server


@contextlib.contextmanager
def _started(name: str, folder: Path, port: int, environment: dict[str, str]) -> Iterator[str]:
    command = ["bash", str(SERVICES / f"start-{name}.sh"), str(folder), str(port)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        yield done.stdout.strip().splitlines()[-1]
    finally:
        subprocess.run(["bash", str(SERVICES / "stop.sh"), str(folder)], check=True)


@pytest.fixture
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Prometheus]]:
    """Return a function that starts a server with the arguments of `running` except the folder, until the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda **given: stack.enter_context(running(tmp_path_factory.mktemp("prometheus"), **given))


Tool = Callable[..., "subprocess.CompletedProcess[str]"]
"""Function that runs a command with the given arguments."""


@pytest.fixture
def promtool() -> Tool:
    """Return Prometheus' tool for rules and configurations."""
    return lambda *given: subprocess.run(["promtool", *map(str, given)], capture_output=True, text=True)


@pytest.fixture
def amtool() -> Tool:
    """Return Alertmanager's tool."""
    return lambda *given: subprocess.run(["amtool", *map(str, given)], capture_output=True, text=True)


@pytest.fixture
def pushgateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start an empty Pushgateway and yield its URL."""
    folder = tmp_path_factory.mktemp("pushgateway")
    with held_port() as port, _started("pushgateway", folder, port, dict(os.environ)) as url:
        yield url
