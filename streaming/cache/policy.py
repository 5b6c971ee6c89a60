"""Eviction policies: `LRU`, and `Retain` (see `streaming.cache.retain`).

Every method is called with the cache's lock held and takes O(log n) at most. Sizes are what an entry takes of the
budget: its block and its bookkeeping.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol

__all__ = ["LRU", "NOTHING", "Policy"]

NOTHING = object()
"""Returned by `victim` if no key may be evicted."""


class Policy(Protocol):
    """The order of eviction. Knows each stored key from `add` to `discard`."""

    touch: Callable[[Hashable], None]
    """Note that a key was read. Bound directly to C where possible, as it is on the hit path."""

    kept_bytes: int
    """Bytes that `victim` gives up only as a last resort."""

    @property
    def window_bytes(self) -> float:
        """Bytes that are never kept."""

    def wants(self, key: Hashable, nbytes: int) -> bool:
        """Whether an entry is worth storing after the read that loaded it. Called once for each entry."""

    def make_way(self, key: Hashable, nbytes: int) -> bool:
        """Choose what gives way to an entry, before room is taken for it. False: not done yet, call again."""

    def add(self, key: Hashable, nbytes: int, is_pinned: bool) -> None:
        """Note that a new key was stored. A pinned one is not evicted."""

    def unpin(self, key: Hashable) -> None:
        """Let a key be evicted again. It may be gone already."""

    def passes(self, key: Hashable) -> bool:
        """Whether a stored key will make way for the next ones."""

    def discard(self, key: Hashable) -> None:
        """Note that a key was removed."""

    def victim(self, force: bool) -> Hashable:
        """Return the key to evict next, or `NOTHING`. With `force`, kept keys may be evicted too, after all others."""

    def predicted_hit_rate(self, samples: int, ahead: float) -> float | None:
        """Return the expected hits per read of an epoch that reads each sample once, in a new order.

        Args:
            samples: number of samples in the epoch.
            ahead: average bytes of samples that were read ahead and not used yet.
        """


class MeanSize:
    """The running mean size of entries.

    Attributes:
        count: number of entries so far.
    """

    __slots__ = ("_total", "count")

    def __init__(self) -> None:
        self.count = 0
        self._total = 0

    def add(self, nbytes: int) -> None:
        """Count one more entry."""
        self.count += 1
        self._total += nbytes

    def share(self, room: float, samples: int) -> float | None:
        """Return the share of this many samples that fits into a room; None before the first entry."""
        return min(1.0, room * self.count / (self._total * samples)) if self.count and samples else None

    def times(self, entries: int) -> float:
        """Return the bytes that this many entries take; infinite before the first."""
        return entries * self._total / self.count if self.count else math.inf


class LRU:
    """Evicts the entry that was not read for the longest time."""

    kept_bytes = 0
    window_bytes = 0.0

    def __init__(self, max_bytes: int) -> None:
        self.order: OrderedDict[Hashable, int] = OrderedDict()  # oldest first, with sizes
        self.touch: Callable[[Hashable], None] = self.order.move_to_end
        self._max_bytes = max_bytes
        self._mean = MeanSize()

    def wants(self, key: Hashable, nbytes: int) -> bool:
        self._mean.add(nbytes)
        return True

    def make_way(self, key: Hashable, nbytes: int) -> bool:
        return True

    def add(self, key: Hashable, nbytes: int, is_pinned: bool) -> None:
        self.order[key] = nbytes

    def unpin(self, key: Hashable) -> None:
        """Do nothing: what was read last is evicted last."""

    def passes(self, key: Hashable) -> bool:
        return False

    def discard(self, key: Hashable) -> None:
        del self.order[key]

    def victim(self, force: bool) -> Hashable:
        return next(iter(self.order), NOTHING)

    def predicted_hit_rate(self, samples: int, ahead: float) -> float | None:
        """Return c + (1 - c) ln(1 - c), for a new shuffle in each epoch; see docs/explanation/cache-policy.md."""
        c = self._mean.share(self._max_bytes - ahead, samples)
        return c if c is None or c == 1 else c + (1 - c) * math.log(1 - c)
