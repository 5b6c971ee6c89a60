"""The circuit breaker: when it opens, what it refuses, and when it closes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streaming.errors import (
    AccessDenied,
    BadRequest,
    ObjectChanged,
    ObjectNotFoundError,
    SourceUnavailable,
    TruncatedRead,
)
from streaming.resilience import Guard, State
from streaming.testing import FakeClock
from tests.resilience.parts import Held, cancelled_at_every_turn, down, in_time_of, memory, settle


def guarded(replica: Held, clock: FakeClock, **settings: Any) -> Guard:
    """Return a source behind a breaker, with the test's clock."""
    return Guard(replica, in_time_of(clock, **settings))


async def fail(source: Guard, count: int, kind: type[Exception] = SourceUnavailable) -> None:
    for _ in range(count):
        with pytest.raises(kind):
            await source.read("0.bin")


async def test_five_failures_in_a_row_open_it() -> None:
    """Four do not; after the fifth the source is not read, and the error says when it will be."""
    clock, replica = FakeClock(), Held(memory("store"), [*[down()] * 4, None, *[down()] * 5])
    source = guarded(replica, clock)
    await fail(source, 4)
    await source.read("0.bin")
    await fail(source, 5)
    assert (source.breaker.state, source.breaker.opened, replica.started) == (State.OPEN, 1, 10)
    with pytest.raises(SourceUnavailable, match=r"'0\.bin'.*'store': circuit breaker open") as caught:
        await source.read("0.bin")
    assert replica.started == 10
    assert caught.value.retry_after_s == pytest.approx(1.0, abs=0.2)


async def test_half_of_the_last_twenty_open_it() -> None:
    """Ten failures spread over twenty reads open it, nine do not."""
    clock, replica = FakeClock(), Held(memory(), [None, down()] * 9 + [None, None] + [None, down()] * 10)
    source = guarded(replica, clock)
    for _ in range(20):
        await asyncio.gather(source.read("0.bin"), return_exceptions=True)
    assert source.breaker.state is State.CLOSED
    for _ in range(20):
        await asyncio.gather(source.read("0.bin"), return_exceptions=True)
    assert source.breaker.opened == 1


async def test_old_successes_are_forgotten() -> None:
    """After a thousand good reads, half of the next twenty still open it."""
    clock, replica = FakeClock(), Held(memory(), [None] * 1000 + [down(), None] * 10)
    source = guarded(replica, clock)
    for _ in range(1020):
        await asyncio.gather(source.read("0.bin"), return_exceptions=True)
    assert source.breaker.opened == 1


@pytest.mark.parametrize(
    "error", [ObjectNotFoundError("x"), AccessDenied("x"), ObjectChanged("x"), BadRequest("x"), down(status=429)]
)
async def test_a_refusal_is_not_a_failure(error: Exception) -> None:
    """A source that refuses is up: such errors pass, however many."""
    clock, replica = FakeClock(), Held(memory(), rest=error)
    source = guarded(replica, clock)
    await fail(source, 50, type(error))
    assert (source.breaker.opened, replica.started) == (0, 50)


async def test_probes_go_one_at_a_time_and_close_it() -> None:
    """After the cool-down one read is let through while others still fail; its answer closes the breaker."""
    clock, replica = FakeClock(), Held(memory(), [*[down()] * 5, "hold"])
    source = guarded(replica, clock)
    await fail(source, 5)
    clock.tick(1.2)
    assert source.breaker.state is State.HALF_OPEN
    probe = asyncio.ensure_future(source.read("0.bin"))
    await settle()
    await fail(source, 3)
    assert replica.started == 6
    replica.release()
    await probe
    assert source.breaker.state is State.CLOSED  # type: ignore[comparison-overlap]  # changed by the read
    await source.read("0.bin")
    assert replica.started == 7


