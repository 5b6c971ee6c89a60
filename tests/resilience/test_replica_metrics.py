"""Metrics of each replica, read during its requests and afterwards."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from streaming.errors import (
    AccessDenied,
    BadRequest,
    ClosedError,
    InvalidPath,
    ObjectChanged,
    ObjectNotFoundError,
    ObjectTooLargeError,
    PrepareError,
    SourceError,
    SourceTimeout,
    SourceUnavailable,
    TruncatedRead,
)
from streaming.monitoring.metrics.families import FAMILIES, VALUES
from streaming.resilience import Context, Guard, ResilienceConfig, Retry, request_outcome, stack
from streaming.resilience.replica_metrics import ReplicaMetrics
from streaming.sources.base import Blob, DataSource, Expected
from streaming.telemetry.counters import LATENCY_BUCKETS_S, OUTCOMES, MetricsSnapshot
from streaming.testing import FakeClock, Fault, FaultySource, LatencySource, MemorySource
from tests.resilience.parts import DATA, Held, Highest, down, driven, in_time_of, marked, memory, settle

ERRORS: list[tuple[BaseException, str]] = [
    (ObjectNotFoundError(), "not_found"),
    (AccessDenied(), "denied"),
    (SourceTimeout(), "timeout"),
    (SourceUnavailable(), "unavailable"),
    (TruncatedRead(), "truncated"),
    (ObjectChanged(), "changed"),
    (BadRequest(), "refused"),
    (ObjectTooLargeError(), "refused"),
    (InvalidPath(), "refused"),
    (asyncio.CancelledError(), "cancelled"),
    (GeneratorExit(), "cancelled"),
    (ClosedError(), "cancelled"),
    (SourceError(), "other"),
    (PrepareError(), "other"),
    (ZeroDivisionError(), "other"),
    (FileNotFoundError(), "not_found"),
    (PermissionError(), "denied"),
    (TimeoutError(), "timeout"),
    (ConnectionResetError(), "unavailable"),
    (marked(SourceUnavailable(), status=503), "throttled"),
    (marked(AccessDenied(), status=429), "throttled"),
    (marked(SourceError(), throttled=True), "throttled"),
    (marked(SourceUnavailable(), status=500), "unavailable"),
]


def reading_of(*sources: DataSource) -> MetricsSnapshot:
    """Return the numbers of sources that count their requests."""
    return ReplicaMetrics([(source, None) for source in sources]).take()


def outcomes(reading: MetricsSnapshot, name: str) -> dict[str, int]:
    """Return the outcomes of the requests to a replica that occurred."""
    found = {labels[1]: count for labels, count in reading["source_requests"].items() if labels[0] == name}
    assert tuple(found) == OUTCOMES
    return {outcome: count for outcome, count in found.items() if count}


def state_of(reading: MetricsSnapshot, name: str) -> str:
    """Return the state of a replica's breaker."""
    states = {labels[1]: is_on for labels, is_on in reading["source_breaker_state"].items() if labels[0] == name}
    assert tuple(states) == VALUES["state"]
    assert sorted(states.values()) == [0, 0, 1]
    return next(state for state, is_on in states.items() if is_on)


def replicas_of(clock: FakeClock, sources: Iterable[DataSource], **settings: Any) -> DataSource:
    """Return a stack with the test's clock and the longest pauses."""
    return stack(list(sources), in_time_of(clock, Highest(), **settings))


@pytest.mark.parametrize(("error", "outcome"), ERRORS, ids=lambda value: getattr(value, "__name__", repr(value)))
def test_each_error_has_one_outcome(error: BaseException, outcome: str) -> None:
    """By its nearest class; one that asks for fewer requests is throttling, whatever its class."""
    assert request_outcome(error) == outcome


def test_every_outcome_can_come_up() -> None:
    """The closed set holds the outcomes of errors and that of an answer; nothing else."""
    assert {outcome for _, outcome in ERRORS} | {"ok"} == set(OUTCOMES)


