"""The one account of a cache's bytes: what is stored and what is being read, never more than the budget together."""

from __future__ import annotations

import math

from streaming.errors import ConfigError

_ADMISSIONS = 256  # over which `mean_ahead` is averaged

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
        mean_ahead: average of `ahead` over the last admissions.
    """

    __slots__ = ("ahead", "max_bytes", "mean_ahead", "reserved", "stored")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.stored = 0
        self.reserved = 0
        self.ahead = 0
        self.mean_ahead = 0.0

    def has_room(self, nbytes: int) -> bool:
        """Whether so many bytes more fit without evicting."""
        return self.stored + self.reserved + nbytes <= self.max_bytes

    def hold(self, nbytes: int, demanded: bool) -> None:
        """Adds bytes in flight, or takes them away where negative."""
        self.reserved += nbytes
        if not demanded:
            self.ahead += nbytes

    def on_admission(self) -> None:
        """Update `mean_ahead`."""
        self.mean_ahead += (self.ahead - self.mean_ahead) / _ADMISSIONS
