"""A web server on loopback that answers with whatever bytes a test gives it, and counts what left it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

LEAST_OF_A_LIE = 200_000_000  # bytes of a body that says it is small; the sockets between hold some 10 MB
STAMPS = (
    'ETag: "e"',
    "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT",
    "Connection: close",
)


@dataclass(frozen=True)
class Request:
    """A request: `target` is the path with its query as sent; header names are lower case."""

    method: str
    target: str
    headers: dict[str, str]


Answer = Callable[[Request], Iterable[bytes]]


def head(status: int, *lines: str) -> bytes:
    """The first part of an answer, up to its body."""
    return "\r\n".join([f"HTTP/1.1 {status} Status", *STAMPS, *lines, "", ""]).encode()


def respond(status: int, *lines: str, body: bytes = b"") -> Answer:
    """An honest answer; `lines` are headers."""
    return lambda request: [head(status, f"Content-Length: {len(body)}", *lines), body]


def redirect(url: str, status: int = 302) -> Answer:
    """Sends the client elsewhere."""
    return respond(status, f"Location: {url}")


def endless(status: int, *lines: str, of: bytes = b"x" * 65_536) -> Answer:
    """A chunked body of `LEAST_OF_A_LIE` bytes, whatever `lines` say of its length."""
    chunk = b"%x\r\n%s\r\n" % (len(of), of)

    def answer(request: Request) -> Iterator[bytes]:
        yield head(status, "Transfer-Encoding: chunked", *lines)
        for _ in range(LEAST_OF_A_LIE // len(of)):
            yield chunk
        yield b"0\r\n\r\n"

    return answer


class HostileServer:
    """Gives each request one answer over a connection of its own.

    Args:
        answer: what each request gets.
        host: an address of loopback.

    Attributes:
        url: where it listens, with a final slash.
        requests: requests received so far.
        sent: bytes that a client, or the sockets on the way to it, took.
    """

    def __init__(self, answer: Answer, host: str = "127.0.0.1") -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.sent = 0
        self._socket = socket.create_server((host, 0))
        self.url = f"http://{host}:{self._socket.getsockname()[1]}/"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, ValueError):
            request = _read(connection)
            self.requests.append(request)
            for piece in self.answer(request):
                connection.sendall(piece)
                self.sent += len(piece)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(65_536)


def _read(connection: socket.socket) -> Request:
    text = b""
    while b"\r\n\r\n" not in text:
        piece = connection.recv(65_536)
        if not piece:
            raise ValueError("no request came")
        text += piece
    first, *lines = text.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    named = (line.partition(":") for line in lines)
    return Request(method, target, {name.lower(): value.strip() for name, _, value in named})
