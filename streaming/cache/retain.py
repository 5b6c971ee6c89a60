"""`Retain`: keep a fixed, evenly spread set of samples, and let the others pass through a small window.

With a new shuffle in each epoch no policy hits more than the cached fraction c, and LRU hits c + (1 - c) ln(1 - c).
A fixed set hits c. A hash of the key decides which samples are in it, so that the misses are spread evenly over an
epoch in any order. In a sequential order, keeping the first samples would leave all misses to the end.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Hashable

import xxhash

from streaming.cache.policy import LRU, NOTHING, MeanSize, Policy
from streaming.errors import ConfigError

__all__ = ["Retain"]

WINDOW_SHARE = 0.015  # of the budget, for what passes: with the bookkeeping, hits stay above 0.98 c
WINDOW_ENTRIES = 6  # smallest window: two or three reads ahead and as many demanded; at most half of the budget
_DEMOTIONS_PER_HOLD = 64  # of the lock: about 100 us
_LARGE = 8  # an entry is large if fewer than this of its size fill the kept set
_ALL = 1 << 64


class Retain:
    """Keeps the keys with the lowest hashes, as many as fit, and evicts them only as a last resort.

    The kept set is the longest run of keys, in order of their hash, that fits into the budget without the window: a
    key is kept if its hash is below a threshold, which starts at `keep_fraction` of all and sinks to the hash of the
    first key that did not fit. So the set does not depend on the order of reading, takes sizes as they are, and is
    complete once each key was seen: from the second epoch on. The threshold rises again only when keys are removed.

    Args:
        max_bytes: the budget.
        keep_fraction: largest share of the keys to keep.
        passing: entries stored already, with their sizes, oldest first. Each may be evicted until it is read, and is
            kept from then on if its hash is below the threshold.

    Raises:
        ConfigError: the fraction is not from 0 to 1.
    """

    def __init__(
        self, max_bytes: int, keep_fraction: float = 1.0, passing: OrderedDict[Hashable, int] | None = None
    ) -> None:
        if not 0 <= keep_fraction <= 1:
            raise ConfigError(f"keep_fraction must be from 0 to 1, not {keep_fraction!r}")
        self.kept_bytes = 0
        self.touch: Callable[[Hashable], None] = self._touch
        self._max_bytes = max_bytes
        self._highest = int(keep_fraction * _ALL)
        self._threshold = self._highest
        self._kept: dict[int, tuple[Hashable, int]] = {}  # by hash: key and size
        self._heap: list[int] = []  # negative hashes of kept keys, highest first; some were removed
        self._passing: OrderedDict[Hashable, int] = passing or OrderedDict()  # next to be evicted first
        self._pinned: dict[Hashable, int] = {}
        self._mean = MeanSize()
        self._largest = 0

    @property
    def window_bytes(self) -> float:
        """Bytes for what passes."""
        return max(WINDOW_SHARE * self._max_bytes, min(self._mean.times(WINDOW_ENTRIES), self._max_bytes / 2))

    @property
    def _keep_bytes(self) -> float:
        """Bytes for the kept set: the budget without the window."""
        return self._max_bytes - self.window_bytes

    # -- what to store

    def wants(self, key: Hashable, nbytes: int) -> bool:
        self._mean.add(nbytes)
        if not self._is_large(nbytes):
            self._largest = max(self._largest, nbytes)
        return self._is_chosen(_hash(key), nbytes)

    def _is_large(self, nbytes: int) -> bool:
        """Whether much would stay unused if the set ended at this entry: it is kept where it fits, or passes."""
        return nbytes * _LARGE > self._keep_bytes

    def _is_chosen(self, digest: int, nbytes: int) -> bool:
        if digest < self._threshold:
            return not self._is_large(nbytes) or self.kept_bytes + nbytes <= self._keep_bytes
        # Less than this stays unused if the first key that does not fit is the largest.
        has_spare = self.kept_bytes + nbytes <= self._keep_bytes - 2 * max(self._largest, nbytes)
        if has_spare and digest < self._highest:
            self._threshold = digest + 1
        return digest < self._threshold

    def make_way(self, key: Hashable, nbytes: int) -> bool:
        digest = _hash(key)
        if not self._is_chosen(digest, nbytes):
            return True
        for _ in range(_DEMOTIONS_PER_HOLD):
            if self.kept_bytes + nbytes <= self._keep_bytes:
                return True
            highest = self._top()
            if highest < digest:
                self._threshold = digest
                return True
            self._threshold = highest
            demoted, size = self._unkeep(highest)
            self._passing[demoted] = size
            self._passing.move_to_end(demoted, last=False)
        return False

    def add(self, key: Hashable, nbytes: int, is_pinned: bool) -> None:
        digest = _hash(key)
        fits = digest < self._threshold and self.kept_bytes + nbytes <= self._keep_bytes
        if fits and digest not in self._kept:
            self._kept[digest] = key, nbytes
            heapq.heappush(self._heap, -digest)
            self.kept_bytes += nbytes
        elif is_pinned:
            self._pinned[key] = nbytes
        else:
            self._passing[key] = nbytes

    def unpin(self, key: Hashable) -> None:
        nbytes = self._pinned.pop(key, None)
        if nbytes is not None:
            self._passing[key] = nbytes

    def _touch(self, key: Hashable) -> None:
        nbytes = self._passing.pop(key, None)
        if nbytes is not None:
            self.add(key, nbytes, False)  # kept now if it was stored before this policy and its hash is low

    # -- what leaves

    def passes(self, key: Hashable) -> bool:
        return key in self._passing or key in self._pinned

    def discard(self, key: Hashable) -> None:
        if self._passing.pop(key, None) is None and self._pinned.pop(key, None) is None:
            self._unkeep(_hash(key))

    def victim(self, force: bool) -> Hashable:
        first = next(iter(self._passing), NOTHING)
        if first is not NOTHING or not force or self._pinned or not self._kept:
            return first
        key, _ = self._kept[self._top()]
        return key

    def _top(self) -> int:
        """Return the highest hash of a kept key, -1 if there is none."""
        heap = self._heap
        while heap and -heap[0] not in self._kept:
            heapq.heappop(heap)
        return -heap[0] if heap else -1

    def _unkeep(self, digest: int) -> tuple[Hashable, int]:
        key, nbytes = self._kept.pop(digest)
        self.kept_bytes -= nbytes
        if len(self._heap) > 2 * len(self._kept) + 64:
            self._heap = [-kept for kept in self._kept]
            heapq.heapify(self._heap)
        return key, nbytes

    def predicted_hit_rate(self, samples: int, ahead: float) -> float | None:
        """Return the share of the samples that is kept; until each was seen once, estimate it from their mean size."""
        if self._mean.count >= samples > 0:
            return min(1.0, len(self._kept) / samples)
        share = self._mean.share(self._keep_bytes, samples)
        return None if share is None else min(share, self._highest / _ALL)


def _hash(key: Hashable) -> int:
    return xxhash.xxh3_64_intdigest(repr(key).encode("utf-8", "surrogatepass"))


def make_policy(name: str, max_bytes: int, keep_fraction: float) -> Policy:
    """Return the policy of this name; "auto" is LRU until the order is known. Raises ConfigError for others."""
    retain = Retain(max_bytes, keep_fraction)  # checks the fraction for every name
    if name in ("lru", "auto"):
        return LRU(max_bytes)
    if name == "retain":
        return retain
    raise ConfigError(f"policy {name!r} is unknown; use 'auto', 'lru' or 'retain'")
