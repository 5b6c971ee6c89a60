"""`SmartLRUCache`: decoded samples in shared memory under a hard budget of bytes.

A hit costs a lock for O(1), one copy and the decoding, in the caller's thread: about 4 us for a 20 kB tensor. Readers
copy outside the lock and check afterwards that the entry was not evicted (see `arena`), so eviction never waits for
readers.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from streaming.cache.arena import Place
from streaming.cache.batch import read_batch
from streaming.cache.budget import budget_bytes
from streaming.cache.compression import Compression, Entry
from streaming.cache.counts import CacheMetrics
from streaming.cache.fill import Filler
from streaming.cache.leaves import Unsupported
from streaming.cache.reading import STALE, PlaceTuple, load
from streaming.cache.reservation import Reservation, ReservationState
from streaming.cache.retain import Retain
from streaming.cache.store import Store, entry_size
from streaming.core.logs import get_logger
from streaming.core.miss import MISS
from streaming.core.runtime import Done
from streaming.errors import ConfigError

__all__ = ["CacheMetrics", "SmartLRUCache"]

_INLINE_BYTES = 1 << 20  # stored size up to which `await get` decodes on the event loop

_SMALL_WINDOW = 16 << 20  # replaced in 0.1 s at 160 MB/s; a worker on a busy machine may take that long to copy

logger = get_logger(__name__)


class SmartLRUCache:
    """A cache of samples: nests of tensor, array, str, bytes, int, float, bool, None, list, tuple and dict.

    Readers get copies of their own. Methods may be called from any thread; keys are any hashable. A forked child must
    use `places` of the owner and `read_batch`, never the object: it may inherit a lock that is never released.

    Args:
        max_size_gb: budget for all that is stored or being read, in units of 10^9 bytes.
        max_ttl_seconds: age at which an entry expires; None for never.
        compression_type: "zstd" (where a trial on that kind of sample pays) or "none".
        prefetch_ahead: most keys that one `prefetch` fetches, and most unread keys that an `AsyncPrefetcher` has
            fetched; None for no limit.
        max_size_bytes: the budget in bytes, instead of `max_size_gb`.
        policy: "lru"; "retain": keep a fixed set, evenly spread, and let the rest pass through a small window; "auto":
            "retain" from `retain()` on, "lru" before.
        keep_fraction: largest share of the keys that "retain" keeps; 1.0 is as many as fit.
        samples: number of samples in the data set, for `predicted_hit_rate`; 0 if unknown.
        clock: monotonic seconds.

    Attributes:
        samples, prefetch_ahead: as above; `samples` may be set later.
        unread: keys that were fetched ahead and not read yet.
        serves_processes: whether other processes read samples from the cache. Otherwise a read ahead keeps its sample
            for the reader, and samples that pass are not stored as well.

    Raises:
        ConfigError: an argument is invalid.
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
        samples: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        max_bytes = budget_bytes(max_size_gb, max_size_bytes)
        for name, value in (("max_ttl_seconds", max_ttl_seconds), ("prefetch_ahead", prefetch_ahead)):
            if value is not None and not value >= 0:
                raise ConfigError(f"{name} must be 0 or more, or None, not {value!r}")
        self.compression_type = compression_type
        self.max_ttl_seconds = max_ttl_seconds
        self.samples = samples
        self.prefetch_ahead = prefetch_ahead
        self.serves_processes = False
        self._compression = Compression(compression_type)
        self._store = Store(max_bytes, max_ttl_seconds, policy, keep_fraction, clock)
        self._look_up = self._store.look_up
        self.unread = self._store.unread
        self.arena = self._store.arena
        self._memory = self.arena.memory
        self._generations = self.arena.generations
        self._lock = threading.Lock()
        self._filler = Filler(prefetch_ahead)
        self._has_warned = False

    @property
    def max_bytes(self) -> int:
        """The budget."""
        return self._store.budget.max_bytes

    @property
    def policy(self) -> str:
        """The current policy: "lru" or "retain"."""
        return "retain" if isinstance(self._store.policy, Retain) else "lru"

    @property
    def window(self) -> int:
        """Most bytes that reads ahead may hold now."""
        return self._store.window(self.serves_processes)

    @property
    def bytes_ahead(self) -> int:
        """Bytes of the budget held by reads ahead of their readers."""
        return self._store.budget.ahead

    def retain(self) -> None:
        """Declare that the order of reading is known: "auto" is "retain" from now on. Idempotent; O(1)."""
        with self._lock:
            self._store.retain()

    # -- reading

    def get_nowait(self, key: Hashable, default: Any = MISS) -> Any:
        """Return the caller's own copy of a sample, decoded in this thread, or `default`."""
        while True:
            with self._lock:
                place = self._look_up(key)
                memory, generations = self._memory, self._generations
            if place is None:
                return default
            sample = load(memory, generations, place)
            if sample is not STALE:
                return sample
            with self._lock:  # evicted between the look-up and the copy
                self._store.metrics.hits -= 1

    def get_many(self, keys: Sequence[Hashable], default: Any = MISS) -> list[Any]:
        """Return the caller's own copies of several samples, `default` for each miss; see `read_batch`."""
        with self._lock:
            places = [self._look_up(key) for key in keys]
            memory, generations = self._memory, self._generations
        samples = iter(read_batch(memory, generations, [place for place in places if place is not None]))
        read = [default if place is None else next(samples) for place in places]
        for at, key in enumerate(keys):
            if read[at] is STALE:
                with self._lock:  # evicted between the look-up and the copy
                    self._store.metrics.hits -= 1
                read[at] = self.get_nowait(key, default)
        return read

    async def get(self, key: Hashable) -> Any:
        """Return the caller's own copy of a sample, or None. Large samples are decoded off the event loop."""
        place = self._store.records.get(key)
        if place is not None:
            _, length, _, _, _ = place
            if length > _INLINE_BYTES:
                return await asyncio.to_thread(self.get_nowait, key, None)
        return self.get_nowait(key, None)

    def place(self, key: Hashable) -> PlaceTuple | None:
        """Return the place of a sample, for `read_batch` in a process that maps the arena. Counts as a read."""
        with self._lock:
            return self._look_up(key)

    def places(self, keys: Sequence[Hashable]) -> list[PlaceTuple | None]:
        """Return `place` of each key, under one hold of the lock."""
        with self._lock:
            return [self._look_up(key) for key in keys]

    def is_fleeting(self, key: Hashable) -> bool:
        """Whether a sample passes through so small a window that its place may be reused before a reader copies it."""
        with self._lock:
            return self._store.policy.passes(key) and self.window < _SMALL_WINDOW

    def contains(self, key: Hashable) -> bool:
        """Whether a read would find the key now. Not counted as a read."""
        with self._lock:
            return self._store.contains(key)

    __contains__ = contains

    def __len__(self) -> int:
        return len(self._store.records)

    # -- writing

    def encode(self, sample: Any, compress: bool = True) -> Entry | None:
        """Encode a sample for `admit`. None, counted and logged once, if it holds types that cannot be stored.

        CPU only, any thread. The entry may hold views of the sample's arrays: admit it before they change.
        """
        try:
            return self._compression.encode(sample, compress)
        except Unsupported as exc:
            with self._lock:
                self._store.metrics.uncacheable += 1
            if not self._has_warned:
                self._has_warned = True
                logger.warning('cache_unsupported_type reason=%s next_step="use tensors, arrays, text"', exc)
            return None

    def admit(
        self, key: Hashable, entry: Entry, *, prefetched: bool = False, reservation: Reservation | None = None
    ) -> bool:
        """Store an encoded sample, replacing the key's old one and evicting others if needed.

        Args:
            key: any hashable.
            entry: result of `encode`.
            prefetched: count the first read as a prefetch hit.
            reservation: room held for this read, which becomes the entry's. Without `until_read` it ends here, even if
                the sample is not held.

        Returns:
            False if the sample is not held: it is larger than the cache or than what may be evicted, or it passes and
            its reader has it already. The key is absent then.
        """
        store = self._store
        with self._lock:
            store.budget.on_admission()
            is_wanted = store.policy.wants(key, entry_size(entry.nbytes))
            if reservation is not None and reservation.has_reader(self.serves_processes):
                if not is_wanted:
                    store.drop(key)
                    return False
                if not reservation.demanded:  # it still holds the room of the reader's sample
                    reservation = None
        place = self._take_room(key, entry.nbytes, reservation)
        if place is None:
            return False
        is_whole = False
        try:
            self.arena.fill(place, entry.parts)
            is_whole = True
        finally:
            with self._lock:
                is_pinned = reservation is not None and reservation.state is ReservationState.STORED_UNREAD
                store.publish(key, place, entry, is_whole=is_whole, is_unread=prefetched, is_pinned=is_pinned)
        return is_whole and not store.is_closed

    def put_nowait(
        self,
        key: Hashable,
        data: Any,
        compress: bool = True,
        prefetched: bool = False,
        reservation: Reservation | None = None,
    ) -> bool:
        """Encode and store a sample in this thread; see `admit`. False if it is not held afterwards."""
        entry = self.encode(data, compress)
        if entry is not None:
            return self.admit(key, entry, prefetched=prefetched, reservation=reservation)
        self.invalidate(key)
        return False

    async def put(self, key: Hashable, data: Any, compress: bool = True, *, prefetched: bool = False) -> bool:
        """Store a sample, encoding it off the event loop. False if it is not held afterwards."""
        return await asyncio.to_thread(self.put_nowait, key, data, compress, prefetched)

    async def prefetch(
        self, keys: Iterable[Hashable], fetch_fn: Callable[[Any], Awaitable[Any]]
    ) -> dict[Hashable, bool]:
        """Fetch the first `prefetch_ahead` keys with `await fetch_fn(key)`, concurrently, each once for all callers.

        Returns whether each of them is held now. A failed fetch is logged and False; so are the other keys.
        """
        return await self._filler.fill(self, keys, fetch_fn)

    def invalidate(self, key: Hashable) -> bool:
        """Remove a key. Whether it was held."""
        with self._lock:
            return self._store.drop(key)

    def clear(self) -> Done[None]:
        """Remove everything and give the memory back to the system; counts stay. With or without `await`."""
        with self._lock:
            self._store.clear()
        return Done(None)

    def close(self) -> None:
        """Free the memory. Afterwards reads miss and nothing is kept. Idempotent."""
        with self._lock:
            self._store.close()
            self._memory = self._generations = memoryview(b"")

    # -- in flight

    def reserve(self, nbytes: int, *, demanded: bool = False, until_read: bool = False) -> Reservation | None:
        """Hold room in the budget for a read in flight.

        Args:
            nbytes: expected size.
            demanded: a reader waits. Evicts what is stored; what "retain" keeps only if nothing else is in flight.
                All other reads together hold at most `window`.
            until_read: hold it until the sample is read, not only until it is admitted. Adds room for bookkeeping.

        Returns:
            None if there is no room. A prefetch should wait then. A demanded read should wait for other demanded ones,
            or cancel the furthest of the reads ahead; one that is larger than the budget goes without a reservation and
            is counted as bypassed.
        """
        if until_read:
            nbytes = min(entry_size(nbytes), max(nbytes, self.max_bytes))
        while True:
            with self._lock:
                has_room = self._store.reserve(nbytes, demanded, self.serves_processes)
            if has_room:
                return Reservation(self._release, nbytes, demanded=demanded, until_read=until_read)
            if has_room is False:
                return None

    def _release(self, reservation: Reservation) -> None:
        with self._lock:
            self._store.release(reservation)

    # -- numbers

    def get_metrics(self) -> CacheMetrics:
        """Return a copy of the counts."""
        with self._lock:
            return replace(self._store.metrics)

    def reset_metrics(self) -> None:
        """Set every count back to zero; what is stored stays."""
        with self._lock:
            self._store.metrics = CacheMetrics()

    def get_cache_stats(self) -> dict[str, Any]:
        """Return what is held now, and the counts, under the names of dashboards. Sizes in units of 10^9 bytes."""
        with self._lock:
            self._store.sweep()
            budget = self._store.budget
            held = {
                "num_items": len(self._store.records),
                "current_size_gb": budget.stored / 1e9,
                "in_flight_gb": budget.reserved / 1e9,
                "max_size_gb": budget.max_bytes / 1e9,
                "prefetched_unread": len(self.unread),
            }
            counts = self._store.metrics.as_stats()
            ahead = budget.mean_ahead * (1 if self.serves_processes else 2)  # else in the cache and with their readers
            predicted = self._store.policy.predicted_hit_rate(self.samples, ahead) if self.samples else None
        rates = {"predicted_hit_rate": predicted, "policy": self.policy}
        return held | counts | rates | {"compression_type": self.compression_type}

    def _take_room(self, key: Hashable, nbytes: int, reservation: Reservation | None) -> Place | None:
        while True:
            with self._lock:
                place = self._store.take_room(key, nbytes, reservation)
            if place is not None:
                return place or None
