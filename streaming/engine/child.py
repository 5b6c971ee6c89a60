"""A child process that holds the engine of one training process: `python -m streaming.engine.child FD`.

The descriptor is one end of a stream pair to the training process. It sends the settings and gets what `RemoteEngine`
needs, with the descriptors of the link and of the arena, or the error that opening met. Nothing more is sent. When the
training process ends, for any reason, the stream ends, and this process ends too.

Everything else passes over the link, see `streaming.engine.link_service`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import socket
import struct
import sys
import threading
from typing import TYPE_CHECKING, Any

from streaming.core.process_memory import resident_memory

if TYPE_CHECKING:  # the rest is imported once the signals are set
    from streaming.engine.engine import Engine
    from streaming.telemetry.counters import MetricsSnapshot

__all__ = ["main", "receive", "send"]

END_TIMEOUT_S = 2.0
"""How long reads in flight have to end in order; the training process waits longer, then kills this one."""

_HEADER = struct.Struct("=Q")


def send(line: socket.socket, message: Any, fds: list[int] | None = None) -> None:
    """Send one message of the start, with descriptors."""
    body = pickle.dumps(message, protocol=5)
    socket.send_fds(line, [_HEADER.pack(len(body))], fds or [])
    line.sendall(body)


def receive(line: socket.socket, most_fds: int = 0) -> tuple[Any, list[int]]:
    """Receive the next message of the start and the descriptors that came with it.

    Raises:
        EOFError: the other side ended.
    """
    header, fds, _, _ = socket.recv_fds(line, _HEADER.size, most_fds)
    for fd in fds:
        os.set_inheritable(fd, False)
    while len(header) < _HEADER.size:
        header += _some(line, _HEADER.size - len(header))
    (size,) = _HEADER.unpack(header)
    body = bytearray()
    while len(body) < size:
        body += _some(line, min(size - len(body), 1 << 20))
    return pickle.loads(body), fds


def _some(line: socket.socket, most: int) -> bytes:
    data = line.recv(most)
    if not data:
        raise EOFError("the other side of the stream ended")
    return data


def main(fd: int) -> None:
    """Serve until the training process closes its end of the stream, then end this process. Never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: the training process decides
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked while this interpreter started
    line = socket.socket(fileno=fd)
    with contextlib.suppress(EOFError, OSError):
        settings, _ = receive(line)
        service = _Service()
        threading.Thread(target=service.end_with, args=(line,), name="streaming-line", daemon=True).start()
        service.open(line, settings)
        threading.Event().wait()
    os._exit(1)


class _Service:
    """Opens, serves and closes the engine of this process."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    def open(self, line: socket.socket, settings: dict[str, Any]) -> None:
        """Open the engine and report it, or the error, to the training process."""
        from streaming.core.logs import configure
        from streaming.core.runtime import current_runtime
        from streaming.engine.link_service import LinkService
        from streaming.engine.open import open_engine
        from streaming.link.messages import LinkServer
        from streaming.link.pickled_errors import pickle_error

        configure(settings["log_level"])  # to stderr
        try:
            config, prepare = _load_settings(settings)
            self._engine = engine = open_engine(config, prepare, settings["shares"])
        except Exception as exc:
            send(line, {"error": pickle_error(exc)})
            return
        service = LinkService(engine, self.metrics_snapshot)
        self._server = LinkServer(current_runtime(), service.answer, service.left)
        opened = {"length": engine.length, "fingerprint": engine.fingerprint}
        send(line, opened, [self._server.hello_fd, engine.cache.arena.fd])

    def metrics_snapshot(self) -> MetricsSnapshot:
        """Return the numbers of the engine as metrics, with the memory of this process."""
        assert self._engine is not None
        snapshot = self._engine.metrics_snapshot("owner")
        memory = resident_memory()
        return snapshot if memory is None else {**snapshot, "process_resident_memory_bytes": {("owner",): memory}}

    def end_with(self, line: socket.socket) -> None:
        """Wait for the end of the stream, close the engine, and end this process."""
        with contextlib.suppress(OSError):
            while line.recv(1):
                pass
        from streaming.core.logs import get_logger
        from streaming.core.runtime import current_runtime

        try:
            if self._engine is None:
                current_runtime().close()  # cancels a listing in flight
            else:
                current_runtime().submit(self._engine.aclose()).result(END_TIMEOUT_S)
        except Exception as exc:
            get_logger(__name__).debug("engine_not_closed error=%s", exc)
        finally:
            logging.shutdown()
            os._exit(0)


def _load_settings(settings: dict[str, Any]) -> tuple[Any, Any]:
    """Return the configuration and `prepare`, each of which may need a module that is missing here."""
    from streaming.core.adapter_config import AdapterConfig
    from streaming.errors import ConfigError

    loaded = []
    for what, data in settings["pickles"]:
        try:
            loaded.append(pickle.loads(data))
        except Exception as exc:
            text = f"{type(exc).__name__}: {exc}; define it in a module that can be imported, or use owner='thread'"
            raise ConfigError(f"{what} cannot be loaded in the child process: {text}") from exc
    options, prepare, *sources = loaded
    return AdapterConfig(sources=sources, **options), prepare


if __name__ == "__main__":
    main(int(sys.argv[1]))
