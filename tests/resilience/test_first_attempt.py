"""First attempts by threads: the outcomes, counts and messages are those of the chain of wrappers alone."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.errors import AccessDenied, ObjectNotFoundError, SourceError, SourceTimeout, SourceUnavailable
from streaming.resilience import Context, Guard, ResilienceConfig, Retry, stack
from streaming.resilience.breaker import State
from streaming.resilience.first_attempt import FirstAttempt, FirstAttempts, TakenOver, TakeOver
from streaming.resilience.replica_metrics import ReplicaMetrics
from streaming.sources.base import Blob, DataSource, Expected, FileInfo, NeedsLoop
from streaming.testing import FakeClock, MemorySource
from tests.resilience.parts import DATA, Held, Highest, down, driven, in_time_of, memory, settle
from tests.resilience.threads_first import ThreadsFirst

WARM = 60  # reads until late ones are hedged
SIZE = len(DATA) + 1

Script = Sequence[Exception | str | None]


# -- the same as the chain alone


async def by_chain(scripts: Sequence[Script], reads: int, **constants: Any) -> dict[str, Any]:
    """Read one object after the other through the chain alone."""
    clock, replicas, context = _parts(scripts, constants)
    source = stack(replicas, context)
    ends = [_end(await driven(clock, _outcome(source, number), 0.0625)) for number in range(WARM + reads)]
    return _account(source, replicas, ends)


async def by_threads(scripts: Sequence[Script], reads: int, **constants: Any) -> dict[str, Any]:
    """Read one object after the other, each by a thread first."""
    clock, replicas, context = _parts(scripts, constants)
    async with ThreadsFirst(replicas, context, clock) as threads:
        ends = [_end(await threads.driven(_outcome(threads, number))) for number in range(WARM + reads)]
        for replica in replicas:
            replica.release()
        await threads.quiet()
        return _account(threads.source, replicas, ends)


def _parts(scripts: Sequence[Script], constants: dict[str, Any]) -> tuple[FakeClock, list[Held], Context]:
    clock = FakeClock()
    names = ("one", "two", "three")
    replicas = [
        Held(memory(name), [*([None] * WARM if name == "one" else []), *script])
        for name, script in zip(names, scripts, strict=False)
    ]
    return clock, replicas, in_time_of(clock, Highest(), deadline_s=20.0, **constants)


async def _outcome(source: Any, number: int) -> Blob | SourceError:
    try:
        blob: Blob = await source.read_expecting("0.bin", Expected(SIZE))
    except SourceError as error:
        return error
    return blob


def _end(outcome: Blob | SourceError) -> str:
    return f"{type(outcome).__name__}: {outcome}" if isinstance(outcome, SourceError) else outcome.source


def _account(source: Retry, replicas: Sequence[Held], ends: list[str]) -> dict[str, Any]:
    hedge: Any = source.source
    guards: list[Guard] = list(getattr(hedge.source, "sources", (hedge.source,)))
    assert [guard.limit.in_flight for guard in guards] == [0] * len(guards)
    numbers = ReplicaMetrics([(source, None)]).take()
    return {
        "ends": ends,
        "requests": (source.requests, hedge.requests),
        "retries": source.retries,
        "deadlines": source.deadlines,
        "hedges": (hedge.hedges, hedge.hedge_wins),
        "failovers": getattr(hedge.source, "failovers", 0),
        "opened": [guard.breaker.opened for guard in guards],
        "outcomes": numbers["source_requests"],
        "in flight": numbers["source_in_flight"],
        "at the server": [replica.started for replica in replicas],
        "latencies": hedge.latencies.count,
    }


SCENARIOS: dict[str, tuple[list[Script], int]] = {
    "healthy": ([[]], 5),
    "one failure": ([[down()]], 3),
    "failures in a row": ([[down()] * 4], 3),
    "a breaker opens": ([[down(status=500)] * 9], 3),
    "throttled": ([[down(status=503, retry_after_s=1.5), down(status=429)]], 6),
    "refused": ([[AccessDenied("no")]], 3),
    "missing": ([[ObjectNotFoundError("gone")]], 3),
    "down until the deadline": ([[down()] * 60], 3),
    "silent until the deadline": ([["hold"] * 2], 1),
    "late, and hedged": ([["hold"]], 3),
    "the next replica": ([[down()], []], 4),
    "primary is down": ([[down()] * 30, []], 12),
    "primary is silent": ([["hold"] * 8, []], 12),
    "primary denies": ([[AccessDenied("no")] * 3, []], 5),
    "all down": ([[down("a")] * 60, [down("b")] * 60], 2),
    "missing and down": ([[ObjectNotFoundError("gone")] * 9, [down("b")] * 9], 2),
    "late and then down": ([["hold"], [down()] * 3, []], 4),
}


@pytest.mark.parametrize("name", SCENARIOS)
async def test_the_same_as_the_chain_alone(name: str) -> None:
    """Outcomes, messages, requests at the server and every count are equal, who makes the first attempt."""
    scripts, reads = SCENARIOS[name]
    assert await by_threads(scripts, reads) == await by_chain(scripts, reads)


faults: Any = st.sampled_from(
    [
        None,
        None,
        "hold",
        down(),
        down(status=500),
        down(status=503, retry_after_s=0.5),
        down(status=429),
        SourceTimeout("no answer"),
        ObjectNotFoundError("gone"),
        AccessDenied("no"),
    ]
)


@settings(max_examples=40, deadline=None, database=None)
@given(scripts=st.lists(st.lists(faults, max_size=12), min_size=1, max_size=3))
def test_random_faults_are_the_same_as_in_the_chain_alone(scripts: list[Script]) -> None:
    """Whatever the replicas do, who makes the first attempts."""
    assert asyncio.run(by_threads(scripts, 8)) == asyncio.run(by_chain(scripts, 8))


# -- one attempt


class Gate(DataSource):
    """An object whose blocking reads wait for `opened`, then return or raise `outcome`; or raise what they are given.

    Attributes:
        began: is set when a thread reads.
        reads: reads so far, by way.
    """

    def __init__(self, name: str = "gate") -> None:
        super().__init__(MemorySource(name).config)
        self.opened = threading.Event()
        self.began = threading.Event()
        self.outcome: Blob | BaseException = Blob(DATA, None, len(DATA), None, name)
        self.reads: Counter[str] = Counter()
        self.read_blocking = self._read_blocking

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        self.reads["loop"] += 1
        return Blob(DATA, None, len(DATA), None, self.name)

    def _read_blocking(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        self.reads["thread"] += 1
        self.began.set()
        assert self.opened.wait(30)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        if self.opened is None:
            yield FileInfo("none", 0)

    async def aclose(self) -> None:
        self.opened.set()


class Ending:
    """A clock that calls `at_end` once when it is read after a request has ended: in the moment of a take-over."""

    def __init__(self) -> None:
        self.at_end: Any = None

    def __call__(self) -> float:
        call, self.at_end = self.at_end, None
        if call is not None:
            call()
        return time.monotonic()


@pytest.fixture
def gate() -> Iterator[Gate]:
    source = Gate()
    yield source
    source.opened.set()


def begun(attempts: FirstAttempts) -> FirstAttempt:
    attempt = attempts.begin()
    assert attempt is not None
    return attempt


EXPECTED = Expected(len(DATA))


@pytest.mark.parametrize("outcome", [None, down(), NeedsLoop()])
async def test_taken_over_in_the_moment_of_its_end(gate: Gate, outcome: BaseException | None) -> None:
    """The chain claims it after its request has ended: the chain answers, and the thread continues to other work."""
    clock = Ending()
    source = stack([gate], Context(ResilienceConfig(backoff_base_s=1e-6), clock=clock))
    attempts = FirstAttempts(source, asyncio.get_running_loop())
    attempt = begun(attempts)
    gate.opened.set()
    if outcome is not None:
        gate.outcome = outcome
    claims: list[bool] = []
    clock.at_end = lambda: claims.append(attempt.claim())
    with pytest.raises(TakenOver):
        await asyncio.to_thread(attempt.read, "0.bin", EXPECTED)
    assert claims == [True]
    blob = await source.read_expecting("0.bin", EXPECTED._replace(begun=attempt))
    assert blob.data == DATA
    assert gate.reads == {"thread": 1} | ({"loop": 1} if outcome is not None else {})
    _assert_consistent(source, gate, 1)


async def test_claimed_too_late(gate: Gate) -> None:
    """Once the thread has claimed its own attempt, the chain cannot."""
    source = stack([gate])
    attempt = begun(FirstAttempts(source, asyncio.get_running_loop()))
    gate.opened.set()
    assert (await asyncio.to_thread(attempt.read, "0.bin", EXPECTED)).data == DATA
    assert not attempt.claim()


async def test_a_failure_is_not_claimed_twice(gate: Gate) -> None:
    """An attempt that has failed goes to the chain by its thread, not by the timer too."""
    source = stack([gate])
    attempt = begun(FirstAttempts(source, asyncio.get_running_loop()))
    gate.opened.set()
    gate.outcome = down("reset")
    with pytest.raises(TakeOver) as caught:
        await asyncio.to_thread(attempt.read, "0.bin", EXPECTED)
    assert caught.value.__cause__ is gate.outcome
    assert not attempt.claim()


async def test_the_chain_reads_itself_what_needs_the_loop(gate: Gate) -> None:
    """It need not know that the attempt made no request; none is counted."""
    source = stack([gate])
    attempt = begun(FirstAttempts(source, asyncio.get_running_loop()))
    gate.opened.set()
    gate.outcome = NeedsLoop()
    with pytest.raises(NeedsLoop):
        await asyncio.to_thread(attempt.read, "0.bin", EXPECTED)
    assert (await source.read_expecting("0.bin", EXPECTED._replace(begun=attempt))).data == DATA
    assert ReplicaMetrics([(source, None)]).take()["source_requests"]["gate", "ok"] == 1
    _assert_consistent(source, gate, 1)


async def test_the_chain_waits_for_an_attempt_that_it_has_taken_over(gate: Gate) -> None:
    """It makes no request of its own while that would not help; the time counts from the thread's start."""
    source = stack([gate])
    attempt = begun(FirstAttempts(source, asyncio.get_running_loop()))
    thread = asyncio.get_running_loop().run_in_executor(None, attempt.read, "0.bin", EXPECTED)
    await asyncio.to_thread(gate.began.wait)
    assert attempt.claim()
    read = asyncio.ensure_future(source.read_expecting("0.bin", EXPECTED._replace(begun=attempt)))
    await settle()
    assert not read.done()
    gate.opened.set()
    with pytest.raises(TakenOver):
        await thread
    assert (await read).data == DATA
    assert gate.reads == {"thread": 1}
    _assert_consistent(source, gate, 1)


