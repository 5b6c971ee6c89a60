"""A TCP relay in front of a real server, which a test kills, silences, or makes cut answers."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from streaming.cli.demo.listening import end_listening
from tests.loopback import held_port


class Relay:
    """Listens on loopback while in its `with` block and passes bytes on, in a thread of its own.

    Attributes:
        url: URL of the relay, with a final slash.
        connections: number of accepted connections.
        cut_share: share of connections that end at a random byte of the first answers; may be set at any time.
    """

    def __init__(self, url: str, seed: int = 0) -> None:
        parts = urlsplit(url)
        self._target = parts.hostname or "", parts.port or 80
        self.connections = 0
        self.cut_share = 0.0
        self._random = random.Random(seed)
        self._is_silent = False
        self._held = contextlib.ExitStack()
        self._port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay")

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT/`, the same after `revive`."""
        return f"http://127.0.0.1:{self._port}/"

    def __enter__(self) -> Self:
        self._port = self._held.enter_context(held_port())  # also while the relay is killed
        self._thread.start()
        self.revive()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._held.close()

    def kill(self) -> None:
        """Refuse connections and reset those that are open."""
        self._run(self._kill())

    def silence(self) -> None:
        """Accept connections, but send nothing any more, on any of them."""
        self._is_silent = True

    def revive(self) -> None:
        """Work as at the start, at the same port."""
        self._is_silent = False
        self._run(self._listen())

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._take, "127.0.0.1", self._port)

    async def _kill(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await end_listening(server)
        for writer in list(self._open):
            writer.transport.abort()

    async def _end(self) -> None:
        await self._kill()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        self.connections += 1
        left = self._random.randrange(1, 100_000) if self._random.random() < self.cut_share else None
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                behind, ahead = await asyncio.open_connection(*self._target)
                self._open.add(ahead)
                try:
                    await asyncio.gather(self._pass(reader, ahead, None), self._pass(behind, writer, left))
                finally:
                    self._open.discard(ahead)
                    ahead.transport.abort()
        finally:
            self._open.discard(writer)
            writer.transport.abort()
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None) -> None:
        while data := await reader.read(65_536):
            while self._is_silent:
                await asyncio.Event().wait()
            if left is not None and len(data) >= left:
                writer.write(data[:left])
                await writer.drain()
                raise ConnectionResetError
            left = None if left is None else left - len(data)
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError
