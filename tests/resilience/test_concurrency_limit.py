"""The concurrency limit: shared by a host, found from latencies, cut by throttling."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable
from typing import Any

import pytest

from streaming.core.source_config import DataSourceConfig
from streaming.errors import ObjectNotFoundError, SourceUnavailable
from streaming.resilience import ConcurrencyLimit, Context, Guard, ResilienceConfig, is_throttle
from streaming.testing import FakeClock, MemorySource
from tests.resilience.parts import Held, cancelled_at_every_turn, down, in_time_of, marked, memory, settle


def limit_of(clock: FakeClock, **settings: Any) -> ConcurrencyLimit:
    """Return a limit with the test's clock."""
    return ConcurrencyLimit(in_time_of(clock, **settings))


async def test_no_more_than_the_limit_are_in_flight() -> None:
    """40 reads over a limit of 32: 8 wait their turn, first come first served, and all are served once."""
    replica = Held(memory(count=40), rest="hold")
    source = Guard(replica)
    reads = [asyncio.ensure_future(source.read(f"{number}.bin")) for number in range(40)]
    await settle()
    assert (replica.in_flight, source.limit.in_flight, source.limit.waiting) == (32, 32, 8)
    replica.rest = None
    replica.release()
    blobs = await asyncio.gather(*reads)
    assert len({bytes(blob.data) for blob in blobs}) == replica.started == 40
    assert (source.limit.in_flight, source.limit.waiting) == (0, 0)


async def test_sources_of_one_host_share_the_limit() -> None:
    """A host has one limit for all paths; another host has its own."""
    configs = [
        DataSourceConfig(name, "http", url)
        for name, url in [("a", "http://host:80/a"), ("b", "http://user@host:80/b"), ("c", "http://other/c")]
    ]
    a, b, c = (Guard(MemorySource(config)) for config in configs)
    assert a.limit is b.limit
    assert a.limit is not c.limit
    stores = [
        DataSourceConfig("s", "http", f"http://h{number}/", storage_options={"endpoint_url": "http://minio:9000"})
        for number in range(2)
    ]
    d, e = (Guard(MemorySource(config)) for config in stores)
    assert d.limit is e.limit


async def test_throttling_halves_once_a_round_and_never_goes_below_one() -> None:
    """A round of nothing but 429 halves the limit, however many came at once; it ends at 1."""
    limit = limit_of(FakeClock())
    limits = []
    for _ in range(9):
        for _ in range(max(int(limit.limit), 8)):
            await limit.enter() if limit.in_flight < int(limit.limit) else None
            limit.in_flight = max(limit.in_flight, 1)
            limit.leave(None, True)
        limits.append(limit.limit)
    assert limits[:6] == [16, 8, 4, 2, 1, 1]
    assert min(limits) == 1


async def test_a_few_refusals_cut_little() -> None:
    """One 503 in ten answers costs a twentieth of the limit, not half."""
    limit = limit_of(FakeClock(), initial_concurrency=100)
    for number in range(100):
        await limit.enter()
        limit.leave(None if number % 10 == 0 else 0.03, number % 10 == 0)
    assert limit.limit == pytest.approx(95)


async def test_after_throttling_it_grows_by_one_a_round() -> None:
    """Additive increase while the endpoint has recently throttled; the old pace afterwards."""
    clock = FakeClock()
    limit = limit_of(clock)
    for _ in range(32):
        await limit.enter()
        limit.leave(None, True)
    assert limit.limit == 16
    assert limit.is_throttled
    await full_round(limit)
    assert limit.limit == 17
    clock.tick(5)
    assert not limit.is_throttled
    await full_round(limit)
    assert limit.limit > 18.5


async def full_round(limit: ConcurrencyLimit, seconds: float = 0.03) -> None:
    """Answer as many reads as are allowed, with one more waiting."""
    places = int(limit.limit)
    while limit.in_flight < places:
        await limit.enter()
    waiting = asyncio.ensure_future(limit.enter())
    await settle(2)
    rounds = limit.limit
    while limit.limit == rounds:
        limit.leave(seconds)
        await settle(1)
        if limit.limit == rounds and limit.in_flight < places:
            await limit.enter()
    if not waiting.done():
        waiting.cancel()
    await settle(2)
    limit.in_flight = 0


