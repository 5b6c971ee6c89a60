"""The cache against a model: any sequence of operations, with sizes, ages and reads in flight."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from streaming.cache.reservation import Reservation
from streaming.cache.sample import SmartLRUCache
from streaming.core.miss import MISS

KEYS = st.integers(0, 9)
SIZES = st.sampled_from([0, 10, 1000, 5000, 12_000, 19_000, 40_000])
BUDGET = 32_000


class CacheMachine(RuleBasedStateMachine):
    """Puts, reads, ages, reserves; after each step the cache agrees with a dict that keeps everything."""

    @initialize(policy=st.sampled_from(["lru", "retain"]), ttl=st.sampled_from([None, 10]))
    def start(self, policy: str, ttl: int | None) -> None:
        self.now = 0.0
        self.ttl = ttl
        self.policy = policy
        self.cache = SmartLRUCache(
            max_size_bytes=BUDGET, policy=policy, max_ttl_seconds=ttl, compression_type="none", clock=lambda: self.now
        )
        self.truth: dict[int, tuple[Any, float]] = {}  # in order of use
        self.flying: list[Reservation] = []
        self.version = 0

    @rule(key=KEYS, size=SIZES)
    def put(self, key: int, size: int) -> None:
        self.version += 1
        sample = (self.version, bytes([self.version % 256]) * size)
        was_held = self.cache.put_nowait(key, sample)
        assert was_held == self.cache.contains(key)
        if self.policy == "lru" and not self.flying:
            assert was_held == (size <= 19_000)
        self.truth.pop(key, None)
        if was_held:
            self.truth[key] = (sample, self.now)

    @rule(key=KEYS)
    def get(self, key: int) -> None:
        sample = self.cache.get_nowait(key, MISS)
        if sample is not MISS:
            assert sample == self.truth[key][0]
            assert self.ttl is None or self.now < self.truth[key][1] + self.ttl
            self.truth[key] = self.truth.pop(key)

    @rule(key=KEYS)
    def place(self, key: int) -> None:
        assert (self.cache.place(key) is not None) == self.cache.contains(key)
        if self.cache.contains(key):
            self.truth[key] = self.truth.pop(key)

    @rule(key=KEYS)
    def invalidate(self, key: int) -> None:
        was_held = self.cache.contains(key)
        assert self.cache.invalidate(key) == was_held
        self.truth.pop(key, None)

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.truth.clear()

    @rule(seconds=st.sampled_from([1, 6, 10]))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(size=SIZES, demanded=st.booleans())
    def reserve(self, size: int, demanded: bool) -> None:
        others = sum(r.nbytes for r in self.flying)
        reservation = self.cache.reserve(size, demanded=demanded)
        if demanded and (self.policy == "lru" or not others):  # kept entries stay while others are in flight
            assert (reservation is not None) == (others + size <= BUDGET)
        if reservation is not None:
            assert reservation.nbytes == size
            self.flying.append(reservation)

    @rule()
    def land(self) -> None:
        if self.flying:
            reservation = self.flying.pop(0)
            reservation.release()
            reservation.release()

    @rule(key=KEYS, size=SIZES)
    def admit_reserved(self, key: int, size: int) -> None:
        if self.flying:
            self.version += 1
            sample = (self.version, b"r" * size)
            entry = self.cache.encode(sample)
            assert entry is not None
            was_held = self.cache.admit(key, entry, reservation=self.flying.pop(0))
            self.truth.pop(key, None)
            if was_held:
                self.truth[key] = (sample, self.now)

    @invariant()
    def budget_holds(self) -> None:
        if not hasattr(self, "cache"):
            return
        stats = self.cache.get_cache_stats()
        assert stats["current_size_gb"] + stats["in_flight_gb"] <= stats["max_size_gb"] + 1e-15
        assert round(stats["in_flight_gb"] * 1e9) == sum(r.nbytes for r in self.flying)
        held = [key for key in self.truth if self.cache.contains(key)]
        assert stats["num_items"] == len(held) == len(self.cache)
        assert (stats["current_size_gb"] == 0) == (not held)
        for key, (_, stored) in list(self.truth.items()):
            if self.ttl is not None and self.now >= stored + self.ttl:
                assert key not in self.cache
                del self.truth[key]
        if self.policy == "lru":  # evicted keys were used before those that are still held
            assert list(self.truth)[len(self.truth) - len(held) :] == held


TestCache = CacheMachine.TestCase
TestCache.settings = settings(deadline=None, max_examples=120, stateful_step_count=40)
