"""The training process's side of `owner="process"`: it starts a child process that reads, and ends it.

If the trainer's Python holds the interpreter's lock (GIL), a loop thread waits up to the switch interval, 5 ms, each
time it wakes up. A child process has its own lock. It is a fresh interpreter, never a fork, so it shares no lock,
client or thread with the trainer. Samples pass through its arena, which both processes map.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any

from streaming.core.adapter_config import AdapterConfig
from streaming.engine.child import receive, send
from streaming.errors import ConfigError, EngineGoneError
from streaming.link.messages import FORK_LOCK, LinkHandle
from streaming.link.worker import Worker
from streaming.sources.memory import MemorySource

__all__ = ["RemoteEngine"]

CLOSE_TIMEOUT_S = 5.0
"""How long `close` waits for the child: longer than the child waits for its reads, so that it is rarely killed."""


class RemoteEngine(Worker):
    """A `SampleReader` over an engine in a child process, which it starts and ends.

    Args:
        config: the settings of the engine.
        prepare: see `Engine`; pickled, so it must be a function of a module that the child can import.
        shares: number of engines that share the budget.

    Raises:
        ConfigError: the configuration cannot be sent to another process.
        EngineGoneError: the child ended before it was ready.
        Exception: what opening raised in the child.
    """

    announces = True

    def __init__(self, config: AdapterConfig, prepare: Callable[[Any], Any] | None, shares: int = 1) -> None:
        settings = {
            "pickles": _pickled(config, prepare),
            "shares": shares,
            "log_level": logging.getLogger("streaming").getEffectiveLevel(),
        }
        self._pid = os.getpid()
        self._fds: list[int] = []
        self._process, self._line = _start()
        try:
            opened = self._open(settings)
        except BaseException:
            self.close()
            raise
        self.length = opened["length"]
        self.fingerprint = opened["fingerprint"]
        super().__init__(LinkHandle(*self._fds))

    def _open(self, settings: dict[str, Any]) -> dict[str, Any]:
        try:
            send(self._line, settings)
            opened, self._fds = receive(self._line, 2)
        except (EOFError, OSError) as exc:
            raise self._gone() from exc
        if "error" in opened:
            raise pickle.loads(opened["error"])
        result: dict[str, Any] = opened
        return result

    def forget(self, order: int) -> None:
        """Forget what was announced under this token; does nothing once the child has ended."""
        with contextlib.suppress(EngineGoneError):
            super().forget(order)

    def close(self) -> None:
        """End the child and wait for its end. Idempotent; does nothing in a fork of the process that started it."""
        if os.getpid() != self._pid or self._line.fileno() < 0:
            return
        self._line.close()
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._fds:
            super().close()
        for fd in self._fds:
            os.close(fd)

    def _request(self, message: Any, timeout_s: float | None = None) -> Any:
        try:
            return super()._request(message, timeout_s)
        except EngineGoneError as exc:
            if isinstance(exc.__cause__, TimeoutError):  # it is stopped, and has not ended
                raise
            raise self._gone() from exc

    async def _request_async(self, message: Any) -> Any:
        try:
            return await super()._request_async(message)
        except EngineGoneError as exc:
            raise self._gone() from exc

    def _gone(self) -> EngineGoneError:
        """Return the error for a child that does not answer, with how it ended."""
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            how = "no longer answers"
        else:
            how = f"ended with exit code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
        hint = ", often that means too little memory" if how.endswith("SIGKILL") else ""
        return EngineGoneError(
            f"the process {self._process.pid} that reads for this one {how}{hint}; "
            "see what it wrote to stderr, and make a new adapter to continue"
        )


# -- starting the child

_lines: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _start() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a child; return it and our end of the stream, which keeps it alive."""
    if not hasattr(socket, "send_fds"):
        raise ConfigError(f"owner='process' needs Linux or macOS, this is {sys.platform}: use owner='thread'")
    # -P: modules are not imported from the working folder, unless it is in `sys.path` anyway.
    command = [sys.executable, "-P", "-m", "streaming.engine.child"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(path) or os.getcwd() for path in sys.path)}
    with FORK_LOCK:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        _lines.add(ours)
        # An interrupt would end the child before it can ignore it; a mask, unlike a handler, survives the exec.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with theirs:
                fd = theirs.fileno()
                process = subprocess.Popen(
                    [*command, str(fd)], stdin=subprocess.DEVNULL, pass_fds=[fd], env=environment
                )
        except BaseException:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return process, ours


def _close_lines() -> None:
    """Close inherited streams in a forked child: open ones would keep the engine alive after its trainer died."""
    for line in list(_lines):
        line.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_lines)


# -- sending the settings


class _Pickler(pickle.Pickler):
    """Refuses objects that would differ in the child."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, MemorySource):
            raise pickle.PicklingError("it holds its objects in the memory of this process")
        if isinstance(obj, (type, FunctionType)) and obj.__module__ == "__main__":
            raise pickle.PicklingError(f"{obj.__qualname__} is defined in the script itself, not in a module")
        return NotImplemented


def _pickled(config: AdapterConfig, prepare: Callable[[Any], Any] | None) -> list[tuple[str, bytes]]:
    """Return the pickled options, `prepare` and sources, each with a name for messages."""
    options = {name: getattr(config, name) for name in type(config).model_fields if name not in ("sources", "owner")}
    name = getattr(prepare, "__qualname__", None) or repr(prepare)
    parts = [("the configuration", options), (f"prepare={name}", prepare)]
    parts += [(f"source {source.name!r}", source) for source in config.sources]
    return [(what, _pickle(what, value)) for what, value in parts]


def _pickle(what: str, value: Any) -> bytes:
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, protocol=5).dump(value)
    except Exception as exc:
        raise ConfigError(
            f"{what} cannot be sent to the child process: {exc}; "
            "define it in a module (no lambda, no object of this process), or use owner='thread'"
        ) from exc
    return buffer.getvalue()
