"""The one account of a cache's bytes: what is stored and what is being read, never more than the budget together."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Protocol

from streaming.errors import ConfigError

UNKNOWN_BYTES = 8 << 20
"""Bytes reserved for a read whose size is not known."""


def budget_bytes(max_size_gb: float, max_size_bytes: int | None) -> int:
    """The budget, of which bytes count where both are given. Raises ConfigError unless it is finite and above 0."""
    size = max_size_gb * 1e9 if max_size_bytes is None else max_size_bytes
    if not 1 <= size < math.inf:
        raise ConfigError(f"the cache needs a finite size above 0 bytes, not {size!r}; set max_size_gb")
    return int(size)


class Budget:
    """Plain numbers; the cache holds its lock around every change.

    Attributes:
        max_bytes: the limit.
        stored: bytes of stored blocks and of the bookkeeping for them.
        reserved: bytes in flight.
        ahead: bytes of reads that nobody waits for yet: reserved, or stored for a reader to come.
    """

    __slots__ = ("ahead", "max_bytes", "reserved", "stored")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.stored = 0
        self.reserved = 0
        self.ahead = 0

    def has_room(self, nbytes: int) -> bool:
        """Whether so many bytes more fit without evicting."""
        return self.stored + self.reserved + nbytes <= self.max_bytes

    def hold(self, nbytes: int, demanded: bool) -> None:
        """Adds bytes in flight, or takes them away where negative."""
        self.reserved += nbytes
        if not demanded:
            self.ahead += nbytes


class Reserver(Protocol):
    """What a reservation needs of its cache."""

    def resize_reservation(self, reservation: Reservation, nbytes: int) -> bool:
        """Changes the bytes held; False, and nothing changed, if there is no room."""


class Reservation:
    """Room for one read in flight. Release it, or give it to `admit`, exactly when the bytes are no longer held.

    Attributes:
        nbytes: bytes held.
        demanded: whether somebody waits for the read.
        key: whose sample is read; None where `admit` is told the reservation itself.
        parked: bytes of a sample that was read ahead, now stored, until the reservation is released.
    """

    __slots__ = ("_cache", "demanded", "key", "nbytes", "parked")

    def __init__(self, cache: Reserver, demanded: bool, key: Hashable = None) -> None:
        self._cache = cache
        self.demanded = demanded
        self.key = key
        self.nbytes = 0
        self.parked = 0

    def resize(self, nbytes: int) -> bool:
        """Correct the size, once it is known. False, and nothing changed, if there is no room for more."""
        return self._cache.resize_reservation(self, nbytes)

    def release(self) -> None:
        """Give the room back. Idempotent."""
        self._cache.resize_reservation(self, 0)
