"""The line between an owner process and its workers: one message per batch, over a socket pair.

A worker cannot share the owner's clients, and needs none: it asks the owner, by position, and the owner answers with
places in the shared arena. To connect, a worker makes a stream pair and passes one end through a datagram pair that it
inherited (fork) or was sent (spawn, forkserver); nothing has a name, so nothing can be left behind. When either side
dies the kernel closes its end, and the other side sees that at its next read.

Messages are an 8-byte length and a `marshal` value: both ends run the same interpreter, and only kin hold the line. A
reply says whether it is a value, or the pickle of the error that the request met; the line goes on after errors.
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
"""Held while this process has both ends of a pair: a child forked just then would keep the other end open for ever."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=FORK_LOCK.acquire, after_in_parent=FORK_LOCK.release, after_in_child=FORK_LOCK.release)


def _frame(message: Any) -> bytes:
    body = marshal.dumps(message)
    return _LENGTH.pack(len(body)) + body


def is_spawning() -> bool:
    """Whether an object is being pickled for a child process that is being started right now."""
    return get_spawning_popen() is not None


class LinkHandle:
    """What a child process needs to connect: the datagram end and the arena, as file descriptors.

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
    """The owner's side: answers each request with what `answer` returns for it, or with the error that it raises.

    Args:
        runtime: on whose loop the requests are answered.
        answer: `await answer(request)` gives the reply; both are plain values that `marshal` knows.
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
            connection.close()  # else the other side would wait for ever
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
        """Stop answering; workers see the end of the line. Runs on the runtime's loop. Idempotent."""
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
        """In a forked child: close the copies of the owner's ends, so that its death stays visible to every worker."""
        for sock in (self._mine, *(connection.sock for connection in self._connections.values())):
            if sock.fileno() >= 0:
                os.close(sock.detach())


class LinkClient:
    """A worker's side. Connects on first use in each process; threads that ask at once have a connection each.

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
        """What the other side knows this client by, in this process: all its connections have it."""
        if self._pid != os.getpid():  # a fork of a worker shares no connection
            self._begin()
        return self._client

    def request(self, message: Any, timeout_s: float | None = None) -> Any:
        """Send one request and wait for its reply.

        Args:
            timeout_s: for each message of the line; None waits as long as the owner lives.

        Raises:
            EngineGoneError: the owner process has ended or closed its adapter, or the time is up.
            Exception: what the owner met when it answered.
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
        """As `request`, on any loop; cancelling it ends only the waiting.

        Raises:
            EngineGoneError: the owner process has ended or closed its adapter.
            Exception: what the owner met when it answered.
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
        """End the line. Idempotent; the next request opens it again."""
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
        raise TypeError("a line belongs to its process; send the handle while a child process is being started")


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
            raise ConnectionResetError("end of the line")
        view = view[count:]
    return data