async def test_a_silent_server_keeps_no_place(gate: Gate) -> None:
    """When the chain gives up an attempt, another read gets its place, though the thread still hangs."""
    source = stack([gate], Context(ResilienceConfig(initial_concurrency=1)))
    guard: Any = source.source.source  # type: ignore[attr-defined]
    attempt = begun(FirstAttempts(source, asyncio.get_running_loop()))
    thread = asyncio.get_running_loop().run_in_executor(None, attempt.read, "0.bin", EXPECTED)
    await asyncio.to_thread(gate.began.wait)
    assert attempt.claim()
    read = asyncio.ensure_future(source.read_expecting("0.bin", EXPECTED._replace(begun=attempt)))
    await settle()
    assert guard.limit.in_flight == 1
    read.cancel()
    await asyncio.wait([read])
    assert guard.limit.in_flight == 0
    assert (await source.read("0.bin")).data == DATA
    gate.opened.set()
    with pytest.raises(TakenOver):
        await thread
    assert guard.limit.in_flight == 0


async def test_a_claim_without_effect_keeps_no_place(gate: Gate) -> None:
    """The reader went away after the take-over and before the chain began: the thread gives the place back."""
    source = stack([gate], Context(ResilienceConfig(initial_concurrency=1)))
    attempts = FirstAttempts(source, asyncio.get_running_loop())
    attempt = begun(attempts)
    assert attempt.claim()
    gate.opened.set()
    with pytest.raises(TakenOver):
        await asyncio.to_thread(attempt.read, "0.bin", EXPECTED)
    assert begun(attempts) is not None


