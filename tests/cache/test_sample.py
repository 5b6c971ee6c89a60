"""The behaviour of `SmartLRUCache` that users and the adapter rely on."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import random
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest
import torch

import streaming.cache
from streaming.cache import CacheMetrics, SmartLRUCache
from streaming.cache.arena import ArenaReader
from streaming.cache.batch import read_batch
from streaming.cache.reading import STALE, load
from streaming.core.miss import MISS
from streaming.errors import ConfigError


class Clock:
    """A clock that the test advances."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def cache_of(max_bytes: int = 1_000_000, **options: Any) -> SmartLRUCache:
    return SmartLRUCache(max_size_bytes=max_bytes, **options)


def read_one(reader: ArenaReader, place: Any) -> Any:
    [sample] = read_batch(reader.memory, reader.generations, [place])
    return sample


def noise(nbytes: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(nbytes)


# -- names that users have


async def test_names_and_calls_of_existing_users() -> None:
    """Construct, put, get, prefetch, metrics, stats, reset and clear, as existing code calls them."""
    cache = SmartLRUCache(max_size_gb=0.001, max_ttl_seconds=60, compression_type="zstd", prefetch_ahead=4)
    assert await cache.get("a") is None
    assert await cache.put("a", {"x": torch.ones(3)}, compress=True)
    assert torch.equal((await cache.get("a"))["x"], torch.ones(3))

    async def fetch(key: str) -> str:
        return key * 2

    assert await cache.prefetch(["a", "b", "b"], fetch) == {"a": True, "b": True}
    assert await cache.get("b") == "bb"
    metrics = cache.get_metrics()
    assert isinstance(metrics, CacheMetrics)
    assert (metrics.hits, metrics.misses, metrics.evictions, metrics.prefetch_hits) == (2, 1, 0, 1)
    assert metrics.hit_rate == pytest.approx(2 / 3)
    stats = cache.get_cache_stats()
    assert {
        "num_items", "current_size_gb", "max_size_gb", "hit_rate", "total_hits", "total_misses", "total_evictions",
        "prefetch_hits", "compression_savings_gb",
    } <= set(stats)  # fmt: skip
    assert stats["num_items"] == 2
    assert stats["max_size_gb"] == 0.001
    cache.reset_metrics()
    assert cache.get_metrics() == CacheMetrics()
    assert metrics.hits == 2
    assert cache.get_metrics().hit_rate == 0.0
    cache.clear()
    await cache.clear()
    assert len(cache) == 0


def test_prefetcher_is_importable_from_here() -> None:
    """`from streaming.cache import AsyncPrefetcher` works; an unknown name is an AttributeError."""
    from streaming.prefetch.async_prefetcher import AsyncPrefetcher

    assert streaming.cache.AsyncPrefetcher is AsyncPrefetcher
    with pytest.raises(AttributeError, match="Nothing"):
        streaming.cache.Nothing  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_size_gb": 0}, "above 0"),
        ({"max_size_gb": -1.0}, "above 0"),
        ({"max_size_bytes": 0}, "above 0"),
        ({"max_size_gb": float("nan")}, "finite"),
        ({"max_size_gb": float("inf")}, "finite"),
        ({"max_ttl_seconds": -1}, "max_ttl_seconds"),
        ({"max_ttl_seconds": float("nan")}, "max_ttl_seconds"),
        ({"prefetch_ahead": -1}, "prefetch_ahead"),
        ({"compression_type": "lz4"}, "'lz4'"),
        ({"policy": "mru"}, "'mru'"),
        ({"policy": "retain", "keep_fraction": 1.5}, "keep_fraction"),
    ],
)
def test_unusable_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    """A bad argument is a ConfigError, which is a ValueError, with the value in its message."""
    with pytest.raises(ConfigError, match=message):
        SmartLRUCache(**options)