async def test_cool_down_doubles_up_to_thirty_seconds() -> None:
    """Each failed probe doubles the time, with jitter, up to 30 s; once closed it starts at 1 s again."""
    clock, replica = FakeClock(), Held(memory(), rest=TruncatedRead("cut"))
    source = guarded(replica, clock)
    await fail(source, 5, TruncatedRead)
    waits = []
    for _ in range(7):
        with pytest.raises(SourceUnavailable) as caught:
            await source.read("0.bin")
        assert caught.value.retry_after_s is not None
        waits.append(caught.value.retry_after_s)
        clock.tick(waits[-1] + 1e-6)
        await fail(source, 1, TruncatedRead)
    for wait, mean in zip(waits, (1, 2, 4, 8, 16, 30, 30), strict=True):
        assert 0.8 * mean <= wait <= 1.2 * mean
    clock.tick(36)
    replica.rest = None
    await source.read("0.bin")
    replica.rest = down()
    await fail(source, 5)
    with pytest.raises(SourceUnavailable) as caught:
        await source.read("0.bin")
    assert (caught.value.retry_after_s or 0.0) <= 1.2


async def test_a_source_that_does_not_answer_is_detected() -> None:
    """Reads cancelled when they were late are failures; reads cancelled early are not."""
    clock, replica = FakeClock(), Held(memory(), rest="hold")
    source = guarded(replica, clock)
    for seconds, opened in ((0.5, 0), (2.0, 1)):
        reads = [asyncio.ensure_future(source.read("0.bin")) for _ in range(6)]
        await settle()
        clock.tick(seconds)
        for read in reads:
            read.cancel()
        await asyncio.wait(reads)
        assert source.breaker.opened == opened


async def test_a_cancelled_probe_leaves_its_place_to_the_next() -> None:
    """Cancelled at any await, a probe leaves the breaker half-open for the next."""
    clock, replica = FakeClock(), Held(memory(), [down()] * 5, rest="hold")
    source = guarded(replica, clock)
    await fail(source, 5)
    clock.tick(1.2)
    await cancelled_at_every_turn(lambda: source.read("0.bin"), 6)
    assert source.breaker.state is State.HALF_OPEN
    replica.rest = None
    await source.read("0.bin")
    assert source.breaker.state is State.CLOSED  # type: ignore[comparison-overlap]  # changed by the read


async def test_a_read_that_waits_for_the_limit_is_not_late() -> None:
    """Reads cancelled while they waited for the limit are not failures; one that the endpoint left hanging is."""
    clock, replica = FakeClock(), Held(memory("store", 40), [None] * 30, "hold")
    source = guarded(replica, clock, initial_concurrency=1, max_concurrency=1)
    for number in range(30):
        await source.read(f"{number}.bin")
    reads = [asyncio.ensure_future(source.read(f"{number}.bin")) for number in range(30, 40)]
    await settle()
    assert replica.in_flight == 1
    clock.tick(60.0)
    for read in reads[1:]:
        read.cancel()
    await asyncio.gather(*reads[1:], return_exceptions=True)
    assert source.breaker.state is State.CLOSED
    for read in reads[:1]:
        read.cancel()
    await asyncio.gather(*reads, return_exceptions=True)
    for _ in range(4):
        late = asyncio.ensure_future(source.read("0.bin"))
        await settle()
        clock.tick(60.0)
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)
    assert source.breaker.opened == 1


async def test_failures_of_older_reads_do_not_count() -> None:
    """Reads sent before it opened that fail afterwards do not open it for longer."""
    clock, replica = FakeClock(), Held(memory(), ["hold"] * 9 + [down()] * 5)
    source = guarded(replica, clock)
    old = [asyncio.ensure_future(source.read("0.bin")) for _ in range(9)]
    await settle()
    await fail(source, 5)
    replica.release(down())
    await asyncio.gather(*old, return_exceptions=True)
    assert source.breaker.opened == 1
    clock.tick(1.2)
    await source.read("0.bin")
    assert source.breaker.state is State.CLOSED


async def test_programming_errors_pass() -> None:
    """An error that is not about the source changes nothing, not even in a probe."""
    clock, replica = FakeClock(), Held(memory(), [*[down()] * 5, ZeroDivisionError()])
    source = guarded(replica, clock)
    await fail(source, 5)
    clock.tick(1.2)
    await fail(source, 1, ZeroDivisionError)
    assert source.breaker.state is State.HALF_OPEN
