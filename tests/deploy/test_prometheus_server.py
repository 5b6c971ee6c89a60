"""The Prometheus servers for other tests scrape their targets and deliver alerts."""

from __future__ import annotations

import http.server
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.prometheus import Prometheus, prometheus, pushgateway

__all__ = ["prometheus", "pushgateway"]


@pytest.fixture
def thermometer() -> Iterator[tuple[str, list[float]]]:
    """Serve one gauge, the last number of a list."""
    degrees = [20.0]

    class Exposition(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Send the number."""
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(f"degrees {degrees[-1]}\n".encode())

        def log_message(self, *args: object) -> None:
            """Do not log."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Exposition) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}", degrees
        server.shutdown()
        thread.join()


def test_alert_reaches_the_receiver_and_resolves(
    prometheus: Callable[..., Prometheus], thermometer: tuple[str, list[float]], tmp_path: Path
) -> None:
    """A rule on a scraped metric fires, is sent with its labels, and is sent again when it resolves."""
    address, degrees = thermometer
    rules = tmp_path / "hot.yml"
    rules.write_text('groups: [{name: heat, rules: [{alert: Hot, expr: degrees > 30, labels: {floor: "2"}}]}]')
    server = prometheus(targets=[address], rules=[rules], job="house")
    [sample] = server.await_query("degrees")
    assert (sample.value, sample.labels["job"]) == (20.0, "house")
    degrees.append(40.0)
    alert = server.receiver.await_alert("Hot", "firing", floor="2")
    assert alert["labels"]["instance"] == address
    degrees.append(10.0)
    server.receiver.await_alert("Hot", "resolved")


def test_targets_change_while_it_runs(
    prometheus: Callable[..., Prometheus], thermometer: tuple[str, list[float]]
) -> None:
    """A server that began without targets scrapes targets that are added later."""
    server = prometheus()
    assert server.query('up{job="app"}') == []
    server.scrape([thermometer[0]], rank="3")
    [sample] = server.await_query('degrees{rank="3"}')
    assert sample.value == 20.0


def test_bad_expression_is_refused(prometheus: Callable[..., Prometheus]) -> None:
    """Invalid PromQL raises an error with the server's message."""
    with pytest.raises(ValueError, match="parse error"):
        prometheus().query("sum(")


def test_pushed_metric_is_exposed(pushgateway: str) -> None:
    """A pushed metric is among the gateway's metrics."""
    push = urllib.request.Request(f"{pushgateway}/metrics/job/batch", data=b"pushed 1\n", method="PUT")
    urllib.request.urlopen(push, timeout=30).close()
    with urllib.request.urlopen(f"{pushgateway}/metrics", timeout=30) as answer:
        assert 'pushed{instance="",job="batch"} 1' in answer.read().decode()
