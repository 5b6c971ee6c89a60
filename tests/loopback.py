"""Ports of the loopback interface that stay free for the server that a test starts there."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

__all__ = ["held_port", "held_ports"]


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """Yield a port that refuses connections, and that no other process is given before this block ends.

    A server with SO_REUSEADDR, as all servers here are, can listen at it and end any number of times. A port that is
    only looked up may be that of another connection by the time the server starts: the system gives each client one.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextlib.contextmanager
def held_ports(number: int) -> Iterator[list[int]]:
    """Yield several ports (see `held_port`)."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(held_port()) for _ in range(number)]
