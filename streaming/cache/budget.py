"""Bytes that a cache stores and reads, together never more than its budget.

These are the numbers; `Store.reserve` (`store.py`) refuses a read that does not fit, or evicts for it.
"""

from __future__ import annotations

import math

from streaming.errors import ConfigError

_ADMISSIONS = 256  # `mean_ahead` is averaged over this many

UNKNOWN_BYTES = 8 << 20
"""Bytes reserved for a read whose size is not known."""


def budget_bytes(max_size_gb: float, max_size_bytes: int | None) -> int:
    """Return the budget in bytes; `max_size_bytes` takes precedence. Raises ConfigError unless finite and above 0."""
    size = max_size_gb * 1e9 if max_size_bytes is None else max_size_bytes
    if not 1 <= size < math.inf:
        raise ConfigError(f"the cache needs a finite size above 0 bytes, not {size!r}; set max_size_gb")
    return int(size)


class Budget:
    """Counts the bytes of a cache, which holds its lock around every change.

    Attributes:
        max_bytes: the limit.
        stored: bytes of stored blocks and their bookkeeping.
        reserved: bytes in flight.
        ahead: bytes read ahead of their readers: reserved, or stored and unread.
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
        """Whether this many bytes more fit without evicting."""
        return self.stored + self.reserved + nbytes <= self.max_bytes

    def hold(self, nbytes: int, demanded: bool) -> None:
        """Add bytes in flight, or remove them where negative."""
        self.reserved += nbytes
        if not demanded:
            self.ahead += nbytes

    def on_admission(self) -> None:
        """Update `mean_ahead`."""
        self.mean_ahead += (self.ahead - self.mean_ahead) / _ADMISSIONS
