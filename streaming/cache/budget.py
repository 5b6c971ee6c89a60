"""The one account of a cache's bytes: what is stored and what is being read, never more than the budget together."""

from __future__ import annotations

import math
from typing import Protocol

from streaming.errors import ConfigError

WINDOW_SHARE = 1 / 2  # of the budget that reads ahead of the trainer may hold in flight


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
        reserved: bytes in flight, of which `ahead` for reads that nobody waits for yet; those are at most `window`.
    """

    __slots__ = ("ahead", "max_bytes", "reserved", "stored", "window")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.window = int(max_bytes * WINDOW_SHARE)
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
    """Room for one read in flight. Release it, or give it to `admit`, exactly when the bytes are no longer held."""

    __slots__ = ("_cache", "demanded", "nbytes")

    def __init__(self, cache: Reserver, demanded: bool) -> None:
        self._cache = cache
        self.demanded = demanded
        self.nbytes = 0

    def resize(self, nbytes: int) -> bool:
        """Correct the size, once it is known. False, and nothing changed, if there is no room for more."""
        return self._cache.resize_reservation(self, nbytes)

    def release(self) -> None:
        """Give the room back. Idempotent."""
        self._cache.resize_reservation(self, 0)
