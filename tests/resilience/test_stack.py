"""All wrappers together: whatever the replicas do, each object comes whole and once, or one error says why."""

from __future__ import annotations

import asyncio
import hashlib
import pickle
import random
from collections import Counter
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.adapter import StreamingDatasetAdapter
from streaming.core.source_config import DataSourceConfig
from streaming.errors import (
    AccessDenied,
    ClosedError,
    ConfigError,
    ObjectChanged,
    ObjectNotFoundError,
    SourceError,
    SourceTimeout,
    SourceUnavailable,
    TruncatedRead,
)
from streaming.resilience import Context, Failover, Guard, Hedge, ResilienceConfig, Retry, attempts_of, stack
from streaming.sources.base import Blob, DataSource, Expected, FileInfo
from streaming.testing import FakeClock, Fault, FaultySource, LatencySource, MemorySource
from tests.resilience.parts import DATA, Held, cancelled_at_every_turn, down, driven, in_time_of, memory, settle

COUNT = 12
CONTENTS = {f"{number}.bin": DATA + b"%d" % number for number in range(COUNT)}


def known(path: str) -> Expected:
    """Return size and checksum, as a listing of these replicas would give them."""
    return Expected(len(CONTENTS[path]), None, {"md5": hashlib.md5(CONTENTS[path]).hexdigest()})


def layers(source: DataSource) -> list[type]:
    """Return the classes from the outermost to the store, along the first replica."""
    found = [type(source)]
    while (inner := getattr(source, "source", None)) is not None:
        found.append(type(inner))
        source = inner
    return found


async def test_order_of_the_wrappers() -> None:
    """Each replica has a guard of its own; a single one needs no failover."""
    each = [Guard, MemorySource]
    assert layers(stack([memory()])) == [Retry, Hedge, *each]
    both = stack([memory("one"), memory("two")])
    assert layers(both) == [Retry, Hedge, Failover, *each]
    assert both.name == "one"
    with pytest.raises(ConfigError, match="at least one"):
        stack([])


fault = st.builds(
    Fault,
    path=st.one_of(st.none(), st.sampled_from(sorted(CONTENTS))),
    times=st.one_of(st.integers(1, 30), st.none()),
    error=st.sampled_from(
        [
            down(),
            down(status=503, retry_after_s=0.5),
            down(status=429),
            SourceTimeout("no answer"),
            TruncatedRead("cut"),
            ObjectNotFoundError("gone"),
            AccessDenied("no"),
        ]
    ),
) | st.builds(
    Fault,
    path=st.one_of(st.none(), st.sampled_from(sorted(CONTENTS))),
    times=st.one_of(st.integers(1, 30), st.none()),
    keep_bytes=st.one_of(st.none(), st.integers(0, 15)),
    flip_byte=st.one_of(st.none(), st.integers(-20, 19)),
)
plans = st.lists(st.lists(fault, max_size=4), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None, database=None)
@given(plans=plans, order=st.sampled_from(["ordered", "least-loaded"]), seed=st.integers(0, 2**16))
def test_random_faults_over_three_replicas(plans: list[list[Fault]], order: str, seed: int) -> None:
    """Each of twelve objects arrives whole, or one error lists what every replica raised; nothing is left in flight."""
    asyncio.run(_random_faults(plans, order, seed))


async def _random_faults(plans: list[list[Fault]], order: str, seed: int) -> None:
    clock = FakeClock()
    stores = [MemorySource(name, CONTENTS) for name in ("one", "two", "three")]
    replicas = [
        FaultySource(LatencySource(store, 0.02, sleep=clock.sleep), plan)
        for store, plan in zip(stores, plans, strict=True)
    ]
    source = stack(replicas, in_time_of(clock, random.Random(seed), replica_selection=order, deadline_s=20))
    reads = [source.read_expecting(path, known(path)) for path in CONTENTS]
    results = await driven(clock, asyncio.gather(*reads, return_exceptions=True), step_s=0.1)
    for (path, content), result in zip(CONTENTS.items(), results, strict=True):
        if isinstance(result, BaseException):
            assert isinstance(result, SourceError)
            assert path in str(result)
            assert {attempt.source for attempt in attempts_of(result)} >= {"one", "two", "three"} - _silent(result)
        else:
            assert bytes(result.data) == content
    if sum(fault.times or 99 for plan in plans for fault in plan) <= 4:  # too few to open a breaker
        finals = [result for result in results if isinstance(result, BaseException)]
        assert all(isinstance(error, ObjectNotFoundError | AccessDenied) for error in finals), finals
    await settle()
    assert len(asyncio.all_tasks()) == 1
    for replica in replicas:
        assert Guard(replica, source.context).limit.in_flight == 0
    assert clock.time() <= 21


