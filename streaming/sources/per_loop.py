"""Clients that belong to one event loop each: opened at the first use in a loop, and closed in the same loop."""

from __future__ import annotations

import asyncio
import atexit
import os
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeVar

from streaming.errors import ClosedError

__all__ = ["PerLoop", "close_in", "opened_before_fork"]

CLOSE_TIMEOUT_S = 2.0  # for a client of another loop, which may be stopping

T = TypeVar("T")


class PerLoop(Generic[T]):
    """One client for each event loop.

    Args:
        source: the name of the source, for messages.
        open_client: makes a client for the running loop.
        close_client: closes a client; called in its loop if that still runs.
    """

    def __init__(
        self,
        source: str,
        open_client: Callable[[], Awaitable[T]],
        close_client: Callable[[T], Coroutine[Any, Any, None]],
    ) -> None:
        self._source = source
        self._open_client = open_client
        self._close_client = close_client
        self._clients: dict[asyncio.AbstractEventLoop, T] = {}
        self._retired: list[tuple[asyncio.AbstractEventLoop, T]] = []
        self._opening: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}
        self._pid = os.getpid()

    @property
    def is_inherited(self) -> bool:
        """Whether the clients were opened before this process was forked."""
        return self._pid != os.getpid()

    def current(self) -> T | None:
        """Return the client of the running loop, or None if it is not open."""
        return self._clients.get(asyncio.get_running_loop())

    async def open(self) -> T:
        """Return the client of the running loop, opening it if needed.

        Raises:
            ClosedError: if clients were opened before this process was forked.
        """
        if self.is_inherited:
            if self._clients:
                raise opened_before_fork(self._source, self._pid)
            self._pid = os.getpid()
        loop = asyncio.get_running_loop()
        async with self._opening.setdefault(loop, asyncio.Lock()):
            if loop not in self._clients:
                self._clients[loop] = await self._open_client()
                _all.add(self)
        client = self._clients[loop]
        for ended in [each for each in self._clients if each.is_closed()]:
            self._opening.pop(ended, None)
            await close_in(ended, partial(self._close_client, self._clients.pop(ended)))
        return client

    def retire(self) -> None:
        """Let the next `open` make another client. The old one stays open for other reads, until `aclose`."""
        loop = asyncio.get_running_loop()
        self._retired.append((loop, self._clients.pop(loop)))

    async def aclose(self) -> None:
        """Close the clients of all loops. In a forked child they are the parent's, and stay open."""
        if self.is_inherited:
            self._clients.clear()
            self._retired.clear()
        while self._clients or self._retired:
            loop, client = self._retired.pop() if self._retired else self._clients.popitem()
            await close_in(loop, partial(self._close_client, client))

    def close_at_exit(self) -> None:
        """Close what is still open, from a thread without a loop. aiohttp warns of each session left open."""
        if not self.is_inherited and (self._clients or self._retired):
            asyncio.run(self.aclose())


async def close_in(loop: asyncio.AbstractEventLoop, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Close a client in its loop. If that no longer runs, its connections ended with it: close it here."""
    if loop is not asyncio.get_running_loop() and loop.is_running():
        closing = asyncio.run_coroutine_threadsafe(close(), loop)
        await asyncio.wait_for(asyncio.wrap_future(closing), CLOSE_TIMEOUT_S)
    else:
        await close()


def opened_before_fork(source: str, pid: int) -> ClosedError:
    """Return the error for a client that was inherited by a forked child, where it would hang."""
    text = f"source {source!r} was opened in process {pid}, before this one was forked from it"
    return ClosedError(f"{text}; read in the parent, or make a new source here", source=source)


_all: weakref.WeakSet[PerLoop[Any]] = weakref.WeakSet()
_inherited: list[Any] = []


def _keep_inherited() -> None:
    """Keep the parent's clients alive in a forked child. Closing or collecting one there removes its connections from
    the epoll set that both processes share, and the parent's next read hangs."""
    for each in _all:
        _inherited.extend([*each._clients.values(), *each._retired])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_inherited)


@atexit.register
def _close_all() -> None:
    for each in list(_all):
        each.close_at_exit()
