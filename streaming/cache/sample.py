"""`SmartLRUCache`: samples, ready to use, in shared memory under a hard budget of bytes.

A hit costs a lock for O(1), one copy and the decoding, in the caller's thread: about 4 us for a 20 kB tensor. Readers
copy outside the lock and then ask whether the entry was still there (see `arena`), so evicting never waits for reading.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from streaming.cache.arena import Place
from streaming.cache.batch import read_batch
from streaming.cache.budget import Reservation, budget_bytes
from streaming.cache.compression import Compression, Entry
from streaming.cache.counts import CacheMetrics
from streaming.cache.fill import Filler
from streaming.cache.leaves import Unsupported
from streaming.cache.reading import STALE, PlaceTuple, load
from streaming.cache.store import Store
from streaming.errors import ConfigError
from streaming.runtime import Done

__all__ = ["MISS", "STALE", "CacheMetrics", "Entry", "Reservation", "SmartLRUCache"]

MISS: Final[Any] = object()
"""What `get_nowait` returns for an absent key, unless told otherwise."""

_INLINE_BYTES = 1 << 20  # stored size up to which `await get` decodes on the event loop itself

logger = logging.getLogger(__name__)


class SmartLRUCache:
    """A cache of samples: nests of tensor, array, str, bytes, int, float, bool, None, list, tuple and dict.

    Readers get copies of their own. Methods may be called from any thread; keys are any hashable. In a forked child
    use `places` of the owner and `read_batch`, never the object itself: the parent's lock may be held for ever there.

    Args:
        max_size_gb: budget for all that is stored or being read, in units of 10^9 bytes.
        max_ttl_seconds: age at which an entry is gone; None is never.
        compression_type: "zstd" (where a trial on that kind of sample pays) or "none".
        prefetch_ahead: the most fetches that `prefetch` has in flight; None is 32.
        max_size_bytes: the budget in bytes, instead of `max_size_gb`.
        policy: "lru", or "retain": keep a fixed set and let the rest pass through.
        keep_fraction: share of the keys that "retain" keeps, evenly spread; 1.0 is as many as fit, the first to come.
        clock: monotonic seconds.

    Raises:
        ConfigError: an argument that cannot be used.
    """

    def __init__(
        self,
        max_size_gb: float = 10.0,
        max_ttl_seconds: float | None = None,
        compression_type: str = "zstd",
        prefetch_ahead: int | None = None,
        *,
        max_size_bytes: int | None = None,
        policy: str = "lru",
        keep_fraction: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        max_bytes = budget_bytes(max_size_gb, max_size_bytes)
        for name, value in (("max_ttl_seconds", max_ttl_seconds), ("prefetch_ahead", prefetch_ahead)):
            if value is not None and not value >= 0:
                raise ConfigError(f"{name} must be 0 or more, or None, not {value!r}")
        self.compression_type = compression_type
        self.max_ttl_seconds = max_ttl_seconds
        self.policy = policy
        self._compression = Compression(compression_type)
        self._store = Store(max_bytes, max_ttl_seconds, policy, keep_fraction, clock)
        self._look_up = self._store.look_up
        self.arena = self._store.arena
        self._memory = self.arena.memory
        self._generations = self.arena.generations
        self._lock = threading.Lock()
        self._filler = Filler(prefetch_ahead, self._store.budget.window)
        self._has_warned = False

    @property
    def may_compress(self) -> bool:
        """Whether `encode` may spend time on compression."""
        return self._compression.is_on

    @property
    def max_bytes(self) -> int:
        """The budget."""
        return self._store.budget.max_bytes

    # -- reading

    def get_nowait(self, key: Hashable, default: Any = MISS) -> Any:
        """The caller's own copy of a sample, decoded in this thread, or `default`."""
        while True:
            with self._lock:
                place = self._look_up(key)
                memory, generations = self._memory, self._generations
            if place is None:
                return default
            sample = load(memory, generations, place)
            if sample is not STALE:
                return sample
            with self._lock:  # evicted between the look and the copy
                self._store.metrics.hits -= 1

    def get_many(self, keys: Sequence[Hashable], default: Any = MISS) -> list[Any]:
        """Several samples at once; see `read_batch`. Each is the caller's own copy, or `default`."""
        with self._lock:
            places = [self._look_up(key) for key in keys]
            memory, generations = self._memory, self._generations
        samples = iter(read_batch(memory, generations, [place for place in places if place is not None]))
        read = [default if place is None else next(samples) for place in places]
        for at, key in enumerate(keys):
            if read[at] is STALE:
                with self._lock:  # evicted between the look and the copy
                    self._store.metrics.hits -= 1
                read[at] = self.get_nowait(key, default)
        return read

    async def get(self, key: Hashable) -> Any:
        """The caller's own copy of a sample, or None. Large ones are decoded off the event loop."""
        place = self._store.records.get(key)
        if place is not None and place[1] > _INLINE_BYTES:
            return await asyncio.to_thread(self.get_nowait, key, None)
        return self.get_nowait(key, None)

    def place(self, key: Hashable) -> PlaceTuple | None:
        """Where a sample lies, for `read_batch` in a process that maps the arena; counts as a read."""
        with self._lock:
            return self._look_up(key)

    def places(self, keys: Sequence[Hashable]) -> list[PlaceTuple | None]:
        """`place` of each key, in one hold of the lock."""
        with self._lock:
            return [self._look_up(key) for key in keys]

    def contains(self, key: Hashable) -> bool:
        """Whether a read would find the key now. Not counted as a read."""
        with self._lock:
            return self._store.contains(key)

    __contains__ = contains

    def __len__(self) -> int:
        return len(self._store.records)

    # -- writing

    def encode(self, sample: Any, compress: bool = True) -> Entry | None:
        """Encode a sample for `admit`; None, counted and warned of once, if it holds types that cannot be stored.

        CPU only, any thread. The entry may look into the sample's arrays: admit it before they change.
        """
        try:
            return self._compression.encode(sample, compress)
        except Unsupported as exc:
            with self._lock:
                self._store.metrics.uncacheable += 1
            if not self._has_warned:
                self._has_warned = True
                logger.warning("cache.uncacheable reason=%r: served uncached; use tensors, arrays, text", str(exc))
            return None

    def admit(
        self, key: Hashable, entry: Entry, *, prefetched: bool = False, reservation: Reservation | None = None
    ) -> bool:
        """Store an encoded sample, evicting what must go; replaces what the key held.

        Args:
            key: any hashable.
            entry: from `encode`.
            prefetched: its first read counts as a prefetch hit.
            reservation: the room held for this read; ends here in any case.

        Returns:
            False if it cannot be held: larger than the cache, or than what may be evicted. The key is absent then.
        """
        place = self._take_room(key, entry.nbytes, reservation)
        if place is None:
            return False
        is_whole = False
        try:
            self.arena.fill(place, entry.parts)
            is_whole = True
        finally:
            with self._lock:
                self._store.publish(key, place, entry, is_whole=is_whole, is_unread=prefetched)
        return is_whole and not self._store.is_closed

    def put_nowait(self, key: Hashable, data: Any, compress: bool = True, prefetched: bool = False) -> bool:
        """Encode and store a sample in this thread. False if it is not held afterwards."""
        entry = self.encode(data, compress)
        if entry is not None:
            return self.admit(key, entry, prefetched=prefetched)
        self.invalidate(key)
        return False

    async def put(self, key: Hashable, data: Any, compress: bool = True) -> bool:
        """Store a sample, encoding it off the event loop. False if it is not held afterwards."""
        return await asyncio.to_thread(self.put_nowait, key, data, compress)

    async def prefetch(
        self, keys: Iterable[Hashable], fetch_fn: Callable[[Any], Awaitable[Any]]
    ) -> dict[Hashable, bool]:
        """Bring keys in with `await fetch_fn(key)`, concurrently on this loop, once per key over all callers.

        Returns whether each key is held now; a failed fetch is logged and False.
        """
        return await self._filler.fill(self, keys, fetch_fn)

    def invalidate(self, key: Hashable) -> bool:
        """Remove a key. Whether it was there."""
        with self._lock:
            return self._store.drop(key)

    def clear(self) -> Done[None]:
        """Remove everything and give the memory back to the system; counts stay. With or without `await`."""
        with self._lock:
            self._store.clear()
        return Done(None)

    def close(self) -> None:
        """Let the memory go. Reads miss and nothing is kept afterwards. Idempotent."""
        with self._lock:
            self._store.close()
            self._memory = self._generations = memoryview(b"")

    # -- in flight

    def reserve(self, nbytes: int, *, demanded: bool = False) -> Reservation | None:
        """Hold room in the budget for a read in flight.

        Args:
            nbytes: expected size; `Reservation.resize` corrects it.
            demanded: somebody waits: evicts whatever is stored. Else at most half of the budget is held this way.

        Returns:
            None if there is no room: a prefetch should wait; a demanded read that is larger than the budget goes
            without (counted as bypassed), and one that meets other reads in flight should cancel the furthest of them.
        """
        reservation = Reservation(self, demanded)
        if demanded and nbytes > self._store.budget.max_bytes:
            with self._lock:
                self._store.metrics.bypassed += 1
            return None
        return reservation if self.resize_reservation(reservation, nbytes) else None

    def resize_reservation(self, reservation: Reservation, nbytes: int) -> bool:
        """See `Reservation.resize`."""
        budget = self._store.budget
        demanded = reservation.demanded
        while True:
            with self._lock:
                more = nbytes - reservation.nbytes
                if more > 0 and not demanded and budget.ahead + more > budget.window:
                    return False
                has_room = more <= 0 or self._store.make_room(more, demanded)
                if has_room:
                    budget.hold(more, demanded)
                    reservation.nbytes = nbytes
                if has_room is not None:
                    return has_room

    # -- numbers

    def get_metrics(self) -> CacheMetrics:
        """The counts as they are now; they do not change afterwards."""
        with self._lock:
            return replace(self._store.metrics)

    def reset_metrics(self) -> None:
        """Set every count back to zero; what is stored stays."""
        with self._lock:
            self._store.metrics = CacheMetrics()

    def get_cache_stats(self) -> dict[str, Any]:
        """What is held now, and the counts, by the names that dashboards know. Sizes in units of 10^9 bytes."""
        with self._lock:
            self._store.sweep()
            budget = self._store.budget
            held = {
                "num_items": len(self._store.records),
                "current_size_gb": budget.stored / 1e9,
                "in_flight_gb": budget.reserved / 1e9,
                "max_size_gb": budget.max_bytes / 1e9,
                "prefetched_unread": self._store.unread,
            }
            counts = self._store.metrics.as_stats()
        return held | counts | {"compression_type": self.compression_type, "policy": self.policy}

    def _take_room(self, key: Hashable, nbytes: int, reservation: Reservation | None) -> Place | None:
        store = self._store
        while True:
            with self._lock:
                if reservation is not None:
                    store.budget.hold(-reservation.nbytes, reservation.demanded)
                    reservation.nbytes = 0
                store.drop(key)  # from now on the old value is wrong, whether or not the new one fits
                place = store.take_room(nbytes)
                if place is not None:
                    return place or None
