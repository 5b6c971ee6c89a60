from __future__ import annotations

import asyncio
import contextlib
import gc
import socket

import pytest

from streaming.cli.demo.listening import end_listening


class _Closing(asyncio.Protocol):
    """Closes each connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


@pytest.mark.parametrize("turns", range(6))
async def test_a_connection_in_the_moment_of_closing_is_not_leaked(turns: int) -> None:
    """However far the server is with accepting it, the client sees its end, and no socket is left to the collector."""
    server = await asyncio.get_running_loop().create_server(_Closing, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        for _ in range(turns):
            await asyncio.sleep(0)
        await end_listening(server)
        await server.wait_closed()
        for _ in range(2):
            await asyncio.sleep(0)  # the transport closes its socket in a turn of its own
        client.settimeout(30)
        with contextlib.suppress(ConnectionResetError):  # it was not accepted
            assert client.recv(1) == b""
    gc.collect()
