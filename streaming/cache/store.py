"""The entries of a cache: their places, age and order, the bytes they take, and the counts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Literal

from streaming.cache.allocator import UNIT, block_size
from streaming.cache.arena import Arena, Place
from streaming.cache.budget import Budget
from streaming.cache.compression import Entry
from streaming.cache.counts import CacheMetrics
from streaming.cache.policy import LRU, NOTHING, Policy
from streaming.cache.reading import PlaceTuple
from streaming.cache.reservation import Reservation, ReservationState
from streaming.cache.retain import Retain, make_policy
from streaming.cache.unread import Unread

__all__ = ["ENTRY_OVERHEAD", "Store", "entry_size"]

ENTRY_OVERHEAD = 640  # bytes of bookkeeping per entry with a string key, measured by benchmarks/memory.py
_EVICTIONS_PER_HOLD = 64  # of the lock: about 200 us
_AHEAD_SHARE = 3 / 4  # of the window of `retain`; the rest is for reads that are waited for
_SWEEPS = 8  # most expired entries removed at each insertion


def entry_size(nbytes: int) -> int:
    """Return the bytes of the budget that an entry takes."""
    return block_size(nbytes) + ENTRY_OVERHEAD


class Store:
    """The entries of one cache. Not thread-safe: `SmartLRUCache` holds its lock around every call.

    Args:
        max_bytes: the budget.
        ttl_s: age at which an entry expires; None for never.
        policy: see `make_policy`.
        keep_fraction: see `make_policy`.
        clock: monotonic seconds.

    Attributes:
        arena: memory of the entries.
        budget: bytes stored and in flight.
        metrics: the counts.
        policy: decides which entry is evicted first.
        records: place of each key's sample.
        filling: number of places that are being written.
        unread: entries that were fetched ahead and not read yet.
    """

    def __init__(
        self, max_bytes: int, ttl_s: float | None, policy: str, keep_fraction: float, clock: Callable[[], float]
    ) -> None:
        self.budget = Budget(max_bytes)
        self.arena = Arena(max_bytes, max_entries=max_bytes // (UNIT + ENTRY_OVERHEAD) + 1)
        self.metrics = CacheMetrics()
        self.records: dict[Hashable, PlaceTuple] = {}
        self.filling = 0
        self.is_closed = False
        self._ttl_s = ttl_s
        self._clock = clock
        self._name = policy
        self._keep_fraction = keep_fraction
        self._set_policy(make_policy(policy, max_bytes, keep_fraction))
        self._deadlines: OrderedDict[Hashable, float] = OrderedDict()  # only with a TTL; in order of age
        self.unread = Unread()

    def _set_policy(self, policy: Policy) -> None:
        self.policy = policy
        self._touch = policy.touch

    def retain(self) -> None:
        """Keep a fixed set from now on if the policy is "auto". A stored entry joins it when it is read again."""
        if self._name == "auto" and isinstance(self.policy, LRU):
            self._set_policy(Retain(self.budget.max_bytes, self._keep_fraction, self.policy.order))

    def window(self, is_shared: bool) -> int:
        """Return the most bytes for reads ahead: half of what is not kept, or more without other processes.

        The rest is for demanded reads, and for samples that readers in other processes (`is_shared`) are copying.
        """
        half = int(self.budget.max_bytes - self.policy.kept_bytes) // 2
        return half if is_shared else max(half, int(self.policy.window_bytes * _AHEAD_SHARE))

    # -- finding

    def look_up(self, key: Hashable) -> PlaceTuple | None:
        """Return the place of a key's sample. Counts as a read."""
        place = self.records.get(key)
        if place is None or (self._deadlines and self._expire(key)):
            self.metrics.misses += 1
            return None
        self.metrics.hits += 1
        self._touch(key)
        if key in self.unread and self.unread.discard(key):
            self.metrics.prefetch_hits += 1
        return place

    def contains(self, key: Hashable) -> bool:
        """Whether a key is held and has not expired."""
        return key in self.records and not (self._deadlines and self._expire(key))

    # -- reads in flight

    def reserve(self, nbytes: int, demanded: bool, is_shared: bool) -> bool | None:
        """Hold bytes for a read. False: there is no room. None: not done yet, call again."""
        budget = self.budget
        if demanded and nbytes > budget.max_bytes:
            self.metrics.bypassed += 1
            return False
        if not demanded and budget.ahead + nbytes > self.window(is_shared):
            return False
        has_room = self.make_room(nbytes, demanded and not budget.reserved)
        if has_room:
            budget.hold(nbytes, demanded)
        return has_room

    def release(self, reservation: Reservation) -> None:
        """Give the bytes of a reservation back. Idempotent."""
        if reservation.state is ReservationState.RESERVED:
            self.budget.hold(-reservation.nbytes, reservation.demanded)
        elif reservation.state is ReservationState.STORED_UNREAD:
            self.budget.ahead -= reservation.nbytes
            self.policy.unpin(reservation.key)
        reservation.state, reservation.nbytes = ReservationState.RELEASED, 0

    # -- adding

    def take_room(self, key: Hashable, nbytes: int, reservation: Reservation | None) -> Place | Literal[False] | None:
        """Return a place to fill and publish, in the room that was reserved and what else is free or evicted.

        Removes the key, as its old value is wrong even if the new one does not fit. False: there can be no place. None:
        not done yet, call again.
        """
        self.drop(key)
        if reservation is None or reservation.state is not ReservationState.RESERVED:
            return self._take_place(key, nbytes)
        self.budget.hold(-reservation.nbytes, reservation.demanded)
        place = self._take_place(key, nbytes)
        if place is None or (place is False and reservation.until_read):
            self.budget.hold(reservation.nbytes, reservation.demanded)
        elif place and reservation.until_read and not reservation.demanded:
            reservation.state = ReservationState.STORED_UNREAD
            reservation.key, reservation.nbytes = key, entry_size(nbytes)
            self.budget.ahead += reservation.nbytes
        else:
            reservation.state, reservation.nbytes = ReservationState.RELEASED, 0
        return place

    def _take_place(self, key: Hashable, nbytes: int) -> Place | Literal[False] | None:
        need = entry_size(nbytes)
        if self.is_closed:
            return False
        if not self.policy.make_way(key, need):
            return None
        has_room = need <= self.budget.max_bytes and self.make_room(need, False)
        if has_room:
            place = self.arena.allocate(nbytes)
            if place is not None:
                self.budget.stored += need
                self.filling += 1
                return place
            has_room = None if self._evict_one(False) else False  # room, but in pieces: evict until one is large enough
        if has_room is False:
            self.metrics.bypassed += 1
            return False
        return None

    def publish(
        self, key: Hashable, place: Place, entry: Entry, *, is_whole: bool, is_unread: bool, is_pinned: bool
    ) -> None:
        """Store a filled place under its key, or free it if it was not filled completely."""
        self.filling -= 1
        if self.is_closed:
            if not self.filling:
                self.arena.close()
        elif is_whole:
            self.drop(key)  # stored by another thread meanwhile
            self.records[key] = (*place, entry.head)
            self.policy.add(key, entry_size(entry.nbytes), is_pinned)
            self.metrics.total_bytes_saved += entry.raw_nbytes - entry.nbytes
            self.metrics.total_bytes_stored += entry.nbytes
            if self._ttl_s is not None:
                self._deadlines[key] = self._clock() + self._ttl_s
            if is_unread:
                self.unread.add(key)
        else:
            self._free(place)

    # -- removing

    def make_room(self, nbytes: int, force: bool) -> bool | None:
        """Evict until this many bytes fit. False: nothing more may be evicted. None: not done yet, call again."""
        self.sweep(_SWEEPS)
        for _ in range(_EVICTIONS_PER_HOLD):
            if self.budget.has_room(nbytes):
                return True
            if not self._evict_one(force):
                return False
        return None

    def _evict_one(self, force: bool) -> bool:
        key = self.policy.victim(force)
        if key is NOTHING:
            return False
        self.metrics.evictions += 1
        return self.drop(key)

    def _expire(self, key: Hashable) -> bool:
        if self._clock() < self._deadlines[key]:
            return False
        self.metrics.expirations += 1
        return self.drop(key)

    def sweep(self, limit: int | None = None) -> None:
        """Remove expired entries, all of them or at most `limit`."""
        if limit is None:
            limit = len(self._deadlines)
        for _ in range(min(limit, len(self._deadlines))):
            if not self._expire(next(iter(self._deadlines))):
                return

    def drop(self, key: Hashable) -> bool:
        """Remove a key. Whether it was held."""
        place = self.records.pop(key, None)
        if place is None:
            return False
        self.policy.discard(key)
        self._deadlines.pop(key, None)
        self.unread.discard(key)
        self._free(Place(*place[:4]))
        return True

    def _free(self, place: Place) -> None:
        if not self.is_closed:
            self.arena.free(place)
            self.budget.stored -= entry_size(place.length)

    def clear(self) -> None:
        """Remove everything and give the memory back to the system."""
        for place in self.records.values():
            self._free(Place(*place[:4]))
        self._forget()
        self.arena.trim()

    def close(self) -> None:
        """Free the memory, after the last thread that writes into it. Idempotent."""
        self.is_closed = True
        self.budget.stored = 0
        self._forget()
        if not self.filling:
            self.arena.close()

    def _forget(self) -> None:
        self.records.clear()
        self._deadlines.clear()
        self.unread.clear()
        is_retaining = isinstance(self.policy, Retain)
        self._set_policy(make_policy("retain" if is_retaining else "lru", self.budget.max_bytes, self._keep_fraction))
