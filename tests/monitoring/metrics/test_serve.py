"""Tests of the metrics server: its responses, its limits on clients, and its port."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import logging
import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from streaming.adapter import StreamingDatasetAdapter
from streaming.errors import ConfigError
from streaming.monitoring.metrics import MetricsServer, serve, start_metrics_server
from tests.loopback import held_port
from tests.monitoring.metrics.parts import in_child, memory_source


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    """A server at any free port, with a registry of its own."""
    with start_metrics_server(0, registry=CollectorRegistry()) as server:
        yield server


def ask(server: MetricsServer, path: str = "/metrics", method: str = "GET", **headers: str) -> Any:
    """The answer, read: with `status`, `headers` and `body`."""
    assert server.port is not None
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer: Any = connection.getresponse()
        answer.body = answer.read()
        return answer


def test_metrics_are_served(server: MetricsServer) -> None:
    """At `url` is the text format, with what was counted up to now."""
    with StreamingDatasetAdapter(memory_source()) as adapter:
        assert adapter[0]["idx"] == 0
        assert server.url == f"http://127.0.0.1:{server.port}/metrics"
        with urllib.request.urlopen(server.url) as answer:
            text = answer.read().decode()
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'streaming_reads_total{dataset="data",rank="0"} 1.0' in text.splitlines()


def test_open_metrics_are_served_on_request(server: MetricsServer) -> None:
    """The header that Prometheus sends selects this format, which parses."""
    answer = ask(server, Accept="application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    names = {family.name for family in text_string_to_metric_families(answer.body.decode())}
    assert "streaming_build_info" in names


@pytest.mark.parametrize(
    ("accepted", "is_compressed"), [("gzip", True), ("br, GZIP;q=0.5", True), ("gzip;q=0", False), ("identity", False)]
)
def test_the_answer_is_compressed_on_request(server: MetricsServer, accepted: str, is_compressed: bool) -> None:
    """Gzip if it is accepted; the length is that of the compressed body."""
    answer = ask(server, Accept_Encoding=accepted)
    assert (answer.headers["Content-Encoding"] == "gzip") == is_compressed
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    assert b"streaming_build_info" in (gzip.decompress(answer.body) if is_compressed else answer.body)


def test_health_is_served(server: MetricsServer) -> None:
    """`/healthz` answers probes."""
    assert ask(server, "/healthz").body == b"ok\n"


def test_other_paths_and_methods_are_refused(server: MetricsServer) -> None:
    """Other paths are not found, and nothing can be sent."""
    assert ask(server, "/etc/passwd").status == 404
    assert ask(server, method="POST").status == 501
    assert (ask(server, method="HEAD").status, ask(server, method="HEAD").body) == (200, b"")


def test_single_families_can_be_selected(server: MetricsServer) -> None:
    """`name[]` restricts the answer."""
    lines = ask(server, "/metrics?name[]=streaming_build_info").body.decode().splitlines()
    assert {line.split("{")[0] for line in lines if not line.startswith("#")} == {"streaming_build_info"}


def test_own_metrics_are_served_too() -> None:
    """A user's registry serves both."""
    mine = CollectorRegistry()
    Gauge("my_loss", "Of the model.", registry=mine).set(0.5)
    with start_metrics_server(0, registry=mine) as server:
        text = ask(server).body.decode()
    assert "my_loss 0.5" in text
    assert "streaming_build_info{" in text


class _Broken:
    def collect(self) -> Any:
        raise RuntimeError("secret inside")


def test_a_broken_collector_of_the_user_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """The client gets an error without its text, the log has it, and the server continues."""
    mine = CollectorRegistry()
    with start_metrics_server(0, registry=mine) as server:
        broken: Any = _Broken()
        mine.register(broken)
        answer = ask(server)
        assert (answer.status, b"secret" in answer.body) == (500, False)
        mine.unregister(broken)
        assert ask(server).status == 200
    assert "metrics_failed" in caplog.text


