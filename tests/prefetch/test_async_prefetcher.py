"""`AsyncPrefetcher`, as code written for its old names calls it."""

import asyncio

import pytest

from streaming.errors import ClosedError, ConfigError
from streaming.prefetch.async_prefetcher import AsyncPrefetcher


class DictCache:
    """The smallest cache that a prefetcher accepts."""

    def __init__(self):
        self.data = {}

    async def get(self, key):
        return self.data.get(key)

    async def put(self, key, data):
        self.data[key] = data


class Fetches:
    """Counts fetches; each waits until the test releases it."""

    def __init__(self):
        self.keys = []
        self.gate = asyncio.Event()
        self.running = 0

    async def __call__(self, key):
        self.keys.append(key)
        self.running += 1
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        if key.startswith("bad"):
            raise OSError(f"planted for {key}")
        return key.upper()


async def settle():
    """Run every callback that is due."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_queued_keys_reach_the_cache_and_are_fetched_once():
    """A key that is queued, read and queued again costs one fetch."""
    fetches = Fetches()
    fetches.gate.set()
    cache = DictCache()
    prefetcher = AsyncPrefetcher(cache, fetches, queue_size=10)
    await prefetcher.start()
    for key in "abc":
        await prefetcher.queue_item(key)
    assert [await prefetcher.get(key) for key in "abc"] == ["A", "B", "C"]
    await prefetcher.queue_item("a")
    await settle()
    assert sorted(fetches.keys) == ["a", "b", "c"]
    assert cache.data == {"a": "A", "b": "B", "c": "C"}
    await prefetcher.stop()


async def test_a_read_joins_the_fetch_in_flight():
    """Reader and queue share one fetch."""
    fetches = Fetches()
    prefetcher = AsyncPrefetcher(DictCache(), fetches)
    prefetcher.start()
    await prefetcher.queue_item("a")
    read = asyncio.ensure_future(prefetcher.get("a"))
    await settle()
    fetches.gate.set()
    assert await read == "A"
    assert fetches.keys == ["a"]
    await prefetcher.stop()


async def test_a_full_queue_makes_the_producer_wait():
    """queue_item returns when fewer than queue_size keys are waiting."""
    fetches = Fetches()
    prefetcher = AsyncPrefetcher(DictCache(), fetches, queue_size=1, concurrency=1)
    await prefetcher.start()
    await prefetcher.queue_item("a")
    await settle()
    await prefetcher.queue_item("b")
    third = asyncio.ensure_future(prefetcher.queue_item("c"))
    await settle()
    assert not third.done()
    fetches.gate.set()
    await third
    assert await prefetcher.get("c") == "C"
    await prefetcher.stop()


async def test_a_failed_fetch_raises_at_its_read_once():
    """The next read fetches again."""
    fetches = Fetches()
    fetches.gate.set()
    prefetcher = AsyncPrefetcher(DictCache(), fetches)
    await prefetcher.start()
    await prefetcher.queue_item("bad")
    await settle()
    assert fetches.keys == ["bad"]
    with pytest.raises(OSError, match="planted for bad"):
        await prefetcher.get("bad")
    assert fetches.keys == ["bad"]
    with pytest.raises(OSError, match="planted for bad"):
        await prefetcher.get("bad")
    assert fetches.keys == ["bad", "bad"]
    await prefetcher.stop()


async def test_stop_cancels_and_leaves_no_task():
    """After an awaited stop nothing runs; queueing raises; reading still works."""
    fetches = Fetches()
    before = asyncio.all_tasks()
    prefetcher = AsyncPrefetcher(DictCache(), fetches, queue_size=1, concurrency=1)
    await prefetcher.start()
    await prefetcher.queue_item("a")
    await settle()
    await prefetcher.queue_item("b")
    blocked = asyncio.ensure_future(prefetcher.queue_item("c"))
    await settle()
    await prefetcher.stop()
    await prefetcher.stop()
    assert fetches.running == 0
    assert not prefetcher.is_running
    with pytest.raises(ClosedError, match="call start"):
        await blocked
    assert asyncio.all_tasks() == before
    fetches.gate.set()
    assert await prefetcher.get("z") == "Z"


async def test_stop_without_await_ends_the_fetches_too():
    """Old code calls stop() without await."""
    fetches = Fetches()
    prefetcher = AsyncPrefetcher(DictCache(), fetches)
    prefetcher.start()
    await prefetcher.queue_item("a")
    await settle()
    prefetcher.stop()
    await settle()
    assert fetches.running == 0


def test_a_prefetcher_can_be_used_on_a_second_loop():
    """Each asyncio.run has a loop of its own; the prefetcher moves to it."""
    fetches = asyncio.run(_make_fetches())
    prefetcher = AsyncPrefetcher(DictCache(), fetches)
    assert asyncio.run(prefetcher.get("a")) == "A"
    assert asyncio.run(prefetcher.get("b")) == "B"
    prefetcher.stop()


async def _make_fetches():
    fetches = Fetches()
    fetches.gate.set()
    return fetches


@pytest.mark.parametrize("options", [{"queue_size": 0}, {"concurrency": 0}])
def test_sizes_below_one_are_refused(options):
    """A queue of size 0 could never fetch."""
    with pytest.raises(ConfigError, match="at least 1"):
        AsyncPrefetcher(DictCache(), Fetches(), **options)
