"""A small HTTP server for the metrics of one process: `/metrics` and `/healthz`.

One thread waits for connections and sleeps in between; each request has a thread while it is answered, at most
`MOST_CLIENTS`. Nobody is asked for a password: it listens on loopback unless told otherwise.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import threading
import weakref
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry

from streaming.core.logs import get_logger
from streaming.errors import ConfigError
from streaming.link.messages import FORK_LOCK
from streaming.monitoring.metrics.apps import answer
from streaming.monitoring.metrics.registry import metrics_registry

__all__ = ["MOST_CLIENTS", "RETRY_S", "MetricsServer", "start_metrics_server"]

logger = get_logger(__name__)

MOST_CLIENTS: Final = 8
"""Connections at a time; one more ends the oldest, so that clients which send or take nothing keep nobody out."""
CLIENT_TIMEOUT_S: Final = 5.0
"""How long a client may take for each read, and for taking the answer."""
RETRY_S: Final = 3.0
"""Between two tries for a port that is taken."""


def start_metrics_server(
    port: int = 8000, addr: str = "127.0.0.1", registry: CollectorRegistry | None = None
) -> MetricsServer:
    """Serve the metrics of this process at `http://addr:port/metrics` until it ends, or `close()`.

    Where the port is taken a warning says so, training goes on, and the port is tried again every few seconds.

    Args:
        port: of the first rank of a node: the variable LOCAL_RANK is added. 0 is any free one.
        addr: to listen at. Whoever reaches another than loopback reads the names of data sets and sources, and numbers.
        registry: see `metrics_registry`.

    Raises:
        ConfigError: a port or an address that cannot be used, and not because it is taken.
    """
    return MetricsServer(_port_of_rank(port), addr, metrics_registry(registry))


def _port_of_rank(port: int) -> int:
    text = os.environ.get("LOCAL_RANK") or "0"
    if not text.isdecimal():
        raise ConfigError(f"LOCAL_RANK={text!r} is no number of a rank on its node: set it to 0 or more, or unset it")
    found = port and port + int(text)
    if not 0 <= found < 1 << 16:
        raise ConfigError(f"port={port} with LOCAL_RANK={text} is {found}: give a port so that all are below 65536")
    return found


class MetricsServer:
    """Made by `start_metrics_server`; a context manager. A child forked from this process does not serve.

    Args:
        port: the very port; 0 is any free one.
        addr: to listen at.
        registry: what is served.
        retry_s: between two tries for a port that is taken.

    Attributes:
        tries: how often it tried to listen.
    """

    def __init__(self, port: int, addr: str, registry: CollectorRegistry, retry_s: float = RETRY_S) -> None:
        self.registry = registry
        self.tries = 0
        self._retry_s = retry_s
        self._address = (addr, port)
        self._listener: socket.socket | None = None
        self._clients: dict[socket.socket, None] = {}  # the oldest first
        self._free = threading.Condition()
        self._is_closed = False
        with FORK_LOCK:
            self._wake, self._waker = socket.socketpair()
            _servers.add(self)
        try:
            self._try_to_listen()
        except BaseException:
            self._leave()
            raise
        self._thread = threading.Thread(target=self._run, name="streaming-metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int | None:
        """Where it listens; None while it cannot, as its port is taken, and once it is closed."""
        listener = self._listener
        return None if listener is None else int(listener.getsockname()[1])

    @property
    def url(self) -> str | None:
        """Of the metrics, for a client on this machine; None where `port` is."""
        port, host = self.port, self._address[0]
        if port is None:
            return None
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"

    def close(self) -> None:
        """Stop serving; the port is free when this returns. Idempotent; does nothing in a forked child."""
        if self._is_closed:
            return
        self._is_closed = True
        with contextlib.suppress(OSError):  # the thread has ended
            self._waker.send(b"x")
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- the thread that listens

    def _try_to_listen(self) -> None:
        """Listen, or say once that the port is taken.

        Raises:
            ConfigError: it never can.
        """
        addr, port = self._address
        self.tries += 1
        try:
            with FORK_LOCK:
                self._listener = _listen(addr, port)
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
            logger.info("metrics_serving url=%s", self.url)

    def _run(self) -> None:
        try:
            while True:
                sockets = [self._wake] if self._listener is None else [self._wake, self._listener]
                ready = _ready(sockets, self._retry_s if self._listener is None else None)
                if self._wake in ready:
                    return
                if self._listener is None:
                    with contextlib.suppress(ConfigError):  # such as an address that is gone for a while
                        self._try_to_listen()
                elif ready:
                    self._accept(self._listener)
        finally:
            self._end()

    def _accept(self, listener: socket.socket) -> None:
        try:
            self._make_room()
            with FORK_LOCK:
                client, _ = listener.accept()
                self._clients[client] = None
        except OSError as exc:  # the client has gone, or there are too many open files
            logger.debug("metrics_accept_failed error=%s", exc)
            _ready([self._wake], 0.1)
            return
        try:
            threading.Thread(target=self._serve, args=(client,), name="streaming-scrape", daemon=True).start()
        except RuntimeError:  # no more threads
            self._forget(client)

    def _make_room(self) -> None:
        with self._free:
            while len(self._clients) >= MOST_CLIENTS:
                with contextlib.suppress(OSError):
                    next(iter(self._clients)).shutdown(socket.SHUT_RDWR)
                self._free.wait(CLIENT_TIMEOUT_S)

    def _serve(self, client: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError):  # it went away, or took too long
                _Handler(client, ("", 0), self)  # type: ignore[arg-type]  # needs no server but its attributes
                client.shutdown(socket.SHUT_WR)
        finally:
            self._forget(client)

    def _forget(self, client: socket.socket) -> None:
        with FORK_LOCK, self._free:  # a child has what is listed, and closes it
            self._clients.pop(client, None)
            client.close()
            self._free.notify_all()

    def _end(self) -> None:
        with FORK_LOCK, self._free:
            listener, self._listener = self._listener, None
            if listener is not None:
                listener.close()
            for client in self._clients:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
            self._wake.close()
            self._waker.close()

    def _leave(self) -> None:
        """Close this process's copies of the sockets, without a word to whoever is at the other end."""
        self._is_closed = True
        for each in (self._listener, self._wake, self._waker, *self._clients):
            if each is not None and each.fileno() >= 0:
                os.close(each.detach())  # `close` would wait for the files that a request has made of it
        self._listener = None
        self._clients = {}


def _ready(sockets: list[socket.socket], timeout_s: float | None) -> list[Any]:
    """Those that can be read; `select` itself takes no descriptor above 1023, and trainers have many files open."""
    with getattr(selectors, "PollSelector", selectors.SelectSelector)() as selector:
        for each in sockets:
            selector.register(each, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(timeout_s)]


def _listen(addr: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(addr or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, place = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let two processes share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(2 * MOST_CLIENTS)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_TIMEOUT_S
    server: Any

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        asked = {name.lower(): value for name, value in self.headers.items()}
        status, headers, body = answer(self.server.registry, parts.path, parts.query, asked)
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
