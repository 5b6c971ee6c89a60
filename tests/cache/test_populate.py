"""Pages of the arena are in memory before they are needed, and not many more than that."""

from __future__ import annotations

import multiprocessing
import os
import threading
from typing import Any

import pytest

from streaming.cache import SmartLRUCache
from streaming.cache.arena import Arena

MIB = 1 << 20
AHEAD = 4 * MIB  # the 32nd part of the arena below


def finish() -> None:
    """Wait for the threads that populate now."""
    for thread in threading.enumerate():
        if thread.name == "streaming-populate":
            thread.join(60)
            assert not thread.is_alive()


def resident(arena: Arena) -> int:
    """Return the bytes of the arena that are in memory."""
    return os.fstat(arena.fd).st_blocks * 512


def test_some_memory_is_populated_ahead_of_the_first_entries() -> None:
    """Nothing before the first admission; then what is used and a 32nd of the arena, within a step of a page or two."""
    arena = Arena(128 * MIB, max_entries=512)
    finish()
    assert resident(arena) == 0
    place = arena.allocate(100)
    assert place is not None
    finish()
    assert AHEAD <= resident(arena) <= AHEAD + 3 * 4096
    used = 100
    while used < 100 * MIB:
        place = arena.allocate(MIB)
        assert place is not None
        arena.fill(place, [b"x" * MIB])
        used += MIB
        finish()
        assert used + AHEAD // 4 <= resident(arena) <= used + AHEAD + 8 * 4096
    arena.close()


def test_the_whole_arena_is_the_limit() -> None:
    """With all of it in use, no more than the arena is in memory, and no thread is left."""
    arena = Arena(32 * MIB, max_entries=512)
    while arena.allocate(MIB) is not None:
        finish()
    assert resident(arena) == arena.size
    assert not any(thread.name == "streaming-populate" for thread in threading.enumerate())


def test_a_small_cache_populates_nothing() -> None:
    """The share of a small cache is not worth a thread: only pages with entries are in memory."""
    cache = SmartLRUCache(max_size_bytes=4 * MIB)
    cache.put_nowait("k", 1)
    finish()
    assert resident(cache.arena) <= 3 * 4096


def test_memory_that_was_given_back_is_populated_again() -> None:
    """After `clear` memory is small, and the next entry populates as the first did."""
    cache = SmartLRUCache(max_size_bytes=128 * MIB, compression_type="none")
    for turn in range(3):
        cache.put_nowait("k", [turn, b"x" * MIB])
        finish()
        assert AHEAD // 2 <= resident(cache.arena) <= AHEAD + 2 * MIB
        assert cache.get_nowait("k")[0] == turn
        cache.clear()
        assert resident(cache.arena) <= 3 * 4096


def test_closing_ends_it() -> None:
    """An arena that is closed while it is populated stops at once."""
    for _ in range(50):
        arena = Arena(1024 * MIB)
        arena.allocate(100)
        arena.close()
    finish()


def _use_inherited(cache: SmartLRUCache, answer: Any) -> None:
    answer.send(cache.arena.fd >= 0)
    cache.arena.close()
    answer.send("closed")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_needs_no_thread() -> None:
    """A child that was forked while memory is populated closes its copy without waiting for a thread."""
    context = multiprocessing.get_context("fork")
    cache = SmartLRUCache(max_size_bytes=2048 * MIB)
    here, there = context.Pipe()
    cache.put_nowait("k", 1)
    child = context.Process(target=_use_inherited, args=(cache, there))
    child.start()
    assert here.poll(60)
    assert here.recv() is True
    assert here.poll(60)
    assert here.recv() == "closed"
    child.join(60)
    assert child.exitcode == 0
    finish()
    assert cache.get_nowait("k") == 1