async def test_failures_between_many_successes_do_not_open_the_breaker(gate: Gate) -> None:
    """Failures are "in a row" by the time at which they came, though successes are accounted for later."""
    source = stack([gate], Context(ResilienceConfig(backoff_base_s=1e-6)))
    attempts = FirstAttempts(source, asyncio.get_running_loop())
    guard: Any = source.source.source  # type: ignore[attr-defined]
    gate.opened.set()
    whole = gate.outcome
    for number in range(60):
        attempt = begun(attempts)
        gate.outcome = down() if number % 4 == 3 else whole
        if number % 4 < 3:
            await asyncio.to_thread(attempt.read, "0.bin", EXPECTED)
            continue
        with pytest.raises(TakeOver):
            await asyncio.to_thread(attempt.read, "0.bin", EXPECTED)
        with pytest.raises(SourceUnavailable):
            await guard.read_expecting("0.bin", EXPECTED._replace(begun=attempt))
    assert guard.breaker.opened == 0


async def test_threads_read_only_what_is_healthy() -> None:
    """With a breaker open the next replica is read first; while one is probed, or throttles, the chain reads."""
    clock = FakeClock()
    one, two = Gate("one"), Gate("two")
    for each in (one, two):
        each.opened.set()
    source = stack([one, two], in_time_of(clock))
    attempts = FirstAttempts(source, asyncio.get_running_loop())
    first, second = source.source.source.sources  # type: ignore[attr-defined]
    assert begun(attempts).guard is first
    for _ in range(5):
        first.breaker.failed(down(), 0.0, False)
    assert first.breaker.state is State.OPEN
    assert begun(attempts).guard is second
    clock.tick(2)
    assert attempts.begin() is None
    first.breaker.admit("0.bin")
    first.breaker.succeeded(0.1, True)
    assert begun(attempts).guard is first
    first.limit.note(None, True)
    assert attempts.begin() is None
    clock.tick(10)
    one.blocks_now = False
    assert attempts.begin() is None


