"""The sources and the clock for tests."""

from __future__ import annotations

import asyncio
import pickle
import time

import pytest

from streaming.errors import ObjectNotFoundError, ObjectTooLargeError, SourceUnavailable
from streaming.sources.base import DataSource
from streaming.testing import FakeClock, Fault, FaultySource, LatencySource, MemorySource


async def seconds_of_read(source: DataSource, path: str) -> float:
    """Return how long one read takes."""
    start = time.monotonic()
    await source.read(path)
    return time.monotonic() - start


async def test_memory_counts_reads() -> None:
    """Every read of a path counts, failed ones too, from any thread."""
    source = MemorySource("m", {"a": b"1"})
    await asyncio.gather(*(asyncio.to_thread(source.read_blocking, "a") for _ in range(50)))
    await source.read("a", 0, 0)
    with pytest.raises(ObjectNotFoundError):
        await source.read("b")
    assert source.reads == {"a": 51, "b": 1}


async def test_memory_deletes_and_replaces() -> None:
    """An object can be replaced, which does not change bytes already read, and removed once."""
    buffer = bytearray(b"old")
    source = MemorySource("m", {"a": buffer})
    buffer[:] = b"???"
    blob = await source.read("a")
    source.put("a", b"new")
    assert (blob.data, (await source.read("a")).data) == (b"old", b"new")
    source.delete("a")
    with pytest.raises(ObjectNotFoundError):
        source.delete("a")


async def test_memory_pickles_with_its_objects() -> None:
    """The source from a pickle holds the same objects with the same ETags, and is independent."""
    source = MemorySource("m", {"a": b"1"})
    source.put("a", b"2")
    copy = pickle.loads(pickle.dumps(source))
    assert await copy.read("a") == await source.read("a")
    copy.delete("a")
    assert await source.list_files() == ["a"]


async def test_memory_keeps_the_limit() -> None:
    """More bytes than `max_object_bytes` are refused."""
    source = MemorySource("m", {"a": bytes(100)})
    limited = MemorySource(source.config.model_copy(update={"max_object_bytes": 10}), {"a": bytes(100)})
    with pytest.raises(ObjectTooLargeError):
        await limited.read("a")
    assert len((await limited.read("a", 5, 15)).data) == 10


async def test_latency_is_kept_and_shared() -> None:
    """A read is never early by more than the timer's error, and reads wait in parallel."""
    source = LatencySource(MemorySource("m", {"a": b"1"}), 0.02)
    alone = [await seconds_of_read(source, "a") for _ in range(5)]
    assert min(alone) > 0.0195
    start = time.monotonic()
    await asyncio.gather(*(source.read("a") for _ in range(1000)))
    assert time.monotonic() - start < 10.0, "in sequence it would be 20 s"


async def test_jitter_is_repeatable_and_bounded() -> None:
    """Delays are spread between latency and latency + jitter, and follow from the seed."""

    async def waits(source: LatencySource, recorded: list[float]) -> list[float]:
        recorded.clear()
        for _ in range(50):
            await source.read("a")
        return list(recorded)

    recorded: list[float] = []
    memory = MemorySource("m", {"a": b"1"})

    async def sleep(seconds: float) -> None:
        recorded.append(seconds)

    first = await waits(LatencySource(memory, 0.01, jitter_s=0.03, seed=3, sleep=sleep), recorded)
    assert await waits(LatencySource(memory, 0.01, jitter_s=0.03, seed=3, sleep=sleep), recorded) == first
    assert await waits(LatencySource(memory, 0.01, jitter_s=0.03, seed=4, sleep=sleep), recorded) != first
    assert 0.01 <= min(first) < 0.015
    assert 0.035 < max(first) <= 0.04
    assert set(await waits(LatencySource(memory, 0.01, sleep=sleep), recorded)) == {0.01}


async def test_latency_follows_a_fake_clock() -> None:
    """With a clock's sleep a read waits until the clock is moved; its settings survive a pickle."""
    clock = FakeClock()
    source = LatencySource(MemorySource("m", {"a": b"1"}), 5.0, sleep=clock.sleep)
    read = asyncio.create_task(source.read("a"))
    await asyncio.sleep(0)
    clock.tick(4.9)
    await asyncio.sleep(0)
    assert not read.done()
    clock.tick(0.2)
    assert (await read).data == b"1"
    copy = pickle.loads(pickle.dumps(LatencySource(source.source, 0.1, 0.2, 3)))
    assert (copy.latency_s, copy.jitter_s, copy.seed) == (0.1, 0.2, 3)
    assert (await LatencySource(source.source, 0.0).read("a")).data == b"1"


def test_latency_works_in_one_loop_after_another() -> None:
    """Reads left waiting in a loop that ended do not disturb a later loop."""
    source = LatencySource(MemorySource("m", {"a": b"1"}), 0.01)

    async def leave_waiting() -> None:
        await asyncio.wait([asyncio.ensure_future(source.read("a"))], timeout=0)

    asyncio.run(leave_waiting())
    assert asyncio.run(source.read("a")).data == b"1"


async def test_faults_apply_as_planned() -> None:
    """Faults apply to the n-th read, of a path or of all, `times` times, the first that fits before others."""
    source = FaultySource(
        MemorySource("m", {"a": b"abcdef", "b": b"abcdef"}),
        [
            Fault(path="a", nth=2, error=SourceUnavailable("down")),
            Fault(path="b", times=2, keep_bytes=3),
            Fault(nth=6, flip_byte=-1, etag="other"),
        ],
    )
    assert (await source.read("a")).data == b"abcdef"
    with pytest.raises(SourceUnavailable, match="down"):
        await source.read("a")
    for _ in range(2):
        assert (await source.read("b")).data == b"abc"
    assert (await source.read("b")).data == b"abcdef"
    blob = await source.read("a")
    assert (blob.data, blob.etag, blob.size) == (b"abcde\x99", "other", 6)
    assert (await source.read("a")).data == b"abcdef"
    assert source.struck == 4


async def test_lasting_faults_never_end() -> None:
    """`times=None` never ends, and a source from a pickle has the same faults."""
    source = FaultySource(MemorySource("m", {"a": b"1"}), [Fault(error=SourceUnavailable("down"), times=None)])
    for each in (source, pickle.loads(pickle.dumps(source))):
        for _ in range(3):
            with pytest.raises(SourceUnavailable):
                await each.read("a")


async def test_the_clock_moves_only_by_tick() -> None:
    """`tick` moves the clock and wakes sleepers in the order of their times, except cancelled ones."""
    clock = FakeClock(100.0)
    woken: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(f"{name}@{clock():g}")

    tasks = [asyncio.create_task(sleeper(name, seconds)) for name, seconds in (("b", 2.0), ("a", 1.0), ("c", 9.0))]
    tasks.append(asyncio.create_task(sleeper("now", 0)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert woken == ["now@100"]
    tasks[2].cancel()
    clock.tick(2.5)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert woken == ["now@100", "a@102.5", "b@102.5"]
    clock.tick(100)
    assert clock.time() == 202.5
    with pytest.raises(ValueError, match="back"):
        clock.tick(-1)
