"""The exporters that need no server: a file, and a Pushgateway."""

from __future__ import annotations

import http.server
import logging
import os
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from streaming.adapter import StreamingDatasetAdapter
from streaming.errors import BadRequest, ConfigError, SourceUnavailable
from streaming.monitoring.metrics import Pusher, TextfileWriter, metrics_registry, push, write_textfile
from tests.monitoring.metrics.parts import COUNT, in_child, memory_source
from tests.prometheus import pushgateway

__all__ = ["pushgateway"]

NO_SERVER = "http://127.0.0.1:9"  # the port for "discard", where nothing listens


def reads_in(text: str) -> float:
    """The number of reads in an exposition."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "streaming_reads_total"
    )


def wait_until(is_true: Callable[[], bool]) -> None:
    """Return when it is true; the time limit of the test is the limit."""
    pause = threading.Event()
    while not is_true():
        pause.wait(0.01)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings and errors that were logged."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_file_holds_the_numbers_of_now(tmp_path: Path) -> None:
    """It is replaced as a whole, and nothing else is left in its folder."""
    registry, path = metrics_registry(CollectorRegistry()), tmp_path / "run.prom"
    with StreamingDatasetAdapter(memory_source()) as adapter:
        for count in range(1, 4):
            adapter[0]
            write_textfile(path, registry)
            assert reads_in(path.read_text()) == count
    assert os.listdir(tmp_path) == ["run.prom"]


def test_each_rank_has_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`{rank}` in the path is the rank of the process."""
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        write_textfile(str(tmp_path / "run-{rank}.prom"), CollectorRegistry())
    assert sorted(os.listdir(tmp_path)) == ["run-0.prom", "run-1.prom"]
    assert 'rank="1"' in (tmp_path / "run-1.prom").read_text()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """With the reason and what to do."""
    with pytest.raises(ConfigError, match=r"no-folder/run.prom.*create the folder"):
        write_textfile(tmp_path / "no-folder" / "run.prom", CollectorRegistry())


def test_a_file_is_written_again_and_again(tmp_path: Path) -> None:
    """At once, every few seconds, and a last time at the end."""
    registry, path = metrics_registry(CollectorRegistry()), tmp_path / "run.prom"
    with StreamingDatasetAdapter(memory_source()) as adapter:
        with TextfileWriter(path, 0.01, registry):
            wait_until(path.exists)
            adapter.__getitems__(range(COUNT))
            wait_until(lambda: reads_in(path.read_text()) == COUNT)
        with TextfileWriter(path, 3600, registry) as writer:
            adapter[0]
        assert reads_in(path.read_text()) == COUNT + 1
        writer.close()


def test_a_missing_folder_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One warning, however often it fails; once the folder exists the file is written."""
    caplog.set_level(logging.INFO, "streaming")
    path = tmp_path / "later" / "run.prom"
    with TextfileWriter(path, 0.01, CollectorRegistry()) as writer:
        wait_until(lambda: writer.failures > 3)
        path.parent.mkdir()
        wait_until(path.exists)
        wait_until(lambda: writer.failures == 0)
    [warned] = warnings_of(caplog)
    assert warned.startswith("metrics_export_failed way=textfile")
    assert "later/run.prom" in warned
    assert "metrics_export_recovered way=textfile" in caplog.text


@pytest.mark.parametrize("every_s", [0, -1, float("nan")])
def test_an_interval_that_is_not_positive_is_refused(tmp_path: Path, every_s: float) -> None:
    """Zero, negative numbers and NaN are errors."""
    with pytest.raises(ConfigError, match="every_s"):
        TextfileWriter(tmp_path / "run.prom", every_s, CollectorRegistry())


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_forked_child_writes_and_pushes_nothing(tmp_path: Path) -> None:
    """The thread is the parent's, and so is the last time at the end."""
    path = tmp_path / "run.prom"
    with TextfileWriter(path, 3600, CollectorRegistry()) as writer:
        wait_until(path.exists)
        path.unlink()
        assert in_child(lambda: writer.close() is None) == 0  # type: ignore[func-returns-value]
        assert not path.exists()


# -- a gateway


