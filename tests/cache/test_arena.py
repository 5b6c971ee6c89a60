"""Places in the arena never overlap, come back whole, and go stale at once when freed."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
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


@settings(deadline=None)
@given(st.lists(st.tuples(SIZES, st.integers(0, 99)), max_size=120))
def test_blocks_never_overlap_and_coalesce(steps: list[tuple[int, int]]) -> None:
    """Whatever the order of taking and giving back, blocks are disjoint, and at the end there is one free block."""
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
    """Exactly all can be taken, and nothing beside it; after `clear` again."""
    allocator = Allocator(6400)
    assert allocator.allocate(6400) == 0
    assert allocator.allocate(1) is None
    allocator.clear()
    assert allocator.allocate(6400) == 0


def test_written_parts_are_read_back() -> None:
    """Parts lie one after the other, also those longer than one copying step."""
    arena = Arena(8 << 20)
    parts: list[bytes | bytearray] = [b"head", os.urandom(3 << 20), bytearray(b"tail"), b""]
    place = arena.write(parts)
    assert place is not None
    assert arena.view(place) == b"".join(parts)
    assert arena.is_current(place)
    reader = ArenaReader(arena)
    assert reader.view(place) == b"".join(parts)
    assert reader.view(place).readonly


def test_long_parts_into_room_that_was_used_before() -> None:
    """Room that is used again takes long and short parts as fresh room does, and so does trimmed room."""
    arena = Arena(4 << 20)
    for turn in range(4):
        parts = [b"%d" % turn, os.urandom(3 << 20), *[b"x"] * 1500]
        place = arena.write(parts)
        assert place is not None
        assert arena.view(place) == b"".join(parts)
        arena.free(place)
        if turn == 2:
            arena.trim()


def test_freed_places_are_stale_before_reuse() -> None:
    """After `free` the place is stale for owner and reader, also when the same room and slot hold something new."""
    arena = Arena(64, max_entries=1)
    reader = ArenaReader(arena.fd)
    old = arena.write([b"a" * 64])
    assert old is not None
    assert arena.write([b"b"]) is None
    arena.free(old)
    assert not arena.is_current(old)
    new = arena.write([b"b" * 64])
    assert new is not None
    assert (new.offset, new.slot) == (old.offset, old.slot)
    assert not reader.is_current(old)
    assert reader.is_current(new)


def test_slots_are_bounded() -> None:
    """With all slots in use nothing more is stored, and the room that was looked at is not lost."""
    arena = Arena(6400, max_entries=2)
    places = [arena.write([b"x"]), arena.write([b"y"])]
    assert arena.write([b"z"]) is None
    for place in places:
        assert place is not None
        arena.free(place)
    assert arena.free_blocks() == [(0, 6400)]


def test_trim_gives_pages_back() -> None:
    """Pages of freed ranges return to the system, those in use stay."""
    arena = Arena(8 << 20)
    kept = arena.write([b"k" * 100])
    gone = arena.write([b"g" * (4 << 20)])
    assert kept is not None
    assert gone is not None
    arena.free(gone)
    before = os.fstat(arena.fd).st_blocks
    arena.trim()
    assert os.fstat(arena.fd).st_blocks < before - 7000
    assert arena.view(kept) == b"k" * 100


def test_close_with_views_held() -> None:
    """Closing twice, while a view is held, does not fail, and the view stays readable."""
    arena = Arena(1 << 16)
    place = arena.write([b"data"])
    assert place is not None
    reader = ArenaReader(arena)
    views = [arena.view(place), reader.view(place)]
    for closable in (reader, arena, arena, reader):
        closable.close()
    assert views == [b"data", b"data"]


def test_memory_goes_with_the_last_user() -> None:
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
    """(mappings, descriptors) of arenas in this process."""
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
    """On machines that reorder loads the generations are the same, only ordered."""
    table = FencedTable(memoryview(bytearray(16)).cast("Q"))
    assert (table[1], len(table)) == (0, 2)


def _read_places(handle: Any, pipe: Connection) -> None:
    """In the child: read each place that comes; report wrong bytes (0 expected), good and stale reads."""
    reader = ArenaReader(handle if isinstance(handle, int) else handle.detach())
    wrong = good = stale = 0
    while (item := pipe.recv()) is not None:
        place = Place(*item[:4])
        copy = bytes(reader.view(place))
        if not reader.is_current(place):
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
                place = arena.write([bytes([value]) * 100_000])
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
    """A descriptor that travels to a spawned child while it starts."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> Any:
        return _identity, (DupFd(self.fd),)


def _identity(handle: Any) -> Any:
    return handle
