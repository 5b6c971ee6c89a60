"""Fail-over: which replica is read, when the next one is, and which error is raised when none can serve."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from streaming.errors import (
    AccessDenied,
    BadRequest,
    ConfigError,
    ObjectChanged,
    ObjectNotFoundError,
    SourceTimeout,
    SourceUnavailable,
    StreamingError,
    TruncatedRead,
)
from streaming.resilience import Failover, Guard, attempts_of
from streaming.sources.base import Blob, Expected
from streaming.testing import FakeClock, LatencySource
from tests.resilience.parts import Held, cancelled_at_every_turn, down, driven, in_time_of, memory, settle


def over(clock: FakeClock, *replicas: Held, **settings: Any) -> Failover:
    """Return a fail-over with the test's clock."""
    return Failover(replicas, in_time_of(clock, **settings))


def replicas_of(*scripts: object) -> list[Held]:
    """Return replicas `one`, `two`, `three` that always do what the script says."""
    return [Held(memory(name, 9), rest=rest) for name, rest in zip(("one", "two", "three"), scripts, strict=False)]


async def test_the_first_healthy_replica_serves() -> None:
    """While it can serve, the others are not read."""
    one, two = replicas_of(None, None)
    source = over(FakeClock(), one, two)
    for _ in range(20):
        assert (await source.read("0.bin")).source == "one"
    assert (two.started, source.failovers) == (0, 0)


@pytest.mark.parametrize(
    "error",
    [down(), SourceTimeout("x"), TruncatedRead("x"), AccessDenied("x"), ObjectNotFoundError("x"), ObjectChanged("x")],
)
async def test_moves_on_to_the_next_replica(error: StreamingError) -> None:
    """Down, slow, cut, denied, missing or changed: the next replica serves, and each is read once."""
    one, two, three = replicas_of(error, error, None)
    source = over(FakeClock(), one, two, three)
    assert (await source.read("0.bin")).source == "three"
    assert (one.started, two.started, three.started, source.failovers) == (1, 1, 1, 1)


async def test_a_bad_request_is_final() -> None:
    """A request that no replica could serve is not sent to the others."""
    one, two = replicas_of(BadRequest("x"), None)
    with pytest.raises(BadRequest):
        await over(FakeClock(), one, two).read("0.bin")
    assert two.started == 0


async def test_the_least_loaded_replica_serves() -> None:
    """Reads go where the queue, weighted by latency, is shortest: mostly to the nearer replica, but not only."""
    clock = FakeClock()
    near, far = memory("near"), memory("far")
    replicas = [LatencySource(far, 0.3, sleep=clock.sleep), LatencySource(near, 0.1, sleep=clock.sleep)]
    source = Failover(replicas, in_time_of(clock, replica_selection="least-loaded"))
    left = 400

    async def reader() -> None:
        nonlocal left
        while left:
            left -= 1
            await source.read("0.bin")

    await driven(clock, asyncio.gather(*(reader() for _ in range(8))), step_s=0.02)
    assert near.reads.total() + far.reads.total() == 400
    assert 0.8 < near.reads.total() / 400 < 0.95


async def test_least_loaded_avoids_a_replica_that_fails() -> None:
    """A replica whose last read failed comes last."""
    one, two = replicas_of(down(), None)
    source = over(FakeClock(), one, two, replica_selection="least-loaded")
    for _ in range(10):
        await source.read("0.bin")
    assert one.started == 1


async def test_a_silent_primary_blocks_no_read() -> None:
    """When a replica does not answer, the next is read within 5 s, its answer taken, and the stalled read ended."""
    clock = FakeClock()
    one, two = replicas_of("hold", None)
    source = over(clock, one, two)
    blob = await driven(clock, source.read("0.bin"))
    assert (blob.source, one.cancelled, one.in_flight) == ("two", 1, 0)
    assert clock.time() < 2.2


async def test_the_stall_timeout_is_learned() -> None:
    """With a p99 of 0.5 s the next replica is read after 2 s, and with one of 3 s after 5 s, not 12 s."""
    for latency_s, late_s in ((0.01, 1.0), (0.5, 2.0), (3.0, 5.0)):
        clock = FakeClock()
        held, two = replicas_of(None, None)
        slow = LatencySource(held, latency_s, sleep=clock.sleep)
        source = Failover([slow, two], in_time_of(clock))
        two.rest = "hold"  # as slow as the first
        await driven(clock, asyncio.gather(*(source.read("0.bin") for _ in range(40))), step_s=0.01)
        held.rest, two.rest = "hold", None
        slow.latency_s = 0
        begun = clock.time()
        blob = await driven(clock, source.read("0.bin"), step_s=0.01)
        assert blob.source == "two"
        assert clock.time() - begun == pytest.approx(late_s, abs=0.15)


