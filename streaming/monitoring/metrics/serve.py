"""A small HTTP server for the metrics of one process: `/metrics` and `/healthz`.

One thread waits for connections; each request has a thread of its own while it is answered, at most `MOST_CLIENTS`. No
password is needed, so the server listens on loopback unless you give another address.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import weakref
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from time import sleep
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry

from streaming.core.logs import get_logger
from streaming.errors import ConfigError
from streaming.link.messages import FORK_LOCK
from streaming.monitoring.metrics.apps import answer
from streaming.monitoring.metrics.prometheus_registry import metrics_registry

__all__ = ["MOST_CLIENTS", "RETRY_S", "MetricsServer", "start_metrics_server"]

logger = get_logger(__name__)

MOST_CLIENTS: Final = 8
"""Connections at a time; one more ends the oldest, so that clients that send or take nothing keep no one out."""
CLIENT_TIMEOUT_S: Final = 5.0
"""How long a client may take for each read, and for taking the answer."""
RETRY_S: Final = 3.0
"""Between two attempts at a port that is taken."""
POLL_S: Final = 0.25
"""How long `close` waits at most for the thread that listens."""


def start_metrics_server(
    port: int = 8000, addr: str = "127.0.0.1", registry: CollectorRegistry | None = None
) -> MetricsServer:
    """Serve the metrics of this process at `http://addr:port/metrics` until it ends, or `close()`.

    Where the port is taken, one warning is logged, training continues, and the port is tried again every few seconds.

    Args:
        port: of the first rank of a node: the variable LOCAL_RANK is added. 0 is any free one.
        addr: address to listen on. Anyone who can reach it can read the numbers and the
            names of data sets and sources.
        registry: see `metrics_registry`.

    Raises:
        ConfigError: a port or an address that can never be used.
    """
    return MetricsServer(_port_of_rank(port), addr, metrics_registry(registry))


def _port_of_rank(port: int) -> int:
    text = os.environ.get("LOCAL_RANK") or "0"
    if not text.isdecimal():
        raise ConfigError(
            f"LOCAL_RANK={text!r} is not the number of a rank on its node: set it to 0 or more, or unset it"
        )
    found = port and port + int(text)
    if not 0 <= found < 1 << 16:
        raise ConfigError(f"port={port} with LOCAL_RANK={text} is {found}: give a port so that all are below 65536")
    return found


class MetricsServer:
    """Made by `start_metrics_server`; a context manager. A child forked from this process does not serve.

    Args:
        port: the port to listen on; 0 is any free one.
        addr: the address to listen on.
        registry: what is served.
        retry_s: between two attempts at a port that is taken.

    Attributes:
        tries: how often it tried to listen.
    """

    def __init__(self, port: int, addr: str, registry: CollectorRegistry, retry_s: float = RETRY_S) -> None:
        self.registry = registry
        self.tries = 0
        self._retry_s = retry_s
        self._address = (addr, port)
        self._server: _Server | None = None
        self._closing = threading.Event()
        _servers.add(self)
        self._try_to_listen()
        self._thread = threading.Thread(target=self._run, name="streaming-metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int | None:
        """Port that the server listens on; None while that port is taken, and once the server is closed."""
        server = self._server
        return None if server is None else int(server.server_address[1])

    @property
    def url(self) -> str | None:
        """URL of the metrics for a client on this machine; None where `port` is."""
        port, host = self.port, self._address[0]
        if port is None:
            return None
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"

    def close(self) -> None:
        """Stop serving; the port is free when this returns. Idempotent; does nothing in a forked child."""
        if not self._closing.is_set():
            self._closing.set()
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _try_to_listen(self) -> None:
        """Listen, or log once that the port is taken.

        Raises:
            ConfigError: it never can.
        """
        addr, port = self._address
        self.tries += 1
        try:
            with FORK_LOCK:
                self._server = _Server(addr, port, self.registry)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise ConfigError(
                    f"cannot serve metrics at addr={addr!r}, port={port}: {exc.strerror or exc}; give an address of "
                    "this machine, such as 127.0.0.1, and a port from 1024 up, or 0 for any free one"
                ) from exc
            if self.tries == 1:
                logger.warning(
                    "metrics_port_taken addr=%s port=%d retry_seconds=%.0f next_step=%s",
                    addr,
                    port,
                    self._retry_s,
                    "end what listens there, or give another port, or 0 for any free one",
                )
        else:
            if self.tries > 1:
                logger.info("metrics_serving url=%s", self.url)

    def _run(self) -> None:
        while self._server is None and not self._closing.wait(self._retry_s):
            with contextlib.suppress(ConfigError):  # such as an address that is gone for a while
                self._try_to_listen()
        server = self._server
        if server is not None:
            while not self._closing.is_set():
                server.handle_request()
            with FORK_LOCK:
                self._server = None
                server.server_close()

    def _leave(self) -> None:
        """Close the inherited sockets in a forked child. Clients of the parent are not affected."""
        self._closing = threading.Event()  # another thread of the parent may have held its lock
        self._closing.set()
        server, self._server = self._server, None
        if server is not None:
            for each in (server.socket, *server.clients):
                if each.fileno() >= 0:
                    os.close(each.detach())  # `close` would wait for the files that a request has made of it


class _Server(ThreadingMixIn, TCPServer):
    """Answers each connection in a thread of its own, up to `MOST_CLIENTS`. One thread calls `handle_request`.

    Attributes:
        clients: open connections, the oldest first.
    """

    allow_reuse_address = os.name == "posix"  # elsewhere it would let two processes share the port
    request_queue_size = 2 * MOST_CLIENTS
    block_on_close = False

    def __init__(self, addr: str, port: int, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.clients: dict[socket.socket, None] = {}
        self._free = threading.Condition()
        found = socket.getaddrinfo(addr or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, *_, place = found[0]
        super().__init__(place[:2], _Handler)  # type: ignore[arg-type]  # no addresses but those of IP
        self.socket.settimeout(POLL_S)

    def get_request(self) -> tuple[socket.socket, Any]:
        self._make_room()
        try:
            with FORK_LOCK:
                client, address = super().get_request()
                self.clients[client] = None
        except OSError as exc:  # the client has gone, or there are too many open files
            logger.debug("metrics_accept_failed error=%s", exc)
            sleep(POLL_S)
            raise
        return client, address

    def _make_room(self) -> None:
        with self._free:
            while len(self.clients) >= MOST_CLIENTS:
                with contextlib.suppress(OSError):
                    next(iter(self.clients)).shutdown(socket.SHUT_RDWR)
                self._free.wait(CLIENT_TIMEOUT_S)

    def process_request(self, request: Any, client_address: Any) -> None:
        arguments = request, client_address
        threading.Thread(
            target=self.process_request_thread, args=arguments, name="streaming-scrape", daemon=True
        ).start()

    def close_request(self, request: Any) -> None:
        with FORK_LOCK, self._free:  # a child has what is listed, and closes it
            self.clients.pop(request, None)
            request.close()
            self._free.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or took too long is not worth a message."""

    def server_close(self) -> None:
        super().server_close()
        with self._free:
            for client in self.clients:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_TIMEOUT_S
    server: Any

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        headers_in = {name.lower(): value for name, value in self.headers.items()}
        status, headers, body = answer(self.server.registry, parts.path, parts.query, headers_in)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def version_string(self) -> str:
        return "streaming"

    def log_message(self, format: str, *args: object) -> None:
        pass


_servers: weakref.WeakSet[MetricsServer] = weakref.WeakSet()


def _leave_all() -> None:
    for server in list(_servers):
        server._leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all)
