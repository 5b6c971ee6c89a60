"""Tests of the samples a cache keeps across epochs, the hit rate it predicts, and its warnings."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.cache.advice import Advice
from streaming.cache.rates import RecentHits
from streaming.cache.reservation import ReservationState
from streaming.cache.sample import SmartLRUCache
from streaming.cache.store import entry_size
from streaming.core.miss import MISS
from streaming.testing import FakeClock

SAMPLES = 2_000
SIZE = 1_000


def cache_for(share: float, policy: str = "retain", size: int = SIZE, samples: int = SAMPLES) -> SmartLRUCache:
    """Return a cache that holds this share of samples of about this size."""
    budget = int(share * samples * entry_size(size + 10))
    return SmartLRUCache(max_size_bytes=budget, policy=policy, compression_type="none", samples=samples)


def shuffled(epoch: int, samples: int = SAMPLES) -> list[int]:
    """Return a new order for each epoch."""
    order = list(range(samples))
    random.Random(epoch).shuffle(order)
    return order


def constant(key: int) -> int:
    """One size for every key."""
    return SIZE


def read_all(cache: SmartLRUCache, order: Iterable[int], size_of: Callable[[int], int] = constant) -> list[bool]:
    """Read in this order and store what was missing. Return whether each read was a hit."""
    hits = []
    for key in order:
        hits.append(cache.get_nowait(key) is not MISS)
        if not hits[-1]:
            cache.put_nowait(key, b"x" * size_of(key))
        if key % 16 == 0:
            assert used(cache) <= cache.max_bytes
    return hits


def used(cache: SmartLRUCache) -> int:
    """Return the bytes of the budget that are in use."""
    stats = cache.get_cache_stats()
    return round((stats["current_size_gb"] + stats["in_flight_gb"]) * 1e9)


def scattered(key: int) -> int:
    """Return a size from 1 to 10 times the smallest, by key."""
    return 300 + random.Random(key).randrange(2_700)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75])
def test_the_kept_set_hits_nearly_what_fits(share: float) -> None:
    """From the second epoch on, the hit rate is 0.98 of the share that the cache holds, in changing orders."""
    cache = cache_for(share)
    for epoch in range(4):
        rate = sum(read_all(cache, shuffled(epoch))) / SAMPLES
        if epoch:
            assert min(0.98 * share, share - 7 / SAMPLES) <= rate <= share + 0.001  # the window is six samples at least
            assert abs(rate - cache.get_cache_stats()["predicted_hit_rate"]) < 0.02


def test_misses_are_spread_evenly_in_every_order() -> None:
    """No stretch of an epoch has many more misses than another, in the sequential order too."""
    for orders in (itertools.repeat(range(SAMPLES)), map(shuffled, itertools.count())):
        cache = cache_for(0.5)
        epochs = zip(orders, range(3), strict=False)
        hits = [read_all(cache, order) for order, _ in epochs][-1]
        tenths = [sum(hits[start : start + SAMPLES // 10]) for start in range(0, SAMPLES, SAMPLES // 10)]
        assert max(abs(tenth - sum(hits) / 10) for tenth in tenths) < 4 * math.sqrt(SAMPLES / 10 / 4)


def test_the_kept_set_adapts_to_sizes_and_then_stays() -> None:
    """With sizes that vary tenfold, small ones first, it fills its room and is the same from the second epoch on."""
    budget = sum(entry_size(scattered(key) + 10) for key in range(SAMPLES)) // 3
    cache = SmartLRUCache(max_size_bytes=budget, policy="retain", compression_type="none", samples=SAMPLES)
    read_all(cache, sorted(range(SAMPLES), key=scattered), scattered)
    second = read_all(cache, range(SAMPLES), scattered)
    third = read_all(cache, range(SAMPLES), scattered)
    assert second == third
    held = [key for key in range(SAMPLES) if third[key]]
    assert sum(entry_size(scattered(key) + 10) for key in held) > 0.97 * budget
    assert abs(sum(third) / SAMPLES - cache.get_cache_stats()["predicted_hit_rate"]) < 0.02


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(60)))
def test_the_kept_set_does_not_depend_on_the_order(order: list[int]) -> None:
    """The same keys are kept for every first order."""
    kept = []
    for first in (order, list(range(60))):
        cache = cache_for(0.6, samples=60)
        read_all(cache, first)
        read_all(cache, order)
        kept.append([key for key in range(60) if key in cache and not cache.is_fleeting(key)])
    assert kept[0] == kept[1]


def test_one_huge_sample_does_not_empty_the_set() -> None:
    """A sample of a quarter of the cache passes, and the others stay kept."""
    for huge in range(20):
        cache = cache_for(0.25)

        def size_of(key: int, huge: int = huge) -> int:
            return 120_000 if key == huge else SIZE

        read_all(cache, range(SAMPLES), size_of)
        assert sum(read_all(cache, range(SAMPLES), size_of)) > 0.2 * SAMPLES


def test_removed_keys_make_room_for_others() -> None:
    """When the data set changes, the set of the new keys grows as large as that of the old ones."""
    cache = cache_for(0.5)
    read_all(cache, range(SAMPLES))
    for key in range(SAMPLES):
        cache.invalidate(key)
    for epoch in range(3):
        hits = read_all(cache, (key + SAMPLES for key in shuffled(epoch)))
    assert sum(hits) > 0.47 * SAMPLES


def test_what_passes_has_a_window_of_its_own() -> None:
    """A read ahead holds a part of the window, evicts no kept entry, and is counted once until it is released."""
    cache = cache_for(0.5)
    read_all(cache, range(SAMPLES))
    kept = [key for key in range(SAMPLES) if read_all(cache, [key])[0]]
    cache.serves_processes = True
    passing = [key for key in range(SAMPLES) if key not in cache]
    ahead = []
    for key in passing:
        reservation = cache.reserve(SIZE, until_read=True)
        if reservation is None:
            break
        before = used(cache)
        entry = cache.encode(b"x" * SIZE)
        assert entry is not None
        assert cache.admit(key, entry, reservation=reservation)
        assert reservation.state is ReservationState.STORED_UNREAD
        assert used(cache) - before < 100
        ahead.append((key, reservation))
    assert 2 <= len(ahead) <= 0.015 * len(kept)
    for key in passing[len(ahead) :][:50]:
        cache.put_nowait(key, b"x" * SIZE)
    assert all(key in cache for key, _ in ahead)
    assert all(cache.is_fleeting(key) for key, _ in ahead)
    for _, reservation in ahead:
        reservation.release()
        reservation.release()
    for key in passing[len(ahead) :][:50]:
        cache.put_nowait(key, b"x" * SIZE)
    assert not any(key in cache for key, _ in ahead)
    assert sum(key in cache for key in kept) > 0.98 * len(kept)
    assert used(cache) <= cache.max_bytes


def test_a_sample_that_passes_stays_with_its_reader_in_the_process() -> None:
    """Without other processes, a sample that passes is held by its reader alone, and counted once."""
    cache = cache_for(0.5)
    read_all(cache, range(SAMPLES))
    read_all(cache, range(SAMPLES))
    outside = next(key for key in range(SAMPLES) if key not in cache)
    reservation = cache.reserve(SIZE, until_read=True)
    entry = cache.encode(b"x" * SIZE)
    assert reservation is not None
    assert entry is not None
    before = used(cache)
    assert not cache.admit(outside, entry, reservation=reservation)
    assert reservation.state is ReservationState.RESERVED
    assert outside not in cache
    assert used(cache) == before
    reservation.release()
    assert used(cache) == before - reservation.nbytes - entry_size(SIZE)


def test_auto_becomes_retain_when_the_order_is_known() -> None:
    """Before that it is LRU; stored entries stay until room is needed, or become part of the set."""
    cache = cache_for(0.5, policy="auto")
    read_all(cache, range(SAMPLES))
    assert cache.policy == "lru"
    held = len(cache)
    cache.retain()
    cache.retain()
    assert cache.policy == "retain"
    assert len(cache) == held
    for epoch in range(3):
        hits = read_all(cache, shuffled(epoch))
    assert sum(hits) > 0.48 * SAMPLES
    cache.clear()
    assert cache.policy == "retain"
    cache = cache_for(0.5, policy="lru")
    cache.retain()
    assert cache.policy == "lru"


def test_lru_predicts_the_hit_rate_of_a_new_shuffle() -> None:
    """The prediction is c + (1 - c) ln(1 - c), None before the first entry, and 1 if all samples fit."""
    cache = cache_for(0.5, policy="lru")
    assert cache.get_cache_stats()["predicted_hit_rate"] is None
    rates = [sum(read_all(cache, shuffled(epoch))) / SAMPLES for epoch in range(6)]
    predicted = cache.get_cache_stats()["predicted_hit_rate"]
    assert abs(predicted - (0.5 + 0.5 * math.log(0.5))) < 0.01
    assert abs(sum(rates[1:]) / 5 - predicted) < 0.02
    for policy in ("lru", "retain"):
        whole = cache_for(1.1, policy=policy)
        read_all(whole, shuffled(0))
        assert whole.get_cache_stats()["predicted_hit_rate"] == 1
        assert all(read_all(whole, shuffled(1)))


def test_retain_predicts_from_the_first_entries() -> None:
    """A few sizes are enough to predict how much will fit; `keep_fraction` bounds the prediction."""
    cache = cache_for(0.5)
    assert cache.get_cache_stats()["predicted_hit_rate"] is None
    read_all(cache, range(20))
    assert abs(cache.get_cache_stats()["predicted_hit_rate"] - 0.5) < 0.02
    half = SmartLRUCache(max_size_bytes=10**7, policy="retain", keep_fraction=0.25, samples=SAMPLES)
    read_all(half, range(20))
    assert half.get_cache_stats()["predicted_hit_rate"] == 0.25


# -- the observed rate, and warnings


def test_the_observed_rate_is_that_of_the_last_epoch() -> None:
    """The misses of the first epoch are forgotten after the second; a reset starts again."""
    clock = FakeClock()
    recent = RecentHits(100, clock)
    assert recent.note(0, 0) is None
    for reads in range(1, 101):
        rate = recent.note(reads, reads)
        clock.tick(1)
    assert rate == 0
    for reads in range(101, 201):
        rate = recent.note(reads, 100 + (reads - 100) // 4)
        clock.tick(2)
    assert rate == pytest.approx(0.75, abs=0.06)
    assert recent.epoch_s == pytest.approx(200, rel=0.1)
    assert recent.note(10, 1) == 0.9


def test_a_ttl_shorter_than_an_epoch_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The warning names the setting, the time that an epoch takes, and the next step."""
    advice = Advice(10**9, 60)
    for epoch_s in (None, 50, 93, 95):
        advice.on_epoch(epoch_s)
    [message] = [record.getMessage() for record in caplog.records]
    assert "max_ttl_seconds=60 epoch_seconds=93" in message
    assert "set max_ttl_seconds=None" in message
    Advice(10**9, None).on_epoch(1e9)
    assert len(caplog.records) == 1


def test_a_cache_of_fewer_than_eight_samples_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The warning names the setting and a sufficient size."""
    advice = Advice(10**9, None)
    for nbytes in (10**8, 2 * 10**8, 3 * 10**8):
        advice.on_read_ahead(nbytes)
    [message] = [record.getMessage() for record in caplog.records]
    assert "cache_too_small max_bytes=1000000000 sample_bytes=200000000 " in message
    assert "set cache_size_gb to 1.6 at least" in message