async def test_a_late_answer_of_the_first_still_counts() -> None:
    """If the first replica answers before the second, it wins; the second is ended; one blob comes out."""
    clock = FakeClock()
    one, two = replicas_of("hold", "hold")
    read = asyncio.ensure_future(over(clock, one, two).read("0.bin"))
    await settle()
    clock.tick(2)
    await settle()
    assert two.in_flight == 1
    one.release()
    assert (await read).source == "one"
    assert (two.cancelled, two.in_flight) == (1, 0)


async def test_two_silent_replicas_leave_a_third() -> None:
    """Each silent replica costs its stall timeout, then the third serves and both reads are ended."""
    clock = FakeClock()
    one, two, three = replicas_of("hold", "hold", None)
    assert (await driven(clock, over(clock, one, two, three).read("0.bin"))).source == "three"
    assert (one.in_flight, two.in_flight) == (0, 0)
    assert clock.time() < 4.3


async def test_a_silent_replica_and_failing_ones() -> None:
    """While the first is silent, a failing second is followed by the third at once."""
    clock = FakeClock()
    one, two, three = replicas_of("hold", down(), None)
    assert (await driven(clock, over(clock, one, two, three).read("0.bin"))).source == "three"
    assert clock.time() < 2.2


async def test_the_first_fails_while_the_second_is_read() -> None:
    """Then the second is awaited; if it fails too, the third is read."""
    clock = FakeClock()
    one, two, three = replicas_of("hold", "hold", None)
    read = asyncio.ensure_future(over(clock, one, two, three).read("0.bin"))
    await settle()
    clock.tick(2)
    await settle()
    one.release(down())
    await settle()
    assert not read.done()
    two.release(down())
    assert (await read).source == "three"
    assert (one.started, two.started, three.started) == (1, 1, 1)


@pytest.mark.parametrize(
    ("errors", "kind", "may_retry"),
    [
        ((ObjectNotFoundError("x"), ObjectNotFoundError("x")), ObjectNotFoundError, False),
        ((ObjectNotFoundError("x"), down()), ObjectNotFoundError, False),
        ((down(), ObjectNotFoundError("x")), ObjectNotFoundError, True),
        ((AccessDenied("x"), ObjectNotFoundError("x")), AccessDenied, False),
        ((AccessDenied("x"), AccessDenied("x")), AccessDenied, False),
        ((AccessDenied("x"), down()), SourceUnavailable, True),
        ((ObjectChanged("x"), ObjectChanged("x")), ObjectChanged, False),
        ((ObjectChanged("x"), ObjectNotFoundError("x")), ObjectChanged, False),
        ((SourceTimeout("x"), down()), SourceUnavailable, True),
        ((down(), SourceTimeout("x")), SourceTimeout, True),
        ((TruncatedRead("x"), AccessDenied("x")), TruncatedRead, True),
    ],
)
async def test_one_error_when_no_replica_can_serve(
    errors: tuple[Exception, Exception], kind: type[StreamingError], may_retry: bool
) -> None:
    """Its class follows the rules, it names path and source, and lists the error of each replica."""
    one, two = replicas_of(*errors)
    with pytest.raises(kind, match=r"'0\.bin' of source 'one'.*one: .*two: ") as caught:
        await over(FakeClock(), one, two).read("0.bin")
    assert caught.value.retryable is may_retry
    assert (caught.value.path, caught.value.source) == ("0.bin", "one")
    assert [(a.source, a.kind) for a in attempts_of(caught.value)] == [
        (name, type(error).__name__) for name, error in zip(("one", "two"), errors, strict=True)
    ]


async def test_a_missing_object_is_distinguished_from_a_replica_that_is_down() -> None:
    """`ObjectNotFoundError` names the replicas that could not be read, and only those."""
    one, two, three = replicas_of(ObjectNotFoundError("x"), down(), ObjectNotFoundError("x"))
    with pytest.raises(ObjectNotFoundError, match="could not be read from 'two'"):
        await over(FakeClock(), one, two, three).read("0.bin")
    one, two = replicas_of(None, None)
    with pytest.raises(ObjectNotFoundError, match="does not exist in any replica"):
        await over(FakeClock(), one, two).read("missing.bin")


async def test_the_shortest_retry_after_counts() -> None:
    """The shortest of several Retry-After counts; a replica without one may be read at once."""
    for waits, expected in (((9.0, 4.0), 4.0), ((9.0, None), 0.0)):
        one, two = replicas_of(*(down(retry_after_s=wait) for wait in waits))
        with pytest.raises(SourceUnavailable) as caught:
            await over(FakeClock(), one, two).read("0.bin")
        assert caught.value.retry_after_s == expected