async def test_threads_read_no_source_chosen_by_load() -> None:
    """With `replica_selection="least-loaded"` the chain chooses."""
    settings = ResilienceConfig(replica_selection="least-loaded")
    source = stack([Gate("one"), Gate("two")], Context(settings))
    assert not FirstAttempts(source, asyncio.get_running_loop()).is_for_threads


def _assert_consistent(source: Retry, gate: Gate, reads: int) -> None:
    """Each request is counted once, and nothing is in flight."""
    numbers = ReplicaMetrics([(source, None)]).take()
    assert sum(numbers["source_requests"].values()) - numbers["source_requests"]["gate", "cancelled"] <= sum(
        gate.reads.values()
    )
    assert numbers["source_in_flight"]["gate",] == 0
    assert source.requests == reads
    guard: Any = source.source.source  # type: ignore[attr-defined]
    assert guard.limit.in_flight == 0
    assert guard.limit.allowed_in_threads == guard.limit.allowed


# -- many at once


class Scattered(Gate):
    """An object whose reads take up to 2 ms, one in ten of them 20 ms; one in eight fails, needs the loop, or is cut.

    Attributes:
        sent: requests so far.
        refused: those of threads that needed the loop.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._pause = threading.Event()
        self._counting = threading.Lock()
        self.sent = 0
        self.refused = 0

    def _next(self) -> tuple[float, BaseException | None, bool]:
        with self._counting:
            draw = self._random.random()
            self.sent += 1
            error = None if draw > 0.1 else NeedsLoop() if draw < 0.03 else down()
            self.refused += isinstance(error, NeedsLoop)
            return self._random.random() * (0.02 if self._random.random() < 0.1 else 0.002), error, 0.1 < draw < 0.13

    def _read_blocking(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        seconds, error, is_cut = self._next()
        self._pause.wait(seconds)
        if error is not None:
            raise error
        return Blob(DATA[:-1] if is_cut else DATA, None, len(DATA), None, self.name)

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        seconds, error, is_cut = self._next()
        await asyncio.sleep(seconds)
        if error is not None and not isinstance(error, NeedsLoop):
            raise error
        self.refused -= isinstance(error, NeedsLoop)
        return Blob(DATA[:-1] if is_cut else DATA, None, len(DATA), None, self.name)


@pytest.mark.parametrize("seed", range(3))
async def test_each_read_is_answered_once_in_any_interleaving(seed: int) -> None:
    """Eight threads and the chain over four places: one answer each, each request counted, no place lost."""
    reads, loop = 1_000, asyncio.get_running_loop()
    settings = ResilienceConfig(
        initial_concurrency=4,
        max_concurrency=6,
        hedge_min_samples=10,
        hedge_min_s=0.001,
        hedge_share=0.5,
        backoff_base_s=1e-4,
        backoff_max_s=1e-3,
        min_retries_per_s=1_000,
        breaker_consecutive_failures=1_000,
        breaker_failures=1.0,
    )
    store = Scattered(seed)
    source = stack([store], Context(settings))
    attempts = FirstAttempts(source, loop)
    current: dict[int, FirstAttempt] = {}
    answers: Counter[int] = Counter()
    waiting = iter(range(reads))
    taking, chain, claims = threading.Lock(), set[asyncio.Task[None]](), 0

    async def proceed(number: int, attempt: FirstAttempt | None) -> None:
        assert (await source.read_expecting("0.bin", EXPECTED._replace(begun=attempt))).data == DATA
        answers[number] += 1

    def start(number: int, attempt: FirstAttempt | None) -> None:
        task = loop.create_task(proceed(number, attempt))
        chain.add(task)
        task.add_done_callback(chain.discard)

    def work() -> None:
        while True:
            with taking:
                number = next(waiting, None)
            if number is None:
                return
            attempt = attempts.begin()
            if attempt is not None:
                current[number] = attempt
                try:
                    attempt.read("0.bin", EXPECTED)
                    loop.call_soon_threadsafe(answers.update, [number])
                    continue
                except TakenOver:
                    continue
                except (NeedsLoop, TakeOver):
                    pass
                finally:
                    del current[number]
            loop.call_soon_threadsafe(start, number, attempt)

    with ThreadPoolExecutor(8) as pool:
        threads = [loop.run_in_executor(pool, work) for _ in range(8)]
        while not all(thread.done() for thread in threads):
            for number, attempt in list(current.items()):
                if attempt.is_late() and attempt.claim():
                    claims += 1
                    start(number, attempt)
            attempts.settle()
            await asyncio.sleep(0.0005)
        await asyncio.gather(*threads)
        await settle()
        while chain:
            await asyncio.wait(chain)
            await settle()
    attempts.settle()
    assert answers == Counter(range(reads))
    assert claims > 10
    assert source.requests == reads
    guard: Any = source.source.source  # type: ignore[attr-defined]
    assert (guard.limit.in_flight, guard.limit.waiting) == (0, 0)
    assert guard.limit.allowed_in_threads == guard.limit.allowed
    numbers = ReplicaMetrics([(source, None)]).take()
    assert numbers["source_in_flight"]["gate",] == 0
    counted = sum(numbers["source_requests"].values())
    assert (
        store.sent - store.refused <= counted <= store.sent
    )  # the chain may give up what needs the loop before it ends