def test_importing_the_cache_loads_neither_torch_nor_numpy() -> None:
    """A cache of plain JSON works without torch and numpy being imported."""
    code = (
        "import sys; from streaming.cache import SmartLRUCache; c = SmartLRUCache(max_size_bytes=10**6);"
        "c.put_nowait('a', {'b': [1, 2.5, 'text']}); assert c.get_nowait('a') == {'b': [1, 2.5, 'text']};"
        "assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=os.path.dirname(streaming.cache.__path__[0]) + "/..")


# -- reading and writing


@pytest.mark.parametrize("compression_type", ["zstd", "none"])
def test_a_reader_gets_its_own_copy(compression_type: str) -> None:
    """Writing into a sample that was put or read never changes the next read; small, large and nested."""
    cache = cache_of(compression_type=compression_type)
    sample: dict[str, Any] = {
        "small": torch.zeros(100),
        "large": torch.zeros(50_000),
        "array": np.zeros(8),
        "list": [1],
    }
    assert cache.put_nowait("k", sample)
    sample["small"].fill_(7)
    sample["list"].append(7)
    for _ in range(2):
        got = cache.get_nowait("k")
        assert got["list"] == [1]
        for name in ("small", "large", "array"):
            assert not got[name].any()
            got[name][:] = 7
        got["list"].append(7)


def test_replacing_is_exact() -> None:
    """The new value is read and the bytes of the old one are free again, for smaller and larger values."""
    cache = cache_of(compression_type="none")
    cache.put_nowait("k", noise(1000))
    one = cache.get_cache_stats()["current_size_gb"]
    for size in (50_000, 10, 400_000, 1000):
        assert cache.put_nowait("k", noise(size, seed=size))
        assert cache.get_nowait("k") == noise(size, seed=size)
        assert len(cache) == 1
    assert cache.get_cache_stats()["current_size_gb"] == one


def test_lru_evicts_the_least_recently_read() -> None:
    """With room for three equal entries, the one not used for longest is evicted; a read and a replacement are uses."""
    cache = cache_of(35_000, compression_type="none")
    for key in "abc":
        cache.put_nowait(key, noise(10_000))
    cache.get_nowait("a")
    cache.put_nowait("b", noise(10_000))
    cache.put_nowait("d", noise(10_000))
    assert [key in cache for key in "abcd"] == [True, True, False, True]
    assert cache.get_metrics().evictions == 1


def test_an_entry_larger_than_the_cache_bypasses_it() -> None:
    """It is not held but counted, evicts nothing, and the old value of its key is removed."""
    cache = cache_of(10_000)
    cache.put_nowait("other", 1)
    cache.put_nowait("k", 2)
    assert not cache.put_nowait("k", noise(20_000))
    assert cache.get_nowait("k") is MISS
    assert cache.get_nowait("other") == 1
    assert cache.get_metrics().bypassed == 1
    assert cache.get_metrics().evictions == 0


def test_types_that_cannot_be_stored_are_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Such a sample is not held, the old value is removed, and one warning names the type."""
    cache = cache_of()
    cache.put_nowait("k", 1)
    with caplog.at_level(logging.WARNING):
        assert not cache.put_nowait("k", {"x": {1, 2}})
        assert not cache.put_nowait("k", object())
    assert cache.get_nowait("k") is MISS
    assert cache.get_metrics().uncacheable == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "builtins.set" in caplog.text


def test_default_none_and_stored_none() -> None:
    """`get_nowait` distinguishes a stored None from a miss; any default may be given."""
    cache = cache_of()
    cache.put_nowait("k", None)
    assert cache.get_nowait("k") is None
    assert cache.get_nowait("other") is MISS
    assert cache.get_nowait("other", 5) == 5


async def test_large_samples_are_read_off_the_loop() -> None:
    """`await get` of a large sample returns what was put."""
    cache = cache_of(8_000_000, compression_type="none")
    big = torch.randn(1_000_000)
    assert await cache.put("k", big)
    assert torch.equal(await cache.get("k"), big)


def test_keys_may_be_any_hashable() -> None:
    """Integers, strings and tuples are keys; an unhashable key is a TypeError and nothing is lost."""
    cache = cache_of()
    for key in (1, "1", (1, "a"), None):
        assert cache.put_nowait(key, repr(key))
    assert [cache.get_nowait(key) for key in (1, "1", (1, "a"), None)] == ["1", "'1'", "(1, 'a')", "None"]
    before = cache.get_cache_stats()["current_size_gb"]
    with pytest.raises(TypeError):
        cache.put_nowait([], 1)  # type: ignore[arg-type]
    assert cache.get_cache_stats()["current_size_gb"] == before


def test_after_close_reads_miss_and_nothing_is_kept() -> None:
    """After `close`, which may be called twice, every read misses, puts are refused, and `clear` does nothing."""
    cache = cache_of()
    cache.put_nowait("k", torch.ones(10))
    cache.close()
    cache.close()
    assert cache.get_nowait("k") is MISS
    assert cache.place("k") is None
    assert not cache.put_nowait("k", 1)
    cache.clear()
    assert len(cache) == 0
    assert cache.get_cache_stats()["current_size_gb"] == 0


def test_closing_while_another_thread_writes() -> None:
    """A sample that is being written when the cache closes is not kept, and the memory is freed afterwards."""
    cache = cache_of(50_000_000, compression_type="none")
    sample = {"x": torch.zeros(5_000_000, dtype=torch.uint8)}
    begun = threading.Barrier(3, timeout=60)

    def write() -> None:
        kept = cache.put_nowait("k", sample)
        begun.wait()
        while kept:
            kept = cache.put_nowait("k", sample)

    threads = [threading.Thread(target=write, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    begun.wait()
    cache.close()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert len(cache) == 0
    assert cache.arena.fd == -1


# -- age


def test_ttl_at_every_read_path() -> None:
    """At the age of the TTL an entry is gone for get, place, contains and the budget; replacing it resets its age."""
    clock = Clock()
    cache = cache_of(max_ttl_seconds=10, clock=clock)
    for key in "abcd":
        cache.put_nowait(key, key)
    clock.now = 9
    cache.put_nowait("d", "new")
    assert cache.get_nowait("a") == "a"
    clock.now = 10
    assert cache.get_nowait("a") is MISS
    assert cache.place("b") is None
    assert "c" not in cache
    assert cache.get_nowait("d") == "new"
    assert cache.get_metrics().expirations == 3
    clock.now = 19
    assert cache.get_cache_stats()["current_size_gb"] == 0
    assert cache.get_cache_stats()["expired"] == 4


async def test_ttl_through_await_get_and_zero() -> None:
    """`await get` respects the TTL too; a TTL of 0 keeps nothing."""
    clock = Clock()
    cache = cache_of(max_ttl_seconds=0, clock=clock)
    await cache.put("k", 1)
    assert await cache.get("k") is None


def test_expired_entries_are_evicted_first() -> None:
    """Expired entries make room even if they were read last."""
    clock = Clock()
    cache = cache_of(25_000, max_ttl_seconds=10, clock=clock, compression_type="none")
    cache.put_nowait("old", noise(10_000))
    clock.now = 5
    cache.put_nowait("new", noise(10_000))
    cache.get_nowait("old")
    clock.now = 12
    cache.put_nowait("next", noise(10_000))
    assert "new" in cache
    assert cache.get_metrics().evictions == 0


# -- policy


def test_retain_keeps_its_set_and_lets_the_rest_pass() -> None:
    """Over shuffled epochs kept keys are never evicted, and the hit rate is near the cached fraction, above LRU's."""
    rates = {}
    for policy in ("lru", "retain"):
        cache = cache_of(120_000, policy=policy, keep_fraction=0.5, compression_type="none")
        order = list(range(200))
        for epoch in range(6):
            random.Random(epoch).shuffle(order)
            if epoch == 2:
                cache.reset_metrics()
            for key in order:
                if cache.get_nowait(key) is MISS:
                    cache.put_nowait(key, noise(400))
        rates[policy] = cache.get_metrics().hit_rate
    assert rates["retain"] > 0.4
    assert rates["lru"] < rates["retain"] - 0.1


def test_retain_makes_way_only_for_a_demanded_read() -> None:
    """Kept entries are not evicted for puts and prefetches, and last for a read that a reader waits for."""
    cache = cache_of(100_000, policy="retain", compression_type="none")
    for key in range(40):
        cache.put_nowait(key, noise(4000))
    assert not cache.put_nowait("wide", noise(50_000))
    kept = [key for key in range(40) if key in cache]
    assert len(kept) >= 12
    assert cache.reserve(50_000) is None
    assert [key for key in kept if key in cache] == kept
    small = cache.reserve(2000, demanded=True)
    assert small is not None
    assert cache.reserve(90_000, demanded=True) is None  # the small one ends soon, and makes room
    assert [key for key in kept if key in cache] == kept
    small.release()
    demanded = cache.reserve(90_000, demanded=True)
    assert demanded is not None
    assert 0 < sum(key in cache for key in kept) < 3
    demanded.release()
    for key in kept:
        cache.put_nowait(key, noise(4000))
    assert [key for key in kept if key in cache] == kept
    cache.clear()
    assert cache.put_nowait("kept", noise(4000))


# -- reads in flight


def test_prefetch_reservations_keep_to_their_window() -> None:
    """Reads ahead hold at most half of the budget; demanded ones evict up to all of it, larger ones bypass."""
    cache = cache_of(10_000, compression_type="none")
    cache.put_nowait("k", noise(4000))
    first = cache.reserve(4000)
    assert first is not None
    assert cache.reserve(2000) is None
    first.release()
    assert cache.reserve(5001) is None
    first = cache.reserve(1000)
    assert first is not None
    demanded = cache.reserve(9000, demanded=True)
    assert demanded is not None
    assert "k" not in cache
    assert cache.reserve(1, demanded=True) is None
    assert cache.get_metrics().bypassed == 0
    assert cache.reserve(10_001, demanded=True) is None
    assert cache.get_metrics().bypassed == 1
    assert cache.get_cache_stats()["in_flight_gb"] == pytest.approx(1e-5)
    entry = cache.encode(noise(8000))
    assert entry is not None
    assert cache.admit("k", entry, reservation=demanded)
    assert demanded.nbytes == 0
    first.release()
    assert cache.get_cache_stats()["in_flight_gb"] == 0


def test_admission_that_fails_still_ends_its_reservation() -> None:
    """An entry that turns out larger than the cache gives its reserved room back."""
    cache = cache_of(10_000)
    reservation = cache.reserve(1000)
    entry = cache.encode(noise(20_000))
    assert entry is not None
    assert not cache.admit("k", entry, reservation=reservation)
    assert cache.get_cache_stats()["in_flight_gb"] == 0


# -- prefetch


async def test_prefetch_fetches_each_key_once_over_all_callers() -> None:
    """Callers that overlap, also on another loop, share one fetch; the entry's first read is the prefetch hit."""
    cache = cache_of()
    calls: list[str] = []
    gate, started = asyncio.Event(), asyncio.Event()

    async def fetch(key: str) -> str:
        calls.append(key)
        started.set()
        await gate.wait()
        return key

    both = [asyncio.create_task(cache.prefetch(["a", "b"], fetch)) for _ in range(2)]
    await started.wait()
    other = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(cache.prefetch(["a"], fetch))))
    gate.set()
    assert await asyncio.gather(*both, other) == [{"a": True, "b": True}, {"a": True, "b": True}, {"a": True}]
    assert sorted(calls) == ["a", "b"]
    for _ in range(2):
        assert cache.get_nowait("a") == "a"
    assert cache.place("b") is not None
    assert cache.get_metrics().prefetch_hits == 2


