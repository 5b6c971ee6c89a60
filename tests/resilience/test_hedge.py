"""Hedging: when and where a second read is started, how many, and how the loser ends."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from streaming.errors import ObjectNotFoundError, SourceTimeout, SourceUnavailable
from streaming.resilience import Failover, Hedge
from streaming.sources.base import Blob
from streaming.testing import FakeClock, LatencySource
from tests.resilience.parts import DATA, Held, cancelled_at_every_turn, down, driven, in_time_of, memory, settle


async def warm(clock: FakeClock, hedge: Hedge, reads: int = 60) -> None:
    """Let it observe instant reads, and earn tokens."""
    for _ in range(reads):
        await driven(clock, hedge.read("0.bin"))


def hedged(replica: Held, clock: FakeClock, **settings: Any) -> Hedge:
    """Return a hedge with the test's clock."""
    return Hedge(replica, in_time_of(clock, **settings))


async def test_a_late_read_gets_a_second_which_wins() -> None:
    """The second answers, the first is cancelled and has ended when the read returns."""
    clock, replica = FakeClock(), Held(memory(), [None] * 60 + ["hold"])
    hedge = hedged(replica, clock)
    await warm(clock, hedge)
    blob = await driven(clock, hedge.read("0.bin"), step_s=0.01)
    assert bytes(blob.data) == DATA + b"0"
    assert (replica.started, replica.cancelled, replica.in_flight) == (62, 1, 0)
    assert (hedge.hedges, hedge.hedge_wins) == (1, 1)


async def test_the_first_may_still_win() -> None:
    """Then the second is cancelled and awaited, and nothing is delivered twice."""
    clock, replica = FakeClock(), Held(memory(), [None] * 60, rest="hold")
    hedge = hedged(replica, clock)
    await warm(clock, hedge)
    read = asyncio.ensure_future(hedge.read("0.bin"))
    await settle()
    clock.tick(1)
    await settle()
    assert replica.in_flight == 2
    replica._waiting[0].set_result(None)
    assert bytes((await read).data) == DATA + b"0"
    assert (hedge.hedges, hedge.hedge_wins, replica.cancelled, replica.in_flight) == (1, 0, 1, 0)


async def test_no_hedge_before_enough_reads() -> None:
    """In the first 50 reads a late one is left alone."""
    clock, replica = FakeClock(), Held(memory(), [None] * 49 + ["hold"])
    hedge = hedged(replica, clock)
    await warm(clock, hedge, 49)
    read = asyncio.ensure_future(hedge.read("0.bin"))
    await settle()
    clock.tick(100)
    await settle()
    assert replica.started == 50
    replica.release()
    await read


async def test_it_waits_for_the_98th_percentile() -> None:
    """With latencies of 10 to 1000 ms, the second read starts after 980 ms."""
    clock = FakeClock()
    replica = Held(memory())

    class Slow(LatencySource):
        async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
            self.latency_s = next(waits, 9.0)
            return await super().read(path, start, end)

    latencies = [number / 100 for number in range(1, 101)]
    random.Random(1).shuffle(latencies)
    waits = iter(latencies)
    hedge = Hedge(Slow(replica, 0, sleep=clock.sleep), in_time_of(clock, hedge_min_samples=100))
    for _ in range(100):
        await driven(clock, hedge.read("0.bin"), step_s=0.01)
    read = asyncio.ensure_future(hedge.read("0.bin"))
    await settle()
    begun = clock.time()
    while not hedge.hedges:
        clock.tick(0.01)
        await settle()
    assert clock.time() - begun == pytest.approx(0.99, abs=0.03)
    await driven(clock, read, step_s=0.5)


async def test_at_most_five_percent_more_requests() -> None:
    """When every read is late, one in twenty gets a second."""
    clock, replica = FakeClock(), Held(memory(), [None] * 50)
    hedge = hedged(replica, clock, hedge_min_s=0.01)
    await warm(clock, hedge, 50)
    replica.rest = "hold"
    for _ in range(400):
        read = asyncio.ensure_future(hedge.read("0.bin"))
        await settle(3)
        clock.tick(1)
        await settle(3)
        replica.release()
        await read
    assert hedge.requests == 450
    assert 15 <= hedge.hedges <= 0.05 * 450
    assert replica.started == 450 + hedge.hedges
    assert replica.in_flight == 0


