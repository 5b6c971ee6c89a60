"""A process that is only an owner: `python -m streaming.engine.child FD` reads for one training process.

The descriptor is a stream pair to the training process. It sends the settings; the answer is what `RemoteEngine` needs,
with the descriptors of the link and of the arena, or the error that opening met. From then on nothing more passes, and
the end of the stream is the end of the training process, however that came about: this process then ends too.

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

if TYPE_CHECKING:  # the rest is imported when the signals are set
    from streaming.engine.engine import Engine
    from streaming.telemetry.counters import MetricsSnapshot

__all__ = ["main", "receive", "send"]

END_TIMEOUT_S = 2.0
"""How long reads under way have to end in order; the training process waits longer, and then kills."""

_HEADER = struct.Struct("=Q")


def send(line: socket.socket, message: Any, fds: list[int] | None = None) -> None:
    """Send one message of the opening, and descriptors with it."""
    body = pickle.dumps(message, protocol=5)
    socket.send_fds(line, [_HEADER.pack(len(body))], fds or [])
    line.sendall(body)


def receive(line: socket.socket, most_fds: int = 0) -> tuple[Any, list[int]]:
    """The next message of the opening, and the descriptors that came with it.

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
        raise EOFError("the other side of the line ended")
    return data


def main(fd: int) -> None:
    """Serve until the other side of the line ends; then end this process. Never returns."""
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
    """What this process does for the training process."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    def open(self, line: socket.socket, settings: dict[str, Any]) -> None:
        """Open the owner and say so, or say why not."""
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
        told = {"length": engine.length, "fingerprint": engine.fingerprint}
        send(line, told, [self._server.hello_fd, engine.cache.arena.fd])

    def metrics_snapshot(self) -> MetricsSnapshot:
        """Those of the owner, and the memory of this process."""
        reading = self._opened.metrics_snapshot("owner")
        memory = resident_memory()
        return reading if memory is None else {**reading, "process_resident_memory_bytes": {("owner",): memory}}

    @property
    def _opened(self) -> Engine:
        assert self._engine is not None
        return self._engine

    def end_with(self, line: socket.socket) -> None:
        """Wait for the end of the line, stop reading, and end this process."""
        with contextlib.suppress(OSError):
            while line.recv(1):
                pass
        from streaming.core.logs import get_logger
        from streaming.core.runtime import current_runtime

        try:
            if self._engine is None:
                current_runtime().close()  # cancels a listing under way
            else:
                current_runtime().submit(self._engine.aclose()).result(END_TIMEOUT_S)
        except Exception as exc:
            get_logger(__name__).debug("engine_not_closed error=%s", exc)
        finally:
            logging.shutdown()
            os._exit(0)


def _load_settings(settings: dict[str, Any]) -> tuple[Any, Any]:
    """The configuration and `prepare`, each of which may need a module that is not there."""
    from streaming.core.adapter_config import AdapterConfig
    from streaming.errors import ConfigError

    loaded = []
    for what, data in settings["pickles"]:
        try:
            loaded.append(pickle.loads(data))
        except Exception as exc:
            text = f"{type(exc).__name__}: {exc}; define it in a module that can be imported, or use owner='thread'"
            raise ConfigError(f"{what} cannot be loaded in the owner's process: {text}") from exc
    options, prepare, *sources = loaded
    return AdapterConfig(sources=sources, **options), prepare


if __name__ == "__main__":
    main(int(sys.argv[1]))
