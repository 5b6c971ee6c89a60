from __future__ import annotations

import socket

import pytest

from tests.loopback import held_port, held_ports


def test_a_held_port_serves_again_and_again() -> None:
    """A server can listen at it, end, and listen again; in between it refuses connections."""
    with held_port() as port:
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
            with socket.create_server(("127.0.0.1", port)) as server, socket.create_connection(("127.0.0.1", port)):
                server.accept()[0].close()


def test_a_held_port_is_given_to_no_one_else() -> None:
    """A socket without SO_REUSEADDR, as clients have, cannot be bound to that port; afterwards it can."""
    with held_ports(2) as (port, other):
        assert port != other
        with socket.socket() as client, pytest.raises(OSError, match="in use"):
            client.bind(("127.0.0.1", port))
    with socket.socket() as client:
        client.bind(("127.0.0.1", port))