async def test_no_hedge_while_the_endpoint_throttles() -> None:
    """When fewer requests are wanted, it sends no second ones."""
    clock, replica = FakeClock(), Held(memory(), [None] * 60 + ["hold"])
    replica.is_throttled = True  # type: ignore[attr-defined]
    hedge = hedged(replica, clock)
    await warm(clock, hedge)
    read = asyncio.ensure_future(hedge.read("0.bin"))
    await settle()
    clock.tick(100)
    await settle()
    assert (hedge.hedges, replica.started) == (0, 61)
    replica.release()
    await read


async def test_an_early_failure_is_not_hedged() -> None:
    """An error that comes in time is raised; retries are not its job."""
    clock, replica = FakeClock(), Held(memory(), [None] * 60 + [down()])
    hedge = hedged(replica, clock)
    await warm(clock, hedge)
    with pytest.raises(SourceUnavailable):
        await hedge.read("0.bin")
    assert hedge.hedges == 0


@pytest.mark.parametrize("is_first_to_fail", [True, False])
async def test_one_may_fail_if_the_other_does_not(is_first_to_fail: bool) -> None:
    """Once two are in flight, either may fail."""
    clock, replica = FakeClock(), Held(memory(), [None] * 60, rest="hold")
    hedge = hedged(replica, clock)
    await warm(clock, hedge)
    read = asyncio.ensure_future(hedge.read("0.bin"))
    await settle()
    clock.tick(1)
    await settle()
    first, second = replica._waiting
    (first if is_first_to_fail else second).set_exception(down())
    await settle()
    assert not read.done()
    (second if is_first_to_fail else first).set_result(None)
    assert bytes((await read).data) == DATA + b"0"
    assert replica.in_flight == 0


async def test_if_both_fail_the_first_error_counts() -> None:
    """The error that came first is raised."""
    clock, replica = FakeClock(), Held(memory(), [None] * 60, rest="hold")
    hedge = hedged(replica, clock)
    await warm(clock, hedge)
    read = asyncio.ensure_future(hedge.read("0.bin"))
    await settle()
    clock.tick(1)
    await settle()
    replica._waiting[1].set_exception(SourceTimeout("of the second"))
    await settle()
    replica._waiting[0].set_exception(ObjectNotFoundError("of the first"))
    with pytest.raises(SourceTimeout, match="of the second"):
        await read


async def test_the_second_read_goes_to_another_replica() -> None:
    """Over replicas, the second read goes to one that the first did not use."""
    clock = FakeClock()
    one, two = Held(memory("one"), [None] * 60 + ["hold"]), Held(memory("two"))
    hedge = Hedge(Failover([one, two], in_time_of(clock)), in_time_of(clock))
    await warm(clock, hedge)
    blob = await driven(clock, hedge.read("0.bin"), step_s=0.01)
    assert blob.source == "two"
    assert (one.started, one.cancelled, two.started, hedge.hedge_wins) == (61, 1, 1, 1)


async def test_cancel_at_every_await_leaves_nothing_in_flight() -> None:
    """Cancelled before, when, or after the second read has started, both end."""
    clock, replica = FakeClock(), Held(memory())
    hedge = hedged(replica, clock)
    await warm(clock, hedge, 200)

    async def work() -> None:
        read = asyncio.ensure_future(hedge.read("0.bin"))
        try:
            for _ in range(4):
                await asyncio.sleep(0)
            clock.tick(1)
            await read
        finally:
            read.cancel()
            await asyncio.wait([read])

    replica.script, replica.rest = [], "hold"
    ends = await cancelled_at_every_turn(work, 16)
    assert "cancelled" in ends
    assert replica.in_flight == 0
    assert len(asyncio.all_tasks()) == 1
    assert hedge.hedges > 0
    assert hedge.requests >= hedge.hedges / 0.05


async def test_a_read_without_a_token_tries_again() -> None:
    """The later a read is, the more a second one helps: it gets one as soon as others have earned it."""
    clock, replica = FakeClock(), Held(memory(), [None] * 60 + ["hold"])
    hedge = hedged(replica, clock, hedge_share=0.01)
    await warm(clock, hedge)
    read = asyncio.ensure_future(hedge.read("0.bin"))
    await settle()
    clock.tick(1)
    await settle()
    assert hedge.hedges == 0
    await warm(clock, hedge, 50)
    clock.tick(1)
    assert bytes((await read).data) == DATA + b"0"
    assert (hedge.hedges, hedge.hedge_wins) == (1, 1)