def _silent(error: BaseException) -> set[str]:
    """Return the replicas that an error at the deadline need not list: attempts that were not started."""
    return {"one", "two", "three"} if "deadline" in str(error) else set()


async def test_primary_killed_and_back_later() -> None:
    """Killed after 100 of 600 reads and back for the last 100: all arrive once, and the primary serves again."""
    clock = FakeClock()
    objects = {f"{number}.bin": b"%d" % number for number in range(600)}
    one, two = Held(MemorySource("one", objects)), Held(MemorySource("two", objects))
    replicas = [LatencySource(replica, 0.03, sleep=clock.sleep) for replica in (one, two)]
    source = stack(replicas, in_time_of(clock))
    served: Counter[str] = Counter()
    waiting = sorted(objects, reverse=True)
    got: list[bytes] = []
    longest = last = 0.0

    async def reader() -> None:
        nonlocal longest, last
        while waiting:
            one.rest = down() if 100 <= 600 - len(waiting) < 500 else None
            if len(waiting) == 100:
                await clock.sleep(60)
                last = clock.time()
            blob = await source.read(waiting.pop())
            served[blob.source] += 1
            got.append(bytes(blob.data))
            longest, last = max(longest, clock.time() - last), clock.time()

    await driven(clock, asyncio.gather(*(reader() for _ in range(8))), step_s=0.01)
    assert sorted(got) == sorted(objects.values())
    assert served["one"] > 150
    assert 395 <= served["two"] <= 450
    assert longest < 1


async def test_primary_that_stops_answering() -> None:
    """Black-holed after 100 reads: no pause of 5 s, then the mirror's own speed, and nothing stays in flight."""
    clock = FakeClock()
    one, two = Held(memory("one", 400)), Held(memory("two", 400))
    replicas = [LatencySource(replica, 0.03, sleep=clock.sleep) for replica in (one, two)]
    source = stack(replicas, in_time_of(clock))
    waiting, got = [f"{number}.bin" for number in range(400)], list[bytes]()
    times: list[float] = []

    async def reader() -> None:
        while waiting:
            if len(waiting) == 300:
                one.rest = "hold"
            got.append(bytes((await source.read(waiting.pop())).data))
            times.append(clock.time())

    await driven(clock, asyncio.gather(*(reader() for _ in range(8))), step_s=0.01)
    assert sorted(got) == sorted(DATA + b"%d" % number for number in range(400))
    pauses = [b - a for a, b in pairwise(times)]
    assert max(pauses) < 2.5
    assert one.started < 160
    assert one.in_flight == 0


async def test_all_replicas_down_ends_in_one_error() -> None:
    """It comes by the deadline and lists every attempt at every replica."""
    clock = FakeClock()
    replicas = [Held(memory(name), rest=down(f"{name} is gone")) for name in ("one", "two")]
    source = stack(replicas, in_time_of(clock, random.Random(0)))
    with pytest.raises(SourceUnavailable, match=r"one is gone.*two is gone") as caught:
        await driven(clock, source.read("0.bin"))
    assert {attempt.source for attempt in attempts_of(caught.value)} == {"one", "two"}
    assert 40 < clock.time() <= 60.1


