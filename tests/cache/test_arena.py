"""Places in the arena never overlap, are read back whole, and are stale at once when freed."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import DupFd
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.cache import SmartLRUCache
from streaming.cache.allocator import Allocator, block_size
from streaming.cache.arena import Arena, ArenaReader, FencedTable, Place
from streaming.errors import ConfigError

SIZES = st.one_of(st.integers(0, 300), st.integers(0, 20_000), st.sampled_from([64, 4096, 65_536]))


def write(arena: Arena, parts: Sequence[bytes | bytearray]) -> Place | None:
    """Store parts as one payload; None if there is no room for it."""
    place = arena.allocate(sum(map(len, parts)))
    if place is not None:
        arena.fill(place, parts)
    return place


def view(arena: Arena | ArenaReader, place: Place) -> memoryview:
    """Return the bytes at a place, not copied."""
    return arena.memory[place.offset : place.offset + place.length]


def is_current(arena: Arena | ArenaReader, place: Place) -> bool:
    """Whether a place was not freed."""
    return arena.generations[place.slot] == place.generation


@settings(deadline=None)
@given(st.lists(st.tuples(SIZES, st.integers(0, 99)), max_size=120))
def test_blocks_never_overlap_and_coalesce(steps: list[tuple[int, int]]) -> None:
    """In any order of taking and releasing, blocks are disjoint, and at the end there is one free block."""
    capacity = 200_000 // 64 * 64
    allocator = Allocator(capacity)
    taken: dict[int, int] = {}
    for size, choice in steps:
        if choice < 60:
            start = allocator.allocate(size)
            if start is None:
                assert all(length < 2 * block_size(size) for _, length in allocator.free_blocks())
            else:
                taken[start] = size
        elif taken:
            start = list(taken)[choice % len(taken)]
            allocator.release(start, taken.pop(start))
        ranges = sorted([(s, block_size(n)) for s, n in taken.items()] + allocator.free_blocks())
        at = 0
        for start, length in ranges:
            assert start == at
            assert start % 64 == 0
            at = start + length
        assert at == capacity
    for start, size in taken.items():
        allocator.release(start, size)
    assert allocator.free_blocks() == [(0, capacity)]


def test_a_block_of_the_whole_capacity() -> None:
    """The whole capacity can be taken, and nothing more; after `clear` again."""
    allocator = Allocator(6400)
    assert allocator.allocate(6400) == 0
    assert allocator.allocate(1) is None
    allocator.clear()
    assert allocator.allocate(6400) == 0


def test_written_parts_are_read_back() -> None:
    """Parts are stored one after the other, also those longer than one copying step."""
    arena = Arena(8 << 20)
    parts: list[bytes | bytearray] = [b"head", os.urandom(3 << 20), bytearray(b"tail"), b""]
    place = write(arena, parts)
    assert place is not None
    assert view(arena, place) == b"".join(parts)
    assert is_current(arena, place)
    reader = ArenaReader(arena)
    assert view(reader, place) == b"".join(parts)
    assert view(reader, place).readonly


def test_reused_room_takes_long_parts() -> None:
    """Room that was used before, or trimmed, takes long and short parts as new room does."""
    arena = Arena(4 << 20)
    for turn in range(4):
        parts = [b"%d" % turn, os.urandom(3 << 20), *[b"x"] * 1500]
        place = write(arena, parts)
        assert place is not None
        assert view(arena, place) == b"".join(parts)
        arena.free(place)
        if turn == 2:
            arena.trim()


def test_freed_places_are_stale_before_reuse() -> None:
    """After `free` the place is stale for owner and reader, also when the same room and slot are used again."""
    arena = Arena(64, max_entries=1)
    reader = ArenaReader(arena.fd)
    old = write(arena, [b"a" * 64])
    assert old is not None
    assert write(arena, [b"b"]) is None
    arena.free(old)
    assert not is_current(arena, old)
    new = write(arena, [b"b" * 64])
    assert new is not None
    assert (new.offset, new.slot) == (old.offset, old.slot)
    assert not is_current(reader, old)
    assert is_current(reader, new)


def test_slots_are_bounded() -> None:
    """With all slots in use nothing more is stored, and no room is lost."""
    arena = Arena(6400, max_entries=2)
    places = [write(arena, [b"x"]), write(arena, [b"y"])]
    assert write(arena, [b"z"]) is None
    for place in places:
        assert place is not None
        arena.free(place)
    assert arena.free_blocks() == [(0, 6400)]


def test_trim_gives_pages_back() -> None:
    """Pages of freed ranges return to the system, those in use stay."""
    arena = Arena(8 << 20)
    kept = write(arena, [b"k" * 100])
    gone = write(arena, [b"g" * (4 << 20)])
    assert kept is not None
    assert gone is not None
    arena.free(gone)
    before = os.fstat(arena.fd).st_blocks
    arena.trim()
    assert os.fstat(arena.fd).st_blocks < before - 7000
    assert view(arena, kept) == b"k" * 100


def test_close_with_views_held() -> None:
    """Closing twice, while a view is held, does not fail, and the view stays readable."""
    arena = Arena(1 << 16)
    place = write(arena, [b"data"])
    assert place is not None
    reader = ArenaReader(arena)
    views = [view(arena, place), view(reader, place)]
    for closable in (reader, arena, arena, reader):
        closable.close()
    assert views == [b"data", b"data"]


def test_memory_is_freed_with_its_last_user() -> None:
    """After closing, no mapping and no descriptor is left in the process."""
    gc.collect()
    before = _traces()
    arena = Arena(1 << 20)
    assert _traces() != before
    arena.close()
    assert _traces() == before
    cache = SmartLRUCache(max_size_bytes=1 << 20)
    cache.put_nowait("k", [1, 2])
    del cache
    assert _traces() == before


def _traces() -> tuple[int, int]:
    """Return (mappings, descriptors) of arenas in this process."""
    with open("/proc/self/maps") as maps:
        mapped = maps.read().count("memfd:streaming-cache")
    return mapped, sum(_target(fd).startswith("/memfd:streaming-cache") for fd in os.listdir("/proc/self/fd"))


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def test_impossible_size_is_refused() -> None:
    """A size that the system cannot map is a ConfigError that names it, and leaks no descriptor."""
    gc.collect()
    before = _traces()
    with pytest.raises(ConfigError, match="choose a smaller cache"):
        Arena(1 << 62)
    assert _traces() == before


def test_fenced_table_reads_like_the_table() -> None:
    """The table for machines that reorder loads has the same generations."""
    table = FencedTable(memoryview(bytearray(16)).cast("Q"))
    assert (table[1], len(table)) == (0, 2)


def _read_places(handle: Any, pipe: Connection) -> None:
    """In the child: read each place that is sent; report wrong bytes (0 expected), good and stale reads."""
    reader = ArenaReader(handle if isinstance(handle, int) else handle.detach())
    wrong = good = stale = 0
    while (item := pipe.recv()) is not None:
        place = Place(*item[:4])
        copy = bytes(view(reader, place))
        if not is_current(reader, place):
            stale += 1
        elif copy == bytes([item[4]]) * place.length:
            good += 1
        else:
            wrong += 1
        pipe.send(place.slot)
    pipe.send((wrong, good, stale))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_reads_while_owner_evicts(method: str) -> None:
    """A child never takes a wrong byte for a good one while the owner frees and rewrites under it."""
    context: Any = multiprocessing.get_context(method)
    arena = Arena(1 << 20, max_entries=64)
    here, there = context.Pipe()
    handle = arena.fd if method == "fork" else _SpawnHandle(arena.fd)
    child = context.Process(target=_read_places, args=(handle, there))
    child.start()
    stop = threading.Event()
    lock = threading.Lock()
    live: list[tuple[Place, int]] = []

    def churn() -> None:
        value = 0
        while not stop.is_set():
            value = (value + 1) % 251
            with lock:
                place = write(arena, [bytes([value]) * 100_000])
                if place is None:
                    arena.free(live.pop(0)[0])
                else:
                    live.append((place, value))

    writer = threading.Thread(target=churn)
    writer.start()
    try:
        for _ in range(2000):
            with lock:
                item = live[0] if live else None
            if item is not None:
                here.send((*item[0], item[1]))
                here.recv()
    finally:
        stop.set()
        writer.join()
    here.send(None)
    wrong, good, stale = here.recv()
    child.join()
    assert child.exitcode == 0
    assert wrong == 0
    assert good > 0
    assert stale > 0


class _SpawnHandle:
    """A descriptor that is passed to a spawned child while it starts."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> Any:
        return _identity, (DupFd(self.fd),)


def _identity(handle: Any) -> Any:
    return handle
