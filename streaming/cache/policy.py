"""Which entry leaves when room is needed. Every method is O(1) and called with the cache's lock held."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol

import xxhash

from streaming.errors import ConfigError

KEEP_SHARE = 7 / 8  # of the budget that `retain` fills with what it keeps; the rest is the window that others pass


class Policy(Protocol):
    """The order of eviction. Knows each stored key from `add` to `discard`."""

    touch: Callable[[Hashable], None]
    """The key was read. Bound directly to C where possible: it is on the hit path."""

    def add(self, key: Hashable, nbytes: int) -> None:
        """The key, not known until now, was stored."""

    def discard(self, key: Hashable) -> None:
        """The key left, for whatever reason."""

    def victim(self, force: bool) -> Hashable:
        """The key to evict next, `NOTHING` if none may go. `force`: kept ones may go too, as the last."""


NOTHING = object()


class LRU:
    """The entry not read for the longest time leaves first."""

    def __init__(self) -> None:
        self._order: OrderedDict[Hashable, None] = OrderedDict()
        self.touch: Callable[[Hashable], None] = self._order.move_to_end

    def add(self, key: Hashable, nbytes: int) -> None:
        self._order[key] = None

    def discard(self, key: Hashable) -> None:
        del self._order[key]

    def victim(self, force: bool) -> Hashable:
        return next(iter(self._order), NOTHING)


class Retain:
    """Keeps a fixed, evenly spread set and never evicts it; the others pass through what room is left, as in `LRU`.

    With a fresh shuffle each epoch no policy hits more than the cached fraction c; this one does, and LRU does not
    (15 % at c = 50 %).

    Args:
        keep_fraction: share of the keys to keep, chosen by their hash; 1.0 keeps the first that come.
        keep_bytes: the most bytes kept; further keys pass through.
    """

    def __init__(self, keep_fraction: float, keep_bytes: int) -> None:
        if not 0 <= keep_fraction <= 1:
            raise ConfigError(f"keep_fraction must be from 0 to 1, not {keep_fraction!r}")
        self._below = int(keep_fraction * (1 << 64))
        self._keep_bytes = keep_bytes
        self._kept_bytes = 0
        self._kept: OrderedDict[Hashable, int] = OrderedDict()
        self._passing: OrderedDict[Hashable, None] = OrderedDict()
        self.touch: Callable[[Hashable], None] = self._touch

    def add(self, key: Hashable, nbytes: int) -> None:
        is_chosen = xxhash.xxh3_64_intdigest(repr(key).encode("utf-8", "surrogatepass")) < self._below
        if is_chosen and self._kept_bytes + nbytes <= self._keep_bytes:
            self._kept[key] = nbytes
            self._kept_bytes += nbytes
        else:
            self._passing[key] = None

    def discard(self, key: Hashable) -> None:
        if key in self._kept:
            self._kept_bytes -= self._kept.pop(key)
        else:
            del self._passing[key]

    def victim(self, force: bool) -> Hashable:
        first = next(iter(self._passing), NOTHING)
        return next(iter(self._kept), NOTHING) if first is NOTHING and force else first

    def _touch(self, key: Hashable) -> None:
        if key in self._passing:
            self._passing.move_to_end(key)


def make_policy(name: str, max_bytes: int, keep_fraction: float) -> Policy:
    """The policy of this name. Raises ConfigError for another name or fraction."""
    if name == "lru":
        return LRU()
    if name == "retain":
        return Retain(keep_fraction, int(max_bytes * KEEP_SHARE))
    raise ConfigError(f"policy {name!r} is unknown; use 'lru' or 'retain'")
