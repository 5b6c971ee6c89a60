"""An HTTP server that misbehaves on request: raw answers, wrong lengths, slow bodies, early ends.

Each path has its own answer. Every answer ends its connection, so no fault reaches the next request.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from streaming.cli.demo.listening import end_listening

OK = 200


@dataclass(frozen=True)
class Request:
    """A request of a client: `target` is the path with its query as sent; header names are lower case."""

    method: str
    target: str
    headers: dict[str, str]


Answer = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


def respond(status: int = OK, body: bytes = b"", length: int | None = -1, **headers: str) -> Answer:
    """Answer with a status, headers (`_` for `-`) and a body; `length` is for Content-Length, None leaves that out."""

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        announced = len(body) if length == -1 else length
        writer.write(_head(status, announced, headers))
        if request.method != "HEAD":
            writer.write(body)

    return answer


def ranged(body: bytes, **headers: Any) -> Answer:
    """Answer requests for ranges with the range, and others with everything."""

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        if "range" not in request.headers:
            await respond(OK, body, **headers)(request, writer)
            return
        first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
        part = body[int(first) : int(last) + 1 if last else None]
        content_range = f"bytes {first}-{int(first) + len(part) - 1}/{len(body)}"
        await respond(206, part, Content_Range=content_range, **headers)(request, writer)

    return answer


def trickle(body: bytes, delay_s: float, chunk: int = 1) -> Answer:
    """Answer 200 with `body`, `chunk` bytes every `delay_s` seconds."""

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(_head(OK, len(body), {}))
        for start in range(0, len(body), chunk):
            writer.write(body[start : start + chunk])
            await writer.drain()
            await asyncio.sleep(delay_s)

    return answer


async def never(request: Request, writer: asyncio.StreamWriter) -> None:
    """Take the request and answer nothing until the server stops."""
    await asyncio.Event().wait()


async def hang_up(request: Request, writer: asyncio.StreamWriter) -> None:
    """End the connection without an answer."""


async def reset(request: Request, writer: asyncio.StreamWriter) -> None:
    """Reset the connection in the middle of a body."""
    writer.write(_head(OK, 1_000_000, {}) + b"x" * 1_000)
    await writer.drain()
    writer.transport.abort()


def in_turn(*answers: Answer) -> Answer:
    """Give each answer once, then the last forever."""
    left = list(answers)

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(request, writer)

    return answer


def _head(status: int, length: int | None, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Status", "Connection: close"]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


class FaultServer:
    """Serves `answers` (by path with query, as sent) on a free loopback port; anything else is 404.

    Attributes:
        url: where it listens, with a final slash.
        answers: may be changed while it runs.
        requests: all requests so far.
    """

    def __init__(self, **answers: Answer) -> None:
        self.answers: dict[str, Answer] = {f"/{name}": answer for name, answer in answers.items()}
        self.requests: list[Request] = []
        self.url = ""
        self._running: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Close the port and every connection, also one that was only just accepted."""
        await end_listening(self._server)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._running[task] = writer
        task.add_done_callback(self._end)  # runs even if the task is cancelled before it starts

    def _end(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task).close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._answer(reader, writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = lines[0].split(" ")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        request = Request(method, target, headers)
        self.requests.append(request)
        await self.answers.get(target, respond(404))(request, writer)
        await writer.drain()