async def test_denied_access_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A hundred refusals are one line in the log."""
    one, two = replicas_of(AccessDenied("no login"), None)
    source = over(FakeClock(), one, two)
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            await source.read("0.bin")
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ['replica_access_denied source=one reason="AccessDenied: no login"']


@pytest.mark.parametrize("turns", [0, 3])
async def test_cancel_at_every_await_leaves_nothing_in_flight(turns: int) -> None:
    """Cancelled while one, two or three replicas are read, all reads end and no task is left."""
    clock = FakeClock()
    one, two, three = replicas_of("hold", "hold", "hold")
    source = over(clock, one, two, three)

    async def work() -> None:
        read = asyncio.ensure_future(source.read("0.bin"))
        try:
            for _ in range(turns):
                for _ in range(3):
                    await asyncio.sleep(0)
                clock.tick(2.1)
            await read
        finally:
            read.cancel()
            await asyncio.wait([read])

    await cancelled_at_every_turn(work, 20)
    assert one.started > 0
    assert turns == 0 or three.started > 0
    assert (one.in_flight, two.in_flight, three.in_flight) == (0, 0, 0)
    assert len(asyncio.all_tasks()) == 1
    assert all(replica.in_flight == 0 for replica in source._replicas)


async def test_a_listing_that_breaks_off_is_started_on_the_next_replica() -> None:
    """After two objects the first replica fails: the complete listing is the second's, without duplicates."""
    one, two = replicas_of(down(), None)
    assert await over(FakeClock(), one, two).list_files() == [f"{number}.bin" for number in range(9)]


async def test_a_silent_listing_is_started_on_the_next_replica() -> None:
    """A listing that stalls is given up after 10 s; its first objects do not count."""
    clock = FakeClock()
    one, two = replicas_of("hold", None)
    two.source.put("9.bin", b"only here")  # type: ignore[attr-defined]
    assert len(await driven(clock, over(clock, one, two).list_files(), step_s=0.5)) == 10
    assert 10 <= clock.time() <= 21
    assert one.in_flight == 0


async def test_the_last_listing_has_no_stall_timeout() -> None:
    """There is no other replica, so it is never given up."""
    clock = FakeClock()
    one, two = replicas_of(down(), "hold")
    listing = asyncio.ensure_future(over(clock, one, two).list_files())
    await settle()
    clock.tick(100)
    await settle()
    assert not listing.done()
    two.release()
    two.rest = None
    assert len(await listing) == 9


async def test_a_cancelled_listing_stays_a_cancel() -> None:
    """Cancelled at the moment when it is given up, a listing ends as cancelled."""
    clock = FakeClock()
    one, two = replicas_of("hold", None)
    listing = asyncio.ensure_future(over(clock, one, two).list_files())
    await settle()
    clock.tick(10)
    await settle()
    clock.tick(10)
    await asyncio.sleep(0)
    listing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listing


async def test_no_replica_can_list() -> None:
    """One error lists what each raised."""
    one, two = replicas_of(down("first"), SourceTimeout("second"))
    with pytest.raises(SourceTimeout, match=r"one: .*first.*two: .*second"):
        await over(FakeClock(), one, two).list_files()
    with pytest.raises(ConfigError, match="at least one"):
        Failover([])


async def test_closing_closes_every_replica() -> None:
    """All are closed even if closing one fails; its error is raised."""
    one, two = replicas_of(None, None)

    class Stuck(Held):
        async def aclose(self) -> None:
            raise SourceUnavailable("cannot be closed")

    source = over(FakeClock(), Stuck(memory("stuck")), one, two)
    with pytest.raises(SourceUnavailable, match="cannot be closed"):
        await source.aclose()
    for replica in (one, two):
        with pytest.raises(StreamingError, match="closed"):
            await replica.source.read("0.bin")


class CountedGuard(Guard):
    """A guard that counts its reads, refused ones included."""

    reads = 0

    async def read_expecting(self, path: str, expect: Expected | None, start: int = 0, end: int | None = None) -> Blob:
        self.reads += 1
        return await super().read_expecting(path, expect, start, end)


async def test_a_replica_with_an_open_breaker_is_not_read_first() -> None:
    """While its breaker is open the next replica is read at once, and the failovers are still counted."""
    clock = FakeClock()
    primary, mirror = Held(memory("one"), rest=down()), Held(memory("two"))
    broken = CountedGuard(primary, in_time_of(clock))
    source, settings = Failover([broken, mirror], in_time_of(clock)), broken.settings
    for _ in range(settings.breaker_consecutive_failures):
        await source.read("0.bin")
    assert broken.is_circuit_open
    reads = broken.reads
    for _ in range(10):
        await source.read("0.bin")
    assert (broken.reads, source.failovers) == (reads, settings.breaker_consecutive_failures + 10)
    clock.tick(2 * settings.cooldown_s)
    assert not broken.is_circuit_open
    await source.read("0.bin")
    assert broken.reads == reads + 1


async def test_a_read_that_moves_on_twice_is_one_failover() -> None:
    """The first replica's breaker is open, the second fails, the third serves."""
    clock = FakeClock()
    one, two, three = replicas_of(down(), down(), None)
    broken = Guard(one, in_time_of(clock))
    source = Failover([broken, two, three], in_time_of(clock))
    while not broken.is_circuit_open:
        await source.read("0.bin")
    before = source.failovers
    assert (await source.read("0.bin")).source == "three"
    assert source.failovers == before + 1
