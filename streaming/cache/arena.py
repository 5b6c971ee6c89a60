"""Shared memory in which one process stores and others read, without locks between them.

Only the owner allocates and frees. Each stored range has a slot in a table of 64-bit generations at the head of the
mapping. Freeing a range increments its generation *before* the space can be used again. A reader copies first and
compares the generation afterwards (a seqlock): a copy whose generation has not changed is whole, any other is discarded
without decoding. A reader that is killed therefore leaves nothing to clean up.

The memory has no name: it is freed when the last process that maps it ends. Untouched pages cost nothing.
"""

from __future__ import annotations

import mmap
import os
import platform
import tempfile
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from streaming.cache.allocator import UNIT, Allocator
from streaming.errors import ConfigError

Buffer = bytes | bytearray | memoryview

_PAGE = mmap.PAGESIZE
_NOTHING = memoryview(b"")
_MOST_PARTS = 1024  # buffers that one system call takes
_CHUNK = 1 << 20  # bytes copied without letting other threads run: about 50 us
_TOTAL_ORDER = platform.machine().lower() in {"x86_64", "amd64", "i686", "i386"}  # loads are seen in program order


class Place(NamedTuple):
    """Where one payload is: byte `offset` in the mapping, `length`, and the generation that its `slot` must have."""

    offset: int
    length: int
    slot: int
    generation: int


def _anonymous_memory(nbytes: int) -> tuple[int, mmap.mmap]:
    """Return a descriptor of sparse unnamed memory and its mapping (a deleted file where there is no memfd)."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("streaming-cache")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        os.truncate(fd, nbytes)
        return fd, mmap.mmap(fd, nbytes)
    except OSError as exc:
        os.close(fd)
        raise ConfigError(f"cannot map {nbytes} bytes of shared memory: {exc}; choose a smaller cache") from exc


class Arena:
    """The owner's side: stores payloads. Not thread-safe: the cache holds its lock.

    Args:
        capacity_bytes: bytes of all payloads, each rounded up to 64.
        max_entries: most payloads at once; 8 bytes of table each.
    """

    fd = -1

    def __init__(self, capacity_bytes: int, max_entries: int = 1 << 20) -> None:
        self.capacity = capacity_bytes // UNIT * UNIT
        self._data = -(-max_entries * 8 // _PAGE) * _PAGE
        self.size = self._data + -(-max(self.capacity, 1) // _PAGE) * _PAGE
        self.fd, self._map = _anonymous_memory(self.size)
        self.memory = memoryview(self._map)
        self.generations = self.memory[: self._data].cast("Q")
        self._allocator = Allocator(self.capacity)
        self._slots: list[int] = []
        self._next_slot = 0
        self._max_entries = max_entries
        self._written = 0  # end of the highest place ever filled

    def allocate(self, nbytes: int) -> Place | None:
        """Take room for `nbytes`; None if no free range is long enough or all slots are in use."""
        slot = self._slots[-1] if self._slots else self._next_slot
        if slot >= self._max_entries:
            return None
        start = self._allocator.allocate(nbytes)
        if start is None:
            return None
        if self._slots:
            self._slots.pop()
        else:
            self._next_slot += 1
        return Place(self._data + start, nbytes, slot, self.generations[slot])

    def fill(self, place: Place, parts: Sequence[Buffer]) -> None:
        """Copy `parts`, one after the other, into a place that was not published yet."""
        if place.offset + place.length > self._written and self._write_new_pages(place, parts):
            return
        at = place.offset
        memory = self.memory
        for part in parts:
            size = len(part)
            if size <= _CHUNK:
                memory[at : at + size] = part
            else:
                view = memoryview(part)
                for start in range(0, size, _CHUNK):
                    piece = view[start : start + _CHUNK]
                    memory[at + start : at + start + len(piece)] = piece
            at += size

    def _write_new_pages(self, place: Place, parts: Sequence[Buffer]) -> bool:
        """Fill by a system call, which takes half the time of page faults where pages were never touched.

        Measured for 2.6 MB: 0.9 ms vs. 1.8 ms, with the GIL released; on touched pages a copy takes 0.2 ms.
        """
        self._written = max(self._written, place.offset + place.length)
        if len(parts) > _MOST_PARTS or not hasattr(os, "pwritev"):
            return False
        return os.pwritev(self.fd, parts, place.offset) == place.length

    def free(self, place: Place) -> None:
        """Make `place` stale for every reader, then its room available. Each place is freed once."""
        self.generations[place.slot] = place.generation + 1
        self._slots.append(place.slot)
        self._allocator.release(place.offset - self._data, place.length)

    def free_blocks(self) -> list[tuple[int, int]]:
        """Return (start, bytes) of each free range; one range when nothing is stored."""
        return self._allocator.free_blocks()

    def trim(self) -> None:
        """Give the pages of free ranges back to the system (Linux). Reusing them costs page faults."""
        remove = getattr(mmap, "MADV_REMOVE", None)
        if remove is None or self.fd < 0:
            return
        for start, size in self._allocator.free_blocks():
            first = -(-(self._data + start) // _PAGE) * _PAGE
            last = (self._data + start + size) // _PAGE * _PAGE
            if last > first:
                self._map.madvise(remove, first, last - first)
        self._written = 0

    def close(self) -> None:
        """Release the memory; views still held elsewhere keep it mapped until they are freed. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self.memory = self.generations = _NOTHING
            del self._map

    __del__ = close  # a descriptor, unlike a mapping, is not closed automatically


class ArenaReader:
    """A read-only mapping of an arena, in the owner or in another process.

    Args:
        arena: the `Arena` (after fork), or a descriptor of it (in a spawned process), which the caller closes.
    """

    def __init__(self, arena: Arena | int) -> None:
        fd = arena if isinstance(arena, int) else arena.fd
        self.memory = memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_READ))
        table = self.memory.cast("Q")
        self.generations: Sequence[int] | memoryview = table if _TOTAL_ORDER else FencedTable(table)

    def close(self) -> None:
        """Release the mapping; views still held elsewhere keep it until they are freed. Idempotent."""
        self.memory = self.generations = _NOTHING


class FencedTable(Sequence[int]):
    """The generations for machines that reorder loads: each is loaded after all loads before it."""

    def __init__(self, table: memoryview) -> None:
        self._table = table
        self._lock = threading.Lock()

    def __getitem__(self, slot: Any) -> Any:
        # A release followed by an acquire orders what came before against what comes after.
        with self._lock:
            pass
        with self._lock:
            pass
        return self._table[slot]

    def __len__(self) -> int:
        return len(self._table)