@pytest.mark.parametrize("count", [1, 2], ids=["one replica", "with a mirror"])
async def test_every_family_of_sources_is_read(count: int) -> None:
    """Names and labels are those of the list of families; failovers only if there is another replica."""
    reading = reading_of(stack([memory(f"replica-{number}") for number in range(count)]))
    families = {family.key: family for family in FAMILIES if family.key.startswith("source_")}
    if count == 1:
        del families["source_failovers"]
    assert set(reading) == set(families)
    for key, values in reading.items():
        names = families[key].labels[1:]
        for labels in values:
            assert len(labels) == len(names)
            assert labels[0] in ("replica-0", "replica-1")
            for name, label in zip(names[1:], labels[1:], strict=True):
                assert label in VALUES[name]


async def test_the_outcome_of_each_request_is_counted() -> None:
    """One request, one outcome: answers with their bytes and latency, errors by their class."""
    clock = FakeClock()
    faults = [
        Fault(nth=2, error=down()),
        Fault(nth=3, error=marked(down(), status=429)),
        Fault(nth=5, error=AccessDenied("denied")),
    ]
    source = replicas_of(clock, [LatencySource(FaultySource(memory(), faults), 0.02, sleep=clock.sleep)])
    assert (await driven(clock, source.read("0.bin"), step_s=0.02)).size == len(DATA) + 1
    assert len((await driven(clock, source.read("0.bin", 2, 6), step_s=0.02)).data) == 4
    with pytest.raises(AccessDenied):
        await driven(clock, source.read("0.bin"), step_s=0.02)
    with pytest.raises(ObjectNotFoundError):
        await driven(clock, source.read("no.bin"), step_s=0.02)
    reading = reading_of(source)
    assert outcomes(reading, "memory") == {"ok": 2, "unavailable": 1, "throttled": 1, "denied": 1, "not_found": 1}
    assert reading["source_bytes"] == {("memory",): len(DATA) + 1 + 4}
    *buckets, seconds = reading["source_request_duration_seconds"]["memory",]
    assert len(buckets) == len(LATENCY_BUCKETS_S) + 1
    assert (buckets[LATENCY_BUCKETS_S.index(0.025)], sum(buckets)) == (2, 2)
    assert seconds == pytest.approx(0.04)
    assert reading["source_retries"] == {("memory",): 2}
    assert reading["source_in_flight"] == {("memory",): 0}


@pytest.mark.parametrize(("latency_s", "place"), [(0.0, 0), (0.001, 0), (0.002, 1), (60.0, 14), (61.0, 15)])
async def test_a_latency_falls_into_the_first_bucket_that_holds_it(latency_s: float, place: int) -> None:
    """A bound belongs to its bucket, as in Prometheus, and latencies beyond the last have one of their own."""
    clock = FakeClock()
    source = Guard(LatencySource(memory(), latency_s, sleep=clock.sleep), in_time_of(clock))
    await driven(clock, source.read("0.bin"), step_s=latency_s or 1.0)
    *buckets, seconds = reading_of(source)["source_request_duration_seconds"]["memory",]
    assert [number for number, count in enumerate(buckets) if count] == [place]
    assert seconds == latency_s


async def test_a_dead_replica_costs_failovers_and_its_breaker_opens() -> None:
    """The replicas have their own numbers; wrappers around both are reported under the first. A read refused by the
    breaker is not a request."""
    clock = FakeClock()
    dead = FaultySource(memory("first"), [Fault(times=None, error=down())])
    source = replicas_of(clock, [dead, memory("second")], cooldown_s=100, cooldown_max_s=100)
    for _ in range(8):
        await driven(clock, source.read("0.bin"))
    reading = reading_of(source)
    assert outcomes(reading, "first") == {"unavailable": 5} == {"unavailable": dead.struck}
    assert outcomes(reading, "second") == {"ok": 8}
    assert (state_of(reading, "first"), state_of(reading, "second")) == ("open", "closed")
    assert reading["source_breaker_opened"] == {("first",): 1, ("second",): 0}
    assert reading["source_failovers"] == {("first",): 8}
    assert reading["source_bytes"] == {("first",): 0, ("second",): 8 * (len(DATA) + 1)}