class _Gateway(http.server.BaseHTTPRequestHandler):
    """Keeps what is put, and answers as configured."""

    requests: list[tuple[str, str | None, str]]
    status = 200

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.requests.append((self.path, self.headers["Authorization"], body))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"said the gateway")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def gateway() -> Iterator[tuple[str, type[_Gateway]]]:
    """A minimal gateway: its address and the requests it got."""
    handler = type("Handler", (_Gateway,), {"requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}", handler
        server.shutdown()
        thread.join()


def test_a_push_goes_to_the_group_of_the_rank(
    gateway: tuple[str, type[_Gateway]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Job, instance and rank are the group; the instance is this machine unless it is given."""
    monkeypatch.setenv("RANK", "5")
    address, handler = gateway
    push(f"http://{address}", "train", CollectorRegistry())
    push(address, "run", CollectorRegistry(), instance="gpu-7")
    paths = [path for path, _, _ in handler.requests]
    assert paths == [
        f"/metrics/job/train/instance/{socket.gethostname()}/rank/5",
        "/metrics/job/run/instance/gpu-7/rank/5",
    ]
    assert 'streaming_start_time_seconds{rank="5"}' in handler.requests[0][2]


def test_a_login_goes_into_the_header_alone(gateway: tuple[str, type[_Gateway]]) -> None:
    """A login in the URL is sent as one, and not shown when something goes wrong."""
    address, handler = gateway
    push(f"http://me:h%40ha@{address}/", "run", CollectorRegistry())
    assert handler.requests[0][1] == "Basic bWU6aEBoYQ=="
    handler.status = 401
    with pytest.raises(BadRequest) as caught:
        push(f"http://me:h%40ha@{address}/", "run", CollectorRegistry())
    assert "ha@" not in str(caught.value)
    assert "401" in str(caught.value)


@pytest.mark.parametrize(("status", "error"), [(400, BadRequest), (503, SourceUnavailable)])
def test_a_gateway_that_refuses_is_an_error(
    gateway: tuple[str, type[_Gateway]], status: int, error: type[Exception]
) -> None:
    """The error quotes its response."""
    address, handler = gateway
    handler.status = status
    with pytest.raises(error, match=f"{status}.*said the gateway"):
        push(address, "run", CollectorRegistry())


def test_a_gateway_that_is_down_is_an_error() -> None:
    """A single push raises an error that names the address."""
    with pytest.raises(SourceUnavailable, match=NO_SERVER):
        push(NO_SERVER, "run", CollectorRegistry())


@pytest.mark.parametrize(
    ("url", "job"), [("", "run"), ("ftp://x", "run"), ("http://", "run"), ("http://x:port", "run"), (NO_SERVER, "")]
)
def test_an_invalid_address_or_job_is_refused(url: str, job: str) -> None:
    """The error is raised before anything is sent."""
    with pytest.raises(ConfigError, match=r"Pushgateway|job"):
        push(url, job, CollectorRegistry())


def test_a_gateway_that_is_down_does_not_block_training(caplog: pytest.LogCaptureFixture) -> None:
    """In the background, repeated failures are one warning, and the pusher closes cleanly."""
    with Pusher(NO_SERVER, "run", 0.01, CollectorRegistry()) as pusher:
        wait_until(lambda: pusher.failures > 3)
    [warned] = warnings_of(caplog)
    assert warned.startswith("metrics_export_failed way=push")


def test_a_background_pusher_refuses_an_invalid_address() -> None:
    """The error is raised when it is created, not logged later."""
    with pytest.raises(ConfigError, match="Pushgateway"):
        Pusher("nonsense://x", "run", 1, CollectorRegistry())


def test_a_gateway_has_the_numbers_of_the_end(pushgateway: str) -> None:
    """A real gateway takes them, a push replaces the one before, and the last numbers remain after `close`."""
    registry = metrics_registry(CollectorRegistry())
    with StreamingDatasetAdapter(memory_source()) as adapter:
        with Pusher(pushgateway, "run", 0.05, registry, instance="here"):
            adapter[0]
        with urllib.request.urlopen(f"{pushgateway}/metrics") as answer:
            text = answer.read().decode()
    [line] = [line for line in text.splitlines() if line.startswith("streaming_reads_total")]
    assert line == 'streaming_reads_total{dataset="data",instance="here",job="run",rank="0"} 1'
