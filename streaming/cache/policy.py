"""Which entry leaves when room is needed: `LRU`, or `Retain` (see `streaming.cache.retain`).

Every method is called with the cache's lock held and takes O(log n) at most. Sizes are what an entry takes of the
budget: its block and the bookkeeping for it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol

__all__ = ["LRU", "NOTHING", "Policy"]

NOTHING = object()


class Policy(Protocol):
    """The order of eviction. Knows each stored key from `add` to `discard`."""

    touch: Callable[[Hashable], None]
    """The key was read. Bound directly to C where possible: it is on the hit path."""

    kept_bytes: int
    """Bytes that `victim` gives up only as a last resort; the other half of the rest is free for reads ahead."""

    @property
    def window_bytes(self) -> float:
        """Bytes that are never kept."""

    def wants(self, key: Hashable, nbytes: int) -> bool:
        """Whether an entry is worth storing beyond the read that brings it. Called once for each that comes."""

    def make_way(self, key: Hashable, nbytes: int) -> bool:
        """Before room is taken for an entry: choose what gives way to it. False: not done yet, call again."""

    def add(self, key: Hashable, nbytes: int, is_pinned: bool) -> None:
        """The key, not known until now, was stored. Pinned: somebody will read it soon."""

    def unpin(self, key: Hashable) -> None:
        """Whoever pinned the key has read it, or will not. The key may be gone."""

    def passes(self, key: Hashable) -> bool:
        """Whether a stored key will make way for the next that come."""

    def discard(self, key: Hashable) -> None:
        """The key left, for whatever reason."""

    def victim(self, force: bool) -> Hashable:
        """The key to evict next, `NOTHING` if none may go. `force`: kept ones may go too, as the last."""

    def predicted_hit_rate(self, samples: int, ahead: float) -> float | None:
        """Hits per read to expect of an epoch that reads so many samples once, in an order of its own.

        Args:
            samples: of an epoch.
            ahead: bytes, on average, that samples take which were read ahead and not used yet.
        """


class MeanSize:
    """The running mean size of entries.

    Attributes:
        count: how many there were.
    """

    __slots__ = ("_total", "count")

    def __init__(self) -> None:
        self.count = 0
        self._total = 0

    def add(self, nbytes: int) -> None:
        """One more."""
        self.count += 1
        self._total += nbytes

    def share(self, room: float, samples: int) -> float | None:
        """How much of so many samples fits into a room, at the most 1; None before the first entry."""
        return min(1.0, room * self.count / (self._total * samples)) if self.count and samples else None

    def times(self, entries: int) -> float:
        """Bytes that so many entries take; infinite before the first."""
        return entries * self._total / self.count if self.count else math.inf


class LRU:
    """The entry not read for the longest time leaves first."""

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
        """Nothing: what was read last leaves last."""

    def passes(self, key: Hashable) -> bool:
        return False

    def discard(self, key: Hashable) -> None:
        del self.order[key]

    def victim(self, force: bool) -> Hashable:
        return next(iter(self.order), NOTHING)

    def predicted_hit_rate(self, samples: int, ahead: float) -> float | None:
        """For a fresh shuffle in each epoch: c + (1 - c) ln(1 - c); docs/explanation/cache-policy.md derives it."""
        c = self._mean.share(self._max_bytes - ahead, samples)
        return c if c is None or c == 1 else c + (1 - c) * math.log(1 - c)