async def test_the_request_that_tries_a_resting_replica_is_counted() -> None:
    """After the cool-down the state is half-open, the next read is a request, and its answer closes the breaker."""
    clock = FakeClock()
    replica = FaultySource(memory(), [Fault(times=5, error=down())])
    source = replicas_of(clock, [replica], cooldown_s=10, cooldown_max_s=10, deadline_s=5)
    with pytest.raises(SourceUnavailable):
        await driven(clock, source.read("0.bin"))
    assert state_of(reading_of(source), "memory") == "open"
    clock.tick(20)
    assert state_of(reading_of(source), "memory") == "half-open"
    await driven(clock, source.read("0.bin"))
    reading = reading_of(source)
    assert state_of(reading, "memory") == "closed"
    assert outcomes(reading, "memory") == {"unavailable": 5, "ok": 1}


@pytest.mark.parametrize("make", [lambda replica, context: stack([replica], context), Guard], ids=["stack", "guard"])
async def test_requests_in_flight_and_waiting(
    make: Callable[[DataSource, Context], DataSource],
) -> None:
    """Each replica has its own, also if two are at one endpoint and share its limit."""
    held = [Held(memory("same", 3), rest="hold"), Held(memory("same", 3), rest="hold")]
    one, two = (make(replica, Context(ResilienceConfig(initial_concurrency=3))) for replica in held)
    reads = [asyncio.ensure_future(one.read(f"{number}.bin")) for number in range(2)]
    await settle()
    reads += [asyncio.ensure_future(two.read(f"{number}.bin")) for number in range(3)]
    await settle()
    reading = reading_of(one, two)
    assert reading["source_in_flight"] == {("same",): 2, ("same-2",): 1}
    assert reading["source_queued_requests"] == {("same",): 0, ("same-2",): 2}
    assert reading["source_concurrency_limit"] == {("same",): 3, ("same-2",): 3}
    for read in reads:
        read.cancel()
    await asyncio.gather(*reads, return_exceptions=True)
    reading = reading_of(one, two)
    assert outcomes(reading, "same") == {"cancelled": 2}
    assert outcomes(reading, "same-2") == {"cancelled": 1}, "a read that waited for a place was never sent"
    assert set(reading["source_in_flight"].values()) == set(reading["source_queued_requests"].values()) == {0}


async def test_a_limit_cut_by_throttling_is_read() -> None:
    """Before the first read it is the initial limit; afterwards it is that of the endpoint."""
    clock = FakeClock()
    replica = FaultySource(memory(), [Fault(times=32, error=marked(down(), status=503))])
    source = Guard(
        replica, in_time_of(clock, initial_concurrency=20, breaker_consecutive_failures=99, breaker_window=99)
    )
    assert reading_of(source)["source_concurrency_limit"] == {("memory",): 20}
    for _ in range(20):
        with pytest.raises(SourceUnavailable):
            await source.read("0.bin")
    assert reading_of(source)["source_concurrency_limit"] == {("memory",): 10}


async def test_a_late_read_is_a_second_request() -> None:
    """The hedge that won, and the first request that was cancelled for it."""
    clock, replica = FakeClock(), Held(memory(), [None] * 60 + ["hold"])
    source = replicas_of(clock, [replica])
    for _ in range(61):
        await driven(clock, source.read("0.bin"))
    reading = reading_of(source)
    assert reading["source_hedges"] == reading["source_hedge_wins"] == {("memory",): 1}
    assert outcomes(reading, "memory") == {"ok": 61, "cancelled": 1}


async def test_a_deadline_and_an_answer_of_another_object() -> None:
    """A read that hangs until the deadline is cancelled; an answer of another object is an answer."""
    clock = FakeClock()
    silent = replicas_of(clock, [Held(memory("silent"), rest="hold")], deadline_s=3)
    with pytest.raises(SourceTimeout):
        await driven(clock, silent.read("0.bin"))
    replaced = stack([memory("replaced")])
    with pytest.raises(ObjectChanged):
        await replaced.read_expecting("0.bin", Expected(1))
    reading = reading_of(silent, replaced)
    assert reading["source_deadline_exceeded"] == {("silent",): 1, ("replaced",): 0}
    assert outcomes(reading, "silent") == {"cancelled": 1}
    assert reading["source_integrity_failures"] == {("silent",): 0, ("replaced",): 1}
    assert outcomes(reading, "replaced") == {"ok": 1}