def test_the_port_of_a_rank_follows_from_the_first(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    """LOCAL_RANK is added to the port; 0 stays any free one."""
    monkeypatch.setenv("LOCAL_RANK", "3")
    with start_metrics_server(free_port - 3, registry=CollectorRegistry()) as server:
        assert server.port == free_port
    with start_metrics_server(0, registry=CollectorRegistry()) as server:
        assert server.port not in (None, 0, 3)


@pytest.fixture
def free_port() -> Iterator[int]:
    """A free port."""
    with held_port() as port:
        yield port


@pytest.mark.parametrize(
    ("port", "addr", "local_rank", "said"),
    [
        (70_000, "127.0.0.1", "0", "port=70000"),
        (-1, "127.0.0.1", "0", "port=-1"),
        (65_535, "127.0.0.1", "1", "LOCAL_RANK=1"),
        (0, "127.0.0.1", "one", "LOCAL_RANK='one'"),
        (0, "192.0.2.1", "0", "addr='192.0.2.1'"),  # of a net for documents: no machine has it
        (0, "no such host", "0", "addr='no such host'"),
    ],
)
def test_settings_that_never_work_are_refused(
    monkeypatch: pytest.MonkeyPatch, port: int, addr: str, local_rank: str, said: str
) -> None:
    """The error names them at once, with what to give instead."""
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(ConfigError, match=said):
        start_metrics_server(port, addr, registry=CollectorRegistry())


def test_a_port_that_is_taken_is_tried_again(caplog: pytest.LogCaptureFixture, server: MetricsServer) -> None:
    """Training continues with one warning; once the port is free, it is used."""
    assert server.port is not None
    caplog.set_level(logging.INFO, "streaming")
    wanted = server.port
    with MetricsServer(wanted, "127.0.0.1", CollectorRegistry(), retry_s=0.02) as other:
        while other.tries < 4:
            assert (other.port, other.url) == (None, None)
        server.close()
        while other.port is None:
            pass
        assert other.port == wanted
        assert ask(other, "/healthz").status == 200
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 1
    assert warned[0].startswith(f"metrics_port_taken addr=127.0.0.1 port={wanted}")
    assert "next_step=" in warned[0]


def test_a_server_that_waits_for_its_port_can_be_closed(server: MetricsServer) -> None:
    """It need not have served."""
    assert server.port is not None
    with start_metrics_server(server.port, registry=CollectorRegistry()) as other:
        assert other.port is None
    assert ask(server, "/healthz").status == 200


def test_a_port_is_free_at_once_when_its_server_is_closed(free_port: int) -> None:
    """Closing and starting again with the same port works, with clients just served."""
    for _ in range(5):
        with start_metrics_server(free_port, registry=CollectorRegistry()) as server:
            assert server.port == free_port
            assert ask(server, "/healthz").status == 200
        assert server.port is None
        server.close()  # again


def test_silent_clients_keep_no_one_out(server: MetricsServer) -> None:
    """However many connections are open, the next one is served, and there are never more threads than allowed."""
    assert server.port is not None
    with contextlib.ExitStack() as stack:
        for _ in range(5 * serve.MOST_CLIENTS):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            silent.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
        assert ask(server, "/healthz").status == 200
        silent.sendall(b"not any more\r\n\r\n")  # the youngest, which was not closed
        assert silent.recv(1000).startswith(b"HTTP/1.0 200 OK")
        threads = [thread for thread in threading.enumerate() if thread.name == "streaming-scrape"]
        assert len(threads) <= serve.MOST_CLIENTS


def test_clients_that_leave_early_do_no_harm(server: MetricsServer) -> None:
    """A request that ends halfway, or a reset, is not an error."""
    assert server.port is not None
    for sent in (b"", b"GET", b"\x16\x03\x01 not http\r\n\r\n", b"GET /metrics HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            client.sendall(sent)
    assert ask(server).status == 200


def test_closing_while_scraped_ends_in_order(free_port: int) -> None:
    """Clients get their answer, or the end of the connection; the next server at the port answers."""
    server = start_metrics_server(free_port, registry=CollectorRegistry())
    began, url = threading.Event(), str(server.url)

    def scrape() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                urllib.request.urlopen(url, timeout=30).read()
                began.set()

    clients = [threading.Thread(target=scrape) for _ in range(3)]
    for client in clients:
        client.start()
    began.wait()
    server.close()
    for client in clients:
        client.join()
    with start_metrics_server(free_port, registry=CollectorRegistry()) as again:
        assert ask(again, "/healthz").status == 200


def test_a_server_is_reached_at_other_addresses(free_port: int) -> None:
    """`0.0.0.0` is all of IPv4, and its URL one for this machine."""
    with start_metrics_server(free_port, "0.0.0.0", registry=CollectorRegistry()) as server:
        assert server.url == f"http://127.0.0.1:{free_port}/metrics"
        assert urllib.request.urlopen(server.url).status == 200


def listening_fds(port: int) -> list[str]:
    """This process's descriptors that are listening sockets at a port."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(fd))) as each:
            if each.getsockname()[1:2] == (port,):
                found.append(fd)
    return found


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_forked_children_do_not_hold_the_port(server: MetricsServer) -> None:
    """While scrapes run children are forked: none keeps the socket, each can close its server, all scrapes end."""
    assert server.port is not None
    port, ended = server.port, threading.Event()

    def scrape() -> None:
        while not ended.is_set():
            assert ask(server).status == 200

    def child() -> bool:
        server.close()
        return listening_fds(port) == [] and server.port is None

    client = threading.Thread(target=scrape)
    client.start()
    try:
        assert [in_child(child) for _ in range(20)] == [0] * 20
    finally:
        ended.set()
        client.join()
    assert listening_fds(port) != []
    assert ask(server).status == 200
