"""Read a sample at its place in the arena: copy, check, and only then decode. The same in the owner and in workers."""

from __future__ import annotations

from collections.abc import Sequence
from marshal import loads
from typing import Any, Final

from streaming.cache.compression import decompress
from streaming.cache.flat import build, decode

STALE: Final[Any] = object()
"""Returned by a read whose entry was evicted meanwhile: look the key up again."""

PlaceTuple = tuple[int, int, int, int, int]
"""(offset, length, slot, generation, head): an arena `Place`, and the bytes to copy first, 0 if compressed."""


def load(memory: memoryview, generations: Sequence[int], place: PlaceTuple) -> Any:
    """Return the reader's own copy of the sample at `place`, or `STALE`. Never decodes bytes that may have changed."""
    offset, length, slot, generation, head = place
    if not head:
        frame = bytes(memory[offset : offset + length])
        return decode(decompress(frame)) if generations[slot] == generation else STALE
    small = bytearray(memory[offset : offset + head])
    if generations[slot] != generation:
        return STALE
    sample, table, tuples, _ = loads(small)
    if not table:
        return sample
    if head == length:
        return build(sample, table, tuples, head, small, small)
    sample = build(sample, table, tuples, head, small, memory[offset : offset + length])
    return sample if generations[slot] == generation else STALE
