"""Retries: of what, when, how often, and until when."""

from __future__ import annotations

import asyncio
import random

import pytest

from streaming.core.source_config import DataSourceConfig
from streaming.errors import (
    AccessDenied,
    BadRequest,
    ClosedError,
    ObjectChanged,
    ObjectNotFoundError,
    SourceTimeout,
    SourceUnavailable,
    StreamingError,
    TruncatedRead,
)
from streaming.resilience import Context, ResilienceConfig, Retry, RetryBudget, attempts_of
from streaming.testing import FakeClock, MemorySource
from tests.resilience.parts import (
    DATA,
    Held,
    Highest,
    cancelled_at_every_turn,
    down,
    driven,
    in_time_of,
    marked,
    memory,
    settle,
)


def retry(source: Held | MemorySource, clock: FakeClock, **settings: float) -> Retry:
    """Return a retry with the test's clock and the longest pauses."""
    return Retry(source, in_time_of(clock, Highest(), **settings))


@pytest.mark.parametrize("kind", [SourceTimeout, SourceUnavailable, TruncatedRead])
async def test_errors_that_may_pass_are_retried(kind: type[StreamingError]) -> None:
    """A timeout, an outage and a cut body are retried until they pass; the object is delivered once."""
    clock, replica = FakeClock(), Held(memory(), [kind("no"), kind("no")])
    source = retry(replica, clock)
    blob = await driven(clock, source.read("0.bin"))
    assert bytes(blob.data) == DATA + b"0"
    assert (replica.started, source.requests, source.retries) == (3, 1, 2)


@pytest.mark.parametrize("kind", [ObjectNotFoundError, AccessDenied, BadRequest, ObjectChanged, ClosedError])
async def test_final_errors_are_not_retried(kind: type[StreamingError]) -> None:
    """An error that a retry would not change is raised at once, as it is."""
    clock, error = FakeClock(), kind("no")
    replica = Held(memory(), [error])
    source = retry(replica, clock)
    with pytest.raises(kind) as caught:
        await source.read("0.bin")
    assert caught.value is error
    assert (replica.started, source.retries, clock.time()) == (1, 0, 0)


async def test_pauses_double_up_to_the_cap() -> None:
    """The pause is random between 0 and 0.1, 0.2, 0.4 ... at most 5 seconds."""
    clock, pauses = FakeClock(), list[float]()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    budget_free = ResilienceConfig(retry_burst=20)
    source = Retry(Held(memory(), [down()] * 9), Context(budget_free, clock, sleep, Highest()))
    source_timer = source.settings.deadline_s
    await source.read("0.bin")
    assert [pause for pause in pauses if pause != source_timer] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5]


async def test_pauses_differ_from_read_to_read() -> None:
    """Two sources do not retry in step: the pause is evenly distributed from 0 on."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    for seed in range(200):
        context = Context(ResilienceConfig(), FakeClock(), sleep, random.Random(seed))
        await Retry(Held(memory(), [down()]), context).read("0.bin")
    drawn = [pause for pause in pauses if pause < 1]
    assert len(drawn) == 200
    assert min(drawn) < 0.005
    assert 0.095 < max(drawn) <= 0.1
    assert 0.04 < sum(drawn) / 200 < 0.06


async def test_retry_after_is_honoured() -> None:
    """When the server says how long to wait, nothing is sent before."""
    clock, replica = FakeClock(), Held(memory(), [down(retry_after_s=7.0)])
    source = retry(replica, clock)
    read = asyncio.ensure_future(source.read("0.bin"))
    await settle()
    clock.tick(6.9)
    await settle()
    assert replica.started == 1
    await driven(clock, read)
    assert replica.started == 2
    assert 7 <= clock.time() <= 7.2


async def test_a_wait_beyond_the_deadline_is_not_started() -> None:
    """If the server asks to wait past the deadline, the read fails at once with its error."""
    clock, error = FakeClock(), down(retry_after_s=61.0)
    with pytest.raises(SourceUnavailable) as caught:
        await retry(Held(memory(), [error]), clock).read("0.bin")
    assert caught.value is error
    assert clock.time() == 0


async def test_the_deadline_ends_a_read_that_hangs() -> None:
    """A source that does not answer is cancelled at the deadline; the error names object, source, time and attempts."""
    clock, replica = FakeClock(), Held(memory("store"), [down("reset by peer")], rest="hold")
    source = retry(replica, clock, deadline_s=20)
    with pytest.raises(SourceTimeout, match=r"'0\.bin' of source 'store'.*deadline.*reset.*no answer") as caught:
        await driven(clock, source.read("0.bin"))
    assert 20 <= clock.time() < 20.2
    assert [attempt.kind for attempt in attempts_of(caught.value)] == ["SourceUnavailable", "no answer"]
    assert (replica.cancelled, replica.in_flight, source.deadlines) == (1, 0, 1)


async def test_an_endless_outage_ends_in_one_error_with_its_history() -> None:
    """A read that keeps failing ends by the deadline with one error of the last one's class."""
    clock, replica = FakeClock(), Held(memory("store"), rest=SourceTimeout("slow"))
    with pytest.raises(SourceTimeout, match="'store' could not be read") as caught:
        await driven(clock, retry(replica, clock).read("0.bin"))
    attempts = attempts_of(caught.value)
    assert len(attempts) == replica.started
    assert {attempt.kind for attempt in attempts} == {"SourceTimeout"}
    assert 50 < clock.time() <= 60.1
    assert len(str(caught.value)) < 2000


