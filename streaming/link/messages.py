"""The link between the engine's process and its workers: one message per batch, over a socket pair.

A worker cannot share the engine's clients, and needs none: it sends positions, and the engine replies with places in
the shared arena. To connect, a worker makes a stream pair and passes one end through a datagram pair that it inherited
(fork) or was sent (spawn, forkserver). Nothing has a name, so nothing can be left behind. When either side dies, the
kernel closes its end, and the other side sees that at its next read.

A message is an 8-byte length and a `marshal` value: both ends run the same interpreter, and only a process and its
children hold the link. A reply is a value, or the pickle of the error that the request met; the link stays open.
"""

from __future__ import annotations

import asyncio
import errno
import marshal
import os
import pickle
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen
from typing import Any, NamedTuple

from streaming.core.logs import get_logger
from streaming.core.runtime import Runtime
from streaming.errors import EngineGoneError
from streaming.link.pickled_errors import pickle_error

__all__ = ["FORK_LOCK", "LinkClient", "LinkHandle", "LinkServer", "is_spawning"]

logger = get_logger(__name__)

_LENGTH = struct.Struct("=Q")
_HELLO = b"streaming-link-2"
_CLIENT_BYTES = 8
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ETOOMANYREFS}  # in this process
_GONE = (
    "the process that reads for this worker has ended or closed its adapter; "
    "end this worker and start again from the training process"
)

FORK_LOCK = threading.RLock()
"""Held while this process has both ends of a pair: a child forked meanwhile would keep the other end open forever."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=FORK_LOCK.acquire, after_in_parent=FORK_LOCK.release, after_in_child=FORK_LOCK.release)


def _frame(message: Any) -> bytes:
    body = marshal.dumps(message)
    return _LENGTH.pack(len(body)) + body


def is_spawning() -> bool:
    """Whether an object is being pickled for a child process that is being started right now."""
    return get_spawning_popen() is not None


class LinkHandle:
    """File descriptors with which a child process connects: the datagram end and the arena.

    Pickles only while a child process is being started (`is_spawning`); the child gets descriptors of its own.
    """

    def __init__(self, hello_fd: int, arena_fd: int) -> None:
        self.hello_fd = hello_fd
        self.arena_fd = arena_fd

    def __getstate__(self) -> Any:
        return reduction.DupFd(self.hello_fd), reduction.DupFd(self.arena_fd)

    def __setstate__(self, state: Any) -> None:
        self.hello_fd, self.arena_fd = (dup.detach() for dup in state)


class _Connection(NamedTuple):
    sock: socket.socket
    client: bytes


class LinkServer:
    """The engine's side: replies to each request with what `answer` returns for it, or with the error that it raises.

    Args:
        runtime: answers the requests on its loop.
        answer: `await answer(request)` returns the reply; both are plain values that `marshal` supports.
        on_left: `on_left(client)` is called on the loop when the last connection of a client has ended.
    """

    def __init__(
        self,
        runtime: Runtime,
        answer: Callable[[Any], Awaitable[Any]],
        on_left: Callable[[bytes], None] | None = None,
    ) -> None:
        self._runtime = runtime
        self._answer = answer
        self._on_left = on_left
        self._mine, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._mine.setblocking(False)
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        runtime.call_soon(self._open)

    @property
    def hello_fd(self) -> int:
        """The descriptor through which children connect."""
        return self._theirs.fileno()

    @property
    def workers(self) -> int:
        """Workers connected at this moment."""
        return len(self._connections)

    def _open(self) -> None:
        if self._mine.fileno() >= 0:
            self._runtime.loop.add_reader(self._mine.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            message, fds, _, _ = socket.recv_fds(self._mine, 64, 1)
        except BlockingIOError:
            return
        for fd in fds:
            if not message.startswith(_HELLO):
                os.close(fd)
                continue
            connection = _Connection(socket.socket(fileno=fd), message.removeprefix(_HELLO))
            task = self._runtime.loop.create_task(self._serve(connection.sock))
            self._connections[task] = connection
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        client = self._connections.pop(task).client
        if self._on_left is not None and all(other.client != client for other in self._connections.values()):
            self._on_left(client)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(sock=connection)
        except BaseException:
            connection.close()  # else the other side would wait forever
            raise
        try:
            while True:
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                writer.write(await self._reply(await reader.readexactly(length)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            logger.debug("worker_disconnected workers=%d", len(self._connections) - 1)
        finally:
            writer.close()

    async def _reply(self, request: bytes) -> bytes:
        try:
            return _frame((False, await self._answer(marshal.loads(request))))
        except Exception as exc:
            return _frame((True, pickle_error(exc)))
        except BaseException as exc:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # the server closes
                raise
            return _frame((True, pickle_error(RuntimeError(f"{type(exc).__name__}: {exc}"))))

    async def aclose(self) -> None:
        """Stop answering; workers see the end of the link. Runs on the runtime's loop. Idempotent."""
        if self._mine.fileno() >= 0:
            self._runtime.loop.remove_reader(self._mine.fileno())
        self._mine.close()
        self._theirs.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def close_inherited(self) -> None:
        """Close the ends that a forked child inherits, so that every worker sees when the engine's process dies."""
        for sock in (self._mine, *(connection.sock for connection in self._connections.values())):
            if sock.fileno() >= 0:
                os.close(sock.detach())