async def test_a_stale_mirror_waits_for_the_primary() -> None:
    """The primary is down and the mirror lacks the object: it is read once the primary is back."""
    clock = FakeClock()
    one = Held(memory("one"), rest=down())
    source = stack([one, MemorySource("two")], in_time_of(clock))
    read = asyncio.ensure_future(source.read("0.bin"))
    await settle()
    for _ in range(100):
        clock.tick(0.1)
        await settle()
    one.rest = None
    assert (await driven(clock, read)).source == "one"


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_flipped_byte(is_known: bool) -> None:
    """With a known checksum it is read again from the other replica; without one it is not noticed."""
    one = FaultySource(MemorySource("one", CONTENTS), [Fault(flip_byte=3)])
    source = stack([one, MemorySource("two", CONTENTS)])
    blob = await source.read_expecting("3.bin", known("3.bin") if is_known else None)
    assert (bytes(blob.data) == CONTENTS["3.bin"]) is is_known
    assert blob.source == ("two" if is_known else "one")


async def test_cancel_at_every_await_leaves_everything_as_it_was() -> None:
    """Reads cancelled anywhere leave no place taken, no task, and a source that still reads."""
    clock = FakeClock()
    replicas = [Held(memory("one"), rest="hold"), Held(memory("two"), rest=down())]
    source = stack(replicas, in_time_of(clock))

    async def work() -> None:
        read = asyncio.ensure_future(source.read("0.bin"))
        try:
            for _ in range(12):
                await asyncio.sleep(0)
                clock.tick(0.4)
            await read
        finally:
            read.cancel()
            await asyncio.wait([read])

    await cancelled_at_every_turn(work, 25)
    assert len(asyncio.all_tasks()) == 1
    assert [Guard(replica, source.context).limit.in_flight for replica in replicas] == [0, 0]
    assert [replica.in_flight for replica in replicas] == [0, 0]
    clock.tick(60)
    for replica in replicas:
        replica.rest = None
    assert bytes((await driven(clock, source.read("0.bin"))).data) == DATA + b"0"


async def test_pickles_with_its_settings_and_replicas() -> None:
    """A stack from a pickle has its own sources, verifies what they send, and begins with fresh counts."""
    options = ResilienceConfig(deadline_s=9, replica_selection="least-loaded")
    replicas = [FaultySource(MemorySource(name, CONTENTS), [Fault(flip_byte=0)]) for name in ("one", "two")]
    source = stack(replicas, Context(options))
    await source.read_expecting("0.bin", known("0.bin"))
    again = pickle.loads(pickle.dumps(source))
    assert layers(again) == layers(source)
    assert (again.context, again.requests) == (source.context, 0)
    assert bytes((await again.read_expecting("1.bin", known("1.bin"))).data) == CONTENTS["1.bin"]
    await again.aclose()
    with pytest.raises(ClosedError):
        await again.read("1.bin")
    await source.read("1.bin")


class OwnSource(DataSource):
    """The three methods that a user writes, and no more."""

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        content = CONTENTS[path]
        return Blob(content[start:end], None, len(content), None, self.name)

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        for path, content in CONTENTS.items():
            if path.startswith(prefix):
                yield FileInfo(path, len(content))

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize("count", [1, 2])
async def test_your_own_source_works_under_every_wrapper(count: int) -> None:
    """It is read by path and range alone; what the caller expects is verified all the same."""
    source = stack([OwnSource(DataSourceConfig("own", "memory", "memory://own")) for _ in range(count)])
    assert bytes((await source.read("3.bin", 2, 9)).data) == CONTENTS["3.bin"][2:9]
    assert bytes((await source.read_expecting("3.bin", known("3.bin"))).data) == CONTENTS["3.bin"]
    assert len(await source.list_files()) == COUNT
    with pytest.raises(ObjectChanged, match=r"has 22 bytes and had 99"):
        await source.read_expecting("3.bin", Expected(99))


@pytest.mark.parametrize("is_wrapped", [True, False])
def test_your_own_source_works_in_an_adapter(is_wrapped: bool) -> None:
    """Bare, or under all wrappers."""
    own = OwnSource(DataSourceConfig("own", "memory", "memory://own"))
    with StreamingDatasetAdapter(stack([own]) if is_wrapped else own) as adapter:
        assert {adapter[position]["own"] for position in range(len(adapter))} == set(CONTENTS.values())
