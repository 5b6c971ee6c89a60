"""End a server of asyncio that is just accepting connections."""

from __future__ import annotations

import asyncio

__all__ = ["end_listening"]

TURNS_OF_ACCEPTING = 8
"""Turns of the loop until an accepted connection has its task; four in CPython."""


async def end_listening(server: asyncio.Server) -> None:
    """Close a server of this loop; each connection that it was just accepting has its protocol and task afterwards.

    In CPython 3.11 a server that closes while it accepts leaks the socket.
    """
    for listening in server.sockets:
        asyncio.get_running_loop().remove_reader(listening.fileno())
    for _ in range(TURNS_OF_ACCEPTING):
        await asyncio.sleep(0)
    server.close()