class LinkClient:
    """A worker's side. Connects on first use in each process; concurrent threads have a connection each.

    Args:
        hello_fd: the inherited or received datagram end.
    """

    def __init__(self, hello_fd: int) -> None:
        self._hello_fd = hello_fd
        self._begin()

    def _begin(self) -> None:
        self._free: list[socket.socket] = []
        self._pid = os.getpid()
        self._client = os.urandom(_CLIENT_BYTES)

    @property
    def client(self) -> bytes:
        """Identifier of this client in this process, which all its connections share."""
        if self._pid != os.getpid():  # a fork of a worker shares no connection
            self._begin()
        return self._client

    def request(self, message: Any, timeout_s: float | None = None) -> Any:
        """Send one request and wait for its reply.

        Args:
            timeout_s: for each message; None waits while the engine's process lives.

        Raises:
            EngineGoneError: the engine's process has ended or closed its adapter, or the time is up.
            Exception: the error that the engine met when it answered.
        """
        request = _frame(message)
        client = self.client
        connection = None
        try:
            connection = self._free.pop() if self._free else self._connect(client)
            connection.settimeout(timeout_s)
            connection.sendall(request)
            (length,) = _LENGTH.unpack(_receive(connection, _LENGTH.size))
            reply = _receive(connection, length)
        except BaseException as exc:
            if connection is not None:  # also after an interrupt: the next request must not get this reply
                connection.close()
            if isinstance(exc, OSError) and exc.errno not in _EXHAUSTED:
                raise EngineGoneError(_GONE) from exc
            raise
        self._free.append(connection)
        return _value(reply)

    async def request_async(self, message: Any) -> Any:
        """Like `request`, on any loop; cancelling it ends only the wait.

        Raises:
            EngineGoneError: the engine's process has ended or closed its adapter.
            Exception: the error that the engine met when it answered.
        """
        request = _frame(message)
        try:
            reader, writer = await asyncio.open_unix_connection(sock=self._connect(self.client))
            try:
                writer.write(request)
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                reply = await reader.readexactly(length)
            finally:
                writer.close()
        except (OSError, asyncio.IncompleteReadError) as exc:
            if isinstance(exc, OSError) and exc.errno in _EXHAUSTED:
                raise
            raise EngineGoneError(_GONE) from exc
        return _value(reply)

    def close(self) -> None:
        """Close the connections. Idempotent; the next request opens a new one."""
        free, self._free = self._free, []
        for connection in free:
            connection.close()

    def _connect(self, client: bytes) -> socket.socket:
        with FORK_LOCK:
            near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                with far, socket.socket(fileno=os.dup(self._hello_fd)) as hello:
                    socket.send_fds(hello, [_HELLO + client], [far.fileno()])
            except BaseException:
                near.close()
                raise
        return near

    def __reduce__(self) -> Any:
        raise TypeError("a link belongs to its process; send the handle while a child process is being started")


def _value(reply: bytes | bytearray) -> Any:
    is_error, value = marshal.loads(reply)
    if is_error:
        raise pickle.loads(value)
    return value


def _receive(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if count == 0:
            raise ConnectionResetError("the other side of the link ended")
        view = view[count:]
    return data
