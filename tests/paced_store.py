"""A web server for objects in memory, behind a line that sends one after the other, at a pace that may change."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from types import TracebackType
from typing import Self

from aiohttp import web

from streaming.cli.demo.listening import end_listening

__all__ = ["PacedStore"]


class PacedStore:
    """Serves `objects` at a free port of loopback while in its `with` block, in a thread of its own.

    Args:
        objects: path to content; a path `index.json` lists them.
        seconds: time that the line takes for each object.

    Attributes:
        seconds: may be set at any time, for objects that wait.
        sent_s: total time that the line has been sending.
        url: where it listens, with a final slash.
    """

    def __init__(self, objects: dict[str, bytes], seconds: float) -> None:
        self.seconds = seconds
        self.sent_s = 0.0
        self.url = ""
        listing = json.dumps([{"path": path, "size": len(content)} for path, content in objects.items()])
        self._objects = {**objects, "index.json": listing.encode()}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="paced-store")

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> None:
        self._line = asyncio.Lock()
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        assert self._runner.server is not None
        self._server = await self._loop.create_server(self._runner.server, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"

    async def _close(self) -> None:
        await end_listening(self._server)
        await self._runner.cleanup()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _answer(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        if path not in self._objects:
            raise web.HTTPNotFound
        if path != "index.json":
            async with self._line:
                began = time.perf_counter()
                await asyncio.sleep(self.seconds)
                self.sent_s += time.perf_counter() - began
        return web.Response(body=self._objects[path])