async def test_a_final_error_lists_the_errors_before() -> None:
    """An object that is gone at the retry is `ObjectNotFoundError`, and the history lists the errors before."""
    clock = FakeClock()
    with pytest.raises(ObjectNotFoundError, match=r"SourceUnavailable.*ObjectNotFoundError"):
        await driven(clock, retry(Held(memory(), [down(), ObjectNotFoundError("gone")]), clock).read("0.bin"))


async def test_a_cancel_from_outside_stays_a_cancel() -> None:
    """Also one that comes at the moment of the deadline."""
    clock, replica = FakeClock(), Held(memory(), rest="hold")
    read = asyncio.ensure_future(retry(replica, clock, deadline_s=5).read("0.bin"))
    await settle()
    clock.tick(5)
    await asyncio.sleep(0)
    read.cancel()
    with pytest.raises(asyncio.CancelledError):
        await read
    await settle()
    assert replica.in_flight == 0


async def test_an_outage_of_five_seconds_costs_no_read() -> None:
    """64 reads at a time get 503 for 5 seconds: each object arrives once, with few attempts."""
    clock, objects = FakeClock(), memory(count=200)

    class Outage(Held):
        async def read(self, path: str, start: int = 0, end: int | None = None):
            self.started += 1
            await clock.sleep(0.03)
            if clock.time() < 5:
                raise down(status=503)
            return await self.source.read(path, start, end)

    replica = Outage(objects)
    source = retry(replica, clock)
    waiting = [f"{number}.bin" for number in range(200)]
    got: list[bytes] = []

    async def reader() -> None:
        while waiting:
            got.append(bytes((await source.read(waiting.pop())).data))

    await driven(clock, asyncio.gather(*(reader() for _ in range(64))), step_s=0.01)
    assert sorted(got) == sorted(DATA + b"%d" % number for number in range(200))
    assert replica.started - 200 <= 64 + 10 + 10 * 6, "first attempts, the burst, and ten each second"
    assert clock.time() < 12


async def test_budget_spends_its_burst_then_waits_for_successes() -> None:
    """Ten attempts are free; then each success releases one, and otherwise ten are released each second."""
    clock = FakeClock()
    budget = RetryBudget(in_time_of(clock))
    for _ in range(10):
        await budget.take()
    waiting = [asyncio.ensure_future(budget.take()) for _ in range(6)]
    await settle()
    assert (budget.tokens, budget.waiting) == (0, 6)
    budget.earn()
    budget.earn()
    await settle()
    assert [turn.done() for turn in waiting] == [True, True, False, False, False, False]
    clock.tick(0.1)
    await settle()
    assert budget.waiting == 3
    for _ in range(3):
        clock.tick(0.1)
        await settle()
    assert budget.waiting == 0
    for _ in range(5):
        budget.earn()
    assert budget.tokens == pytest.approx(1)
    for _ in range(100):
        budget.earn()
    assert budget.tokens == 10