async def test_it_grows_only_when_reads_wait() -> None:
    """A limit that no read meets stays."""
    limit = limit_of(FakeClock())
    for _ in range(1000):
        await limit.enter()
        limit.leave(0.03)
    assert limit.limit == 32


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (down(status=503), True),
        (down(status=429), True),
        (down(throttled=True), True),
        (down(status=500), False),
        (down(), False),
        (ObjectNotFoundError("x"), False),
    ],
)
async def test_errors_that_throttle(error: Exception, expected: bool) -> None:
    """A status of 429 or 503 asks for fewer requests, and so does an error with `throttled`; other failures do not."""
    assert is_throttle(error) is expected
    source = Guard(Held(memory(), [error]))
    with pytest.raises(type(error)):
        await source.read("0.bin")
    assert source.is_throttled is expected
    assert source.limit.in_flight == 0


async def test_cancelled_waiters_leave_their_turn_to_the_next() -> None:
    """Cancelled while waiting, or at the moment of its turn, a read leaves its place to the next."""
    limit = limit_of(FakeClock(), initial_concurrency=1)
    await limit.enter()
    first, second, third = (asyncio.ensure_future(limit.enter()) for _ in range(3))
    await settle()
    first.cancel()
    await settle()
    assert limit.waiting == 2
    limit.leave()
    second.cancel()
    await settle()
    assert third.done()
    assert (limit.in_flight, limit.waiting) == (1, 0)
    limit.leave()
    assert limit.in_flight == 0


async def test_cancel_at_every_await_leaves_places_free() -> None:
    """Whenever reads are cancelled, no place stays taken."""
    replica = Held(memory(), rest="hold")
    source = Guard(replica, Context(ResilienceConfig(initial_concurrency=2)))
    blockers = [asyncio.ensure_future(source.read("0.bin")) for _ in range(2)]
    await settle()
    await cancelled_at_every_turn(lambda: source.read("0.bin"))
    assert (source.limit.in_flight, source.limit.waiting) == (2, 0)
    for blocker in blockers:
        blocker.cancel()
    await settle()
    await cancelled_at_every_turn(lambda: source.read("0.bin"))
    assert (source.limit.in_flight, source.limit.waiting, replica.in_flight) == (0, 0, 0)


def even(rng: random.Random) -> float:
    return 1 + 0.3 * rng.random()


def exponential(rng: random.Random) -> float:
    return 1 + 0.5 * rng.expovariate(1)


@pytest.mark.parametrize("per_s", [500, 2000, 7000, 20_000])
@pytest.mark.parametrize("jitter", [even, exponential])
async def test_finds_the_best_concurrency_without_tuning(per_s: int, jitter: Callable[[random.Random], float]) -> None:
    """Within 10 s at 30 ms it serves 0.9 or more of what the best fixed concurrency of 8, 32, 128, 512 does."""
    best = max(served(per_s, jitter, fixed) for fixed in (8, 32, 128, 512))
    assert served(per_s, jitter, None) >= 0.9 * best


def served(per_s: int, jitter: Callable[[random.Random], float], fixed: int | None) -> int:
    """Return the reads that a server of that capacity behind 30 ms answers in the tenth second; 2,000 always wait."""
    clock, rng = FakeClock(), random.Random(1)
    limit = limit_of(clock)
    flying: list[tuple[float, float]] = []
    free, count, in_flight = (9.0 if fixed else 0.0), 0, 0
    if fixed:
        clock.tick(9.0)  # a fixed limit learns nothing before
    while clock.time() < 10:
        while in_flight < min(fixed or int(limit.limit), 2000):
            in_flight += 1
            way_s = 0.03 * jitter(rng) / 2
            free = max(clock.time() + way_s, free) + 1 / per_s
            heapq.heappush(flying, (free + way_s, clock.time()))
        limit.in_flight = in_flight
        limit._was_full = True  # more reads wait than may be in flight
        ended, began = heapq.heappop(flying)
        clock.tick(max(ended - clock.time(), 0.0))
        limit.leave(ended - began)
        in_flight -= 1
        count += ended > 9.1
    return count


async def test_errors_pass_unchanged() -> None:
    """The error of the source is raised as it is."""
    error = marked(SourceUnavailable("x"), status=500)
    with pytest.raises(SourceUnavailable) as caught:
        await Guard(Held(memory(), [error])).read("0.bin")
    assert caught.value is error


async def test_a_cancelled_waiter_may_be_passed_over_first() -> None:
    """Cancelled at the moment when a place becomes free, a waiter is passed over and ends as cancelled."""
    limit = limit_of(FakeClock(), initial_concurrency=1)
    await limit.enter()
    first, second = (asyncio.ensure_future(limit.enter()) for _ in range(2))
    await settle()
    first.cancel()
    limit.leave()
    await settle()
    assert first.cancelled()
    assert second.done()
    assert (limit.in_flight, limit.waiting) == (1, 0)
