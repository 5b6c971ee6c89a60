"""A web server on the loopback interface that answers slowly, like one across a network.

It has its own event loop and thread in this process, so it ends with the process.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from html import escape
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import quote

from streaming.cli.demo.listening import end_listening

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["SlowServer"]

SHUTDOWN_S = 0.5
"""Time for open connections to finish; remaining readers have been cancelled."""


class SlowServer:
    """Serve a folder over HTTP on 127.0.0.1 while in its `with` block.

    Folders answer with a listing like nginx's autoindex, files with their size, ETag, and ranges.

    Args:
        root: the folder.
        latency_s: wait before each response; requests wait concurrently.
        stops_after: number of responses after which it aborts open requests and stops listening; None: never.

    Attributes:
        requests: number of requests so far.
        answers: number of requests that were not aborted.
    """

    def __init__(self, root: Path, latency_s: float, stops_after: int | None = None) -> None:
        self.requests = 0
        self.answers = 0
        self._stops_after = stops_after
        self._root = root
        self._latency_s = latency_s
        self._port = 0
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._main, name="demo-server", daemon=True)

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT/`."""
        return f"http://127.0.0.1:{self._port}/"

    def __enter__(self) -> SlowServer:
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._join()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(RuntimeError):  # the loop has ended already; `_join` raises the reason
            self._loop.call_soon_threadsafe(self._stop.set)
        self._join()

    def _join(self) -> None:
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _main(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as exc:
            self._failure = exc
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()
            self._ready.set()

    async def _serve(self) -> None:
        from aiohttp import web

        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        try:
            assert runner.server is not None
            server = await self._loop.create_server(runner.server, "127.0.0.1", 0)
            self._port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._stop.wait()
            await end_listening(server)
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        self.requests += 1
        await asyncio.sleep(self._latency_s)
        if self._stops_after is not None and self.answers >= self._stops_after:
            self._stop.set()
            assert request.transport is not None
            request.transport.abort()
        self.answers += 1
        path = (self._root / request.match_info["path"]).resolve()
        if path != self._root.resolve() and self._root.resolve() not in path.parents:
            raise web.HTTPForbidden
        if await asyncio.to_thread(path.is_dir):
            return web.Response(text=await asyncio.to_thread(_autoindex, path), content_type="text/html")
        if not await asyncio.to_thread(path.is_file):
            raise web.HTTPNotFound
        return web.FileResponse(path)


def _autoindex(folder: Path) -> str:
    listing = "\n".join(map(_entry, sorted(folder.iterdir())))
    return (
        f'<html><head><title>Index of /</title></head><body><pre><a href="../">../</a>\n{listing}\n</pre></body></html>'
    )


def _entry(path: Path) -> str:
    status = path.stat()
    name, size = (f"{path.name}/", "-") if path.is_dir() else (path.name, str(status.st_size))
    modified = time.strftime("%d-%b-%Y %H:%M", time.gmtime(status.st_mtime))
    return f'<a href="{quote(name)}">{escape(name)}</a> {modified} {size:>20}'