async def test_a_cancelled_attempt_leaves_its_turn_to_the_next() -> None:
    """Cancelled before its turn it leaves the queue; cancelled after it, the turn passes to the next or the budget."""
    clock = FakeClock()
    budget = RetryBudget(in_time_of(clock, retry_burst=1))
    await budget.take()
    first, second, third = (asyncio.ensure_future(budget.take()) for _ in range(3))
    await settle()
    first.cancel()
    await settle()
    assert budget.waiting == 2
    budget.earn()
    second.cancel()
    await settle()
    assert third.done()
    assert not third.cancelled()
    last = asyncio.ensure_future(budget.take())
    await settle()
    budget.earn()
    last.cancel()
    await settle()
    assert (budget.tokens, budget.waiting) == (1, 0)


async def test_budget_is_one_for_an_endpoint() -> None:
    """Sources of one host share attempts, those of another do not."""
    here = [MemorySource(DataSourceConfig(name, "http", f"http://host:80/{name}")) for name in "ab"]
    there = MemorySource(DataSourceConfig("c", "http", "http://other/c"))
    a, b, c = (Retry(source) for source in [*here, there])
    assert a.endpoint.budget is b.endpoint.budget
    assert a.endpoint.budget is not c.endpoint.budget
    first = a.endpoint.budget
    other_loop = await asyncio.to_thread(lambda: asyncio.run(_budget(a)))
    assert other_loop is not first


async def _budget(source: Retry) -> RetryBudget:
    return source.endpoint.budget


async def test_cancel_at_every_await_leaves_nothing_behind() -> None:
    """Cancelled anywhere between attempts, a read leaves no turn, no token and no timer."""
    clock = FakeClock()
    replica = Held(memory(), rest=down())
    source = Retry(replica, in_time_of(clock, Highest(), retry_burst=1))

    async def work() -> None:
        read = asyncio.ensure_future(source.read("0.bin"))
        try:
            for _ in range(9):
                await asyncio.sleep(0)
                clock.tick(0.2)
            await read
        finally:
            read.cancel()

    await cancelled_at_every_turn(work, turns=20)
    await settle()
    assert source.endpoint.budget.waiting == 0
    assert 0 <= source.endpoint.budget.tokens <= 1
    assert len(asyncio.all_tasks()) == 1
    replica.rest = None
    assert bytes((await source.read("0.bin")).data) == DATA + b"0"


async def test_a_listing_that_breaks_off_starts_again() -> None:
    """There are no duplicates and nothing is missing."""
    clock, replica = FakeClock(), Held(memory(count=9), [down(), marked(SourceTimeout("slow"))])
    source = retry(replica, clock)
    assert await driven(clock, source.list_files()) == [f"{number}.bin" for number in range(9)]
    assert source.retries == 2


async def test_a_listing_gives_up_after_five_attempts() -> None:
    """One error lists all five attempts, and no object is yielded."""
    clock, replica = FakeClock(), Held(memory("store", count=9), rest=down())
    source = retry(replica, clock)
    seen = []

    async def work() -> None:
        async for info in source.iter_files():
            seen.append(info)  # noqa: PERF401

    with pytest.raises(SourceUnavailable, match="5 attempts") as caught:
        await driven(clock, work())
    assert len(attempts_of(caught.value)) == 5
    assert seen == []


@pytest.mark.parametrize(
    "marks", [marked(TruncatedRead("cut"), retryable=False), marked(ObjectNotFoundError("lags"), retryable=True)]
)
async def test_an_error_itself_says_whether_to_retry(marks: StreamingError) -> None:
    """`retryable` on the error decides, not its class."""
    clock, replica = FakeClock(), Held(memory(), [marks])
    source = retry(replica, clock)
    if marks.retryable:
        await driven(clock, source.read("0.bin"))
    else:
        with pytest.raises(TruncatedRead):
            await source.read("0.bin")
    assert source.retries == marks.retryable


async def test_a_cancelled_attempt_may_be_passed_over_first() -> None:
    """Cancelled at the moment when an attempt is earned, it is passed over and ends as cancelled."""
    clock = FakeClock()
    budget = RetryBudget(in_time_of(clock, retry_burst=1))
    await budget.take()
    first, second = (asyncio.ensure_future(budget.take()) for _ in range(2))
    await settle()
    first.cancel()
    budget.earn()
    await settle()
    assert first.cancelled()
    assert second.done()
    assert (budget.tokens, budget.waiting) == (0, 0)