async def test_listings_are_not_requests() -> None:
    """Only reads count."""
    source = stack([memory(count=3)])
    assert len(await source.list_files()) == 3
    assert outcomes(reading_of(source), "memory") == {}


async def test_an_answer_of_none_ends_the_request() -> None:
    """A source that breaks its contract keeps neither a place nor a request in flight."""

    class Broken(MemorySource):
        async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
            return None  # type: ignore[return-value]

    for source in (stack([Broken("broken")]), Guard(Broken("broken"))):
        with pytest.raises(AttributeError):
            await source.read("0.bin")
        reading = reading_of(source)
        assert outcomes(reading, "broken") == {"other": 1}
        assert reading["source_in_flight"] == {("broken",): 0}


@pytest.mark.parametrize(
    ("own", "shown"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "a", "a"], ["a", "a-2", "a-3"]),
        (["a", "a", "a-2"], ["a", "a-3", "a-2"]),
        (["a-2", "a", "a", "a-2"], ["a-2", "a", "a-3", "a-2-2"]),
    ],
    ids=" ".join,
)
async def test_replicas_of_the_same_name_are_numbered(own: list[str], shown: list[str]) -> None:
    """In the order given; the first keeps its name, and none gets the name of another."""
    reading = reading_of(stack([memory(name) for name in own]))
    assert [name for (name,) in reading["source_bytes"]] == shown


async def test_a_replica_within_several_stacks_is_one() -> None:
    """Its requests add up, its breaker is the worst of them, and a stack within a stack counts once."""
    clock, replica = FakeClock(), FaultySource(memory(), [Fault(times=5, error=down())])
    one = replicas_of(clock, [replica], deadline_s=4, cooldown_s=100, cooldown_max_s=100)
    with pytest.raises(SourceUnavailable):
        await driven(clock, one.read("0.bin"))
    two = replicas_of(clock, [replica])
    outer = replicas_of(clock, [two])
    await driven(clock, two.read("0.bin"))
    await driven(clock, outer.read("0.bin"))
    reading = reading_of(one, two, outer, one)
    assert list(reading["source_bytes"]) == [("memory",)]
    assert outcomes(reading, "memory") == {"unavailable": 5, "ok": 2}
    assert state_of(reading, "memory") == "open"
    assert reading["source_breaker_opened"] == {("memory",): 1}


async def test_parts_that_are_missing_have_no_numbers() -> None:
    """A source within a Retry alone has no breaker and no limit, and its reader counts."""
    source = Retry(memory())
    reading = ReplicaMetrics([(source, [])]).take()
    assert {"source_requests", "source_retries"} <= set(reading)
    assert not {"source_concurrency_limit", "source_queued_requests", "source_breaker_state", "source_hedges"} & set(
        reading
    )


async def test_a_reading_in_another_thread_while_reads_run() -> None:
    """It needs no loop, never raises, changes nothing, and is consistent: the histogram holds all answers."""
    rng = random.Random(0)
    faults = [Fault(nth=number, error=rng.choice([down(), TruncatedRead("cut")])) for number in range(2, 2000, 7)]
    source = stack(
        [FaultySource(memory("first", 10), faults), memory("second", 10)],
        Context(ResilienceConfig(initial_concurrency=4)),
    )
    readings = ReplicaMetrics([(source, None)])
    is_over = False

    def look() -> int:
        count = 0
        while not is_over:
            reading = readings.take()
            count += 1
            for name in ("first", "second"):
                *buckets, _ = reading["source_request_duration_seconds"][name,]
                assert sum(buckets) == reading["source_requests"][name, "ok"]
                assert 0 <= reading["source_in_flight"][name,] <= 80, "40 readers, each with a second read at most"
        return count

    looking = asyncio.ensure_future(asyncio.to_thread(look))
    try:
        for number in range(50):
            await asyncio.gather(*(source.read(f"{(number + more) % 10}.bin") for more in range(40)))
    finally:
        is_over = True
    assert await looking > 0
    last = readings.take()
    assert last["source_requests"]["first", "ok"] + last["source_requests"]["second", "ok"] >= 2000
    await source.aclose()
    assert readings.take() == last == await asyncio.to_thread(readings.take)
