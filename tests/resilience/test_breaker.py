"""Leaving alone what fails, and finding out when it is back."""

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


def guarded(copy: Held, clock: FakeClock, **settings: Any) -> Guard:
    """A source behind a breaker, in time that the test moves."""
    return Guard(copy, in_time_of(clock, **settings))


async def fail(source: Guard, count: int, kind: type[Exception] = SourceUnavailable) -> None:
    for _ in range(count):
        with pytest.raises(kind):
            await source.read("0.bin")


async def test_five_failures_in_a_row_open_it() -> None:
    """Four do not; after the fifth the source is not asked, and the error says when it will be."""
    clock, copy = FakeClock(), Held(memory("store"), [*[down()] * 4, None, *[down()] * 5])
    source = guarded(copy, clock)
    await fail(source, 4)
    await source.read("0.bin")
    await fail(source, 5)
    assert (source.breaker.state, source.breaker.opened, copy.started) == (State.OPEN, 1, 10)
    with pytest.raises(SourceUnavailable, match=r"'0\.bin'.*'store': circuit breaker open") as caught:
        await source.read("0.bin")
    assert copy.started == 10
    assert caught.value.retry_after_s == pytest.approx(1.0, abs=0.2)


async def test_half_of_the_last_twenty_open_it() -> None:
    """Ten failures spread over twenty reads open it, nine do not."""
    clock, copy = FakeClock(), Held(memory(), [None, down()] * 9 + [None, None] + [None, down()] * 10)
    source = guarded(copy, clock)
    for _ in range(20):
        await asyncio.gather(source.read("0.bin"), return_exceptions=True)
    assert source.breaker.state is State.CLOSED
    for _ in range(20):
        await asyncio.gather(source.read("0.bin"), return_exceptions=True)
    assert source.breaker.opened == 1


async def test_successes_long_ago_are_forgotten() -> None:
    """After a thousand good reads, half of the next twenty still open it."""
    clock, copy = FakeClock(), Held(memory(), [None] * 1000 + [down(), None] * 10)
    source = guarded(copy, clock)
    for _ in range(1020):
        await asyncio.gather(source.read("0.bin"), return_exceptions=True)
    assert source.breaker.opened == 1


@pytest.mark.parametrize(
    "error", [ObjectNotFoundError("x"), AccessDenied("x"), ObjectChanged("x"), BadRequest("x"), down(status=429)]
)
async def test_an_answer_is_no_failure(error: Exception) -> None:
    """A source that says no is there: such errors pass, however many."""
    clock, copy = FakeClock(), Held(memory(), rest=error)
    source = guarded(copy, clock)
    await fail(source, 50, type(error))
    assert (source.breaker.opened, copy.started) == (0, 50)


async def test_probes_go_one_at_a_time_and_close_it() -> None:
    """After the cool-down one read is let through while others still fail; its answer closes the breaker."""
    clock, copy = FakeClock(), Held(memory(), [*[down()] * 5, "hold"])
    source = guarded(copy, clock)
    await fail(source, 5)
    clock.tick(1.2)
    assert source.breaker.state is State.HALF_OPEN
    probe = asyncio.ensure_future(source.read("0.bin"))
    await settle()
    await fail(source, 3)
    assert copy.started == 6
    copy.release()
    await probe
    assert source.breaker.state is State.CLOSED  # type: ignore[comparison-overlap]  # changed by the read
    await source.read("0.bin")
    assert copy.started == 7


async def test_cool_down_doubles_up_to_thirty_seconds() -> None:
    """Each failed probe doubles the time, with jitter, up to 30 s; once closed it begins at 1 s again."""
    clock, copy = FakeClock(), Held(memory(), rest=TruncatedRead("cut"))
    source = guarded(copy, clock)
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
    copy.rest = None
    await source.read("0.bin")
    copy.rest = down()
    await fail(source, 5)
    with pytest.raises(SourceUnavailable) as caught:
        await source.read("0.bin")
    assert (caught.value.retry_after_s or 0.0) <= 1.2


async def test_a_source_that_says_nothing_is_found_out() -> None:
    """Reads cancelled when they were late are failures; reads cancelled early say nothing."""
    clock, copy = FakeClock(), Held(memory(), rest="hold")
    source = guarded(copy, clock)
    for seconds, opened in ((0.5, 0), (2.0, 1)):
        reads = [asyncio.ensure_future(source.read("0.bin")) for _ in range(6)]
        await settle()
        clock.tick(seconds)
        for read in reads:
            read.cancel()
        await asyncio.wait(reads)
        assert source.breaker.opened == opened


async def test_a_cancelled_probe_gives_its_place_on() -> None:
    """Cancelled at any await, a probe leaves the breaker half-open for the next."""
    clock, copy = FakeClock(), Held(memory(), [down()] * 5, rest="hold")
    source = guarded(copy, clock)
    await fail(source, 5)
    clock.tick(1.2)
    await cancelled_at_every_turn(lambda: source.read("0.bin"), 6)
    assert source.breaker.state is State.HALF_OPEN
    copy.rest = None
    await source.read("0.bin")
    assert source.breaker.state is State.CLOSED  # type: ignore[comparison-overlap]  # changed by the read


async def test_waiting_for_a_place_is_not_being_late() -> None:
    """Reads that were cancelled while the endpoint took no more say nothing about it; one that it left hanging does."""
    clock, copy = FakeClock(), Held(memory("store", 40), [None] * 30, "hold")
    source = guarded(copy, clock, initial_concurrency=1, max_concurrency=1)
    for number in range(30):
        await source.read(f"{number}.bin")
    reads = [asyncio.ensure_future(source.read(f"{number}.bin")) for number in range(30, 40)]
    await settle()
    assert copy.in_flight == 1
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


async def test_late_news_of_old_reads_do_not_count() -> None:
    """Reads sent before it opened, which fail afterwards, do not open it for longer."""
    clock, copy = FakeClock(), Held(memory(), ["hold"] * 9 + [down()] * 5)
    source = guarded(copy, clock)
    old = [asyncio.ensure_future(source.read("0.bin")) for _ in range(9)]
    await settle()
    await fail(source, 5)
    copy.release(down())
    await asyncio.gather(*old, return_exceptions=True)
    assert source.breaker.opened == 1
    clock.tick(1.2)
    await source.read("0.bin")
    assert source.breaker.state is State.CLOSED


async def test_mistakes_in_the_program_pass() -> None:
    """An error that is not about the source changes nothing, also in a probe."""
    clock, copy = FakeClock(), Held(memory(), [*[down()] * 5, ZeroDivisionError()])
    source = guarded(copy, clock)
    await fail(source, 5)
    clock.tick(1.2)
    await fail(source, 1, ZeroDivisionError)
    assert source.breaker.state is State.HALF_OPEN