async def test_prefetch_failure_is_false_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A failing key is logged, and affects neither the others nor the budget nor later fetches."""
    cache = cache_of()
    fails = {"bad"}

    async def fetch(key: str) -> Any:
        if key in fails:
            raise OSError("gone")
        return {1} if key == "odd" else key

    with caplog.at_level(logging.WARNING):
        assert await cache.prefetch(["a", "bad", "odd"], fetch) == {"a": True, "bad": False, "odd": False}
    assert "key=bad " in caplog.text
    assert "gone" in caplog.text
    fails.clear()
    assert await cache.prefetch(["bad"], fetch) == {"bad": True}
    assert cache.get_cache_stats()["in_flight_gb"] == 0


async def test_prefetch_without_room_is_false() -> None:
    """A prefetch does not start while other reads hold the window."""
    cache = cache_of(100_000, prefetch_ahead=1)
    held = cache.reserve(50_000)
    assert held is not None

    async def fetch(key: str) -> str:
        return key

    assert await cache.prefetch(["a"], fetch) == {"a": False}
    held.release()
    assert await cache.prefetch(["a"], fetch) == {"a": True}


async def test_cancelled_prefetch_hands_its_key_to_the_waiting() -> None:
    """When the caller that fetches is cancelled, a waiting one fetches; a cancelled waiter has no effect on others."""
    cache = cache_of()
    calls: list[str] = []
    gate, started = asyncio.Event(), asyncio.Event()

    async def fetch(key: str) -> str:
        calls.append(key)
        started.set()
        await gate.wait()
        return key

    first, second, third = (asyncio.create_task(cache.prefetch(["a"], fetch)) for _ in range(3))
    await started.wait()
    third.cancel()
    await asyncio.wait([third])
    first.cancel()
    await asyncio.wait([first])
    assert cache.get_cache_stats()["in_flight_gb"] == pytest.approx(0, abs=1e-3)
    gate.set()
    assert await second == {"a": True}
    assert calls == ["a", "a"]
    assert cache.get_cache_stats()["in_flight_gb"] == 0


# -- threads and processes


def test_threads_never_see_a_wrong_byte() -> None:
    """Threads that get, put, invalidate and clear at once read only whole values of the right key, within budget."""
    cache = cache_of(300_000, compression_type="zstd")
    wrong: list[Any] = []
    stop = threading.Event()

    def work(seed: int) -> None:
        choose = random.Random(seed)
        for step in range(1500):
            key = choose.randrange(12)
            action = choose.random()
            if action < 0.5:
                sample = cache.get_nowait(key)
                if sample is not MISS and not (sample["x"] == key).all():
                    wrong.append(key)
            elif action < 0.97:
                cache.put_nowait(key, {"x": np.full(choose.choice([50, 5000, 12_000]), key), "step": step})
            elif action < 0.99:
                cache.invalidate(key)
            else:
                cache.clear()

    def watch() -> None:
        while not stop.is_set():
            stats = cache.get_cache_stats()
            if stats["current_size_gb"] + stats["in_flight_gb"] > stats["max_size_gb"]:
                wrong.append(stats)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    watcher = threading.Thread(target=watch)
    for thread in [watcher, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    watcher.join()
    assert not wrong
    cache.clear()
    assert cache.arena.free_blocks() == [(0, cache.arena.capacity)]
    assert cache.get_cache_stats()["current_size_gb"] == 0


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("length", [100, 50_000])
def test_a_place_is_stale_once_its_key_is_gone(compress: bool, length: int) -> None:
    """A worker that still holds the place of an evicted sample gets `STALE`, even if the place is used again."""
    cache = cache_of()
    reader = ArenaReader(cache.arena.fd)
    cache.put_nowait("k", {"x": torch.ones(length)}, compress=compress)
    place = cache.place("k")
    assert place is not None
    assert torch.equal(read_one(reader, place)["x"], torch.ones(length))
    cache.invalidate("k")
    assert read_one(reader, place) is STALE
    cache.put_nowait("other", {"x": torch.zeros(length)}, compress=compress)
    assert read_one(reader, place) is STALE


class Freed(Sequence[int]):
    """Generations that increase after some reads, as when the owner evicts during a copy."""

    def __init__(self, table: Sequence[int], reads: int) -> None:
        self._table = table
        self._reads = reads

    def __getitem__(self, slot: Any) -> Any:
        self._reads -= 1
        return self._table[slot] + (self._reads < 0)

    def __len__(self) -> int:
        return len(self._table)


def test_a_sample_evicted_during_its_copy_is_stale() -> None:
    """A large tensor is copied after its header was checked; an eviction in between is detected."""
    cache = cache_of(compression_type="none")
    cache.put_nowait("k", {"x": torch.ones(50_000)})
    place = cache.place("k")
    assert place is not None
    arena = cache.arena
    for reads, is_stale in ((0, True), (1, True), (2, False)):
        assert (load(arena.memory, Freed(arena.generations, reads), place) is STALE) == is_stale


def _read_samples(fd: int, pipe: Connection) -> None:
    reader = ArenaReader(fd)
    wrong = good = stale = 0
    while (item := pipe.recv()) is not None:
        key, place = item
        sample = read_one(reader, place)
        if sample is STALE:
            stale += 1
        elif all((value == key).all() for value in sample.values()):
            good += 1
        else:
            wrong += 1
        pipe.send(None)
    pipe.send((wrong, good, stale))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_worker_reads_places() -> None:
    """A child decodes places of small, large and compressed samples; a freed one is stale, never wrong."""
    context = multiprocessing.get_context("fork")
    cache = cache_of(2_000_000)
    here, there = context.Pipe()
    child = context.Process(target=_read_samples, args=(cache.arena.fd, there))
    child.start()
    for key in range(300):
        noisy = np.random.default_rng(key).random(30_000)
        noisy[:] = key
        sample = {"ids": np.full(2000, key), "large": noisy, "t": torch.full((100,), key)}
        assert cache.put_nowait(key, sample, compress=key % 2 == 0)
        place = cache.place(key)
        assert place is not None
        if key % 10 == 0:
            cache.invalidate(key)
            cache.put_nowait(-key - 1, sample)
        here.send((key, place))
        here.recv()
    here.send(None)
    assert here.recv() == (0, 270, 30)
    child.join()
    assert child.exitcode == 0
    assert cache.get_nowait(299)["t"][0] == 299
