"""Bodies of answers, of which no more is taken in than was announced.

A length in a header is a claim: obstore reads on where a chunked body passes it. So bodies come as streams, which are
given up at the first byte too many. With obstore that takes 5 to 15 us more for 20 kB and 40 us more for 100 kB than
its own `bytes_async`, of 130 and 150 us (medians, uvloop, loopback, 2 busy cores).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from streaming.errors import ObjectChanged, TruncatedRead
from streaming.sources.base import Buffer, beyond_object

__all__ = ["check_nothing_left", "of_aiohttp", "of_obstore", "wrong_length"]

ONE_PIECE = 4_000_000  # bytes; obstore joins a piece while it holds the interpreter lock, about 1 ms for so many


class _Content(Protocol):
    def iter_any(self) -> AsyncIterator[bytes]: ...


async def of_obstore(answer: Any, length: int) -> Buffer:
    """The body of a `GetResult` of which `length` bytes are expected.

    Returns:
        That many bytes; fewer, or some bytes more, where the server sends something else than it announced.
    """
    if length <= ONE_PIECE:
        # An honest body never reaches the size of a piece, so that it comes as a whole with its end.
        async for piece in answer.stream(min_chunk_size=length + 1):
            return memoryview(piece)
        return b""
    data = bytearray()
    async for piece in answer.stream(min_chunk_size=ONE_PIECE):
        data += piece
        if len(data) > length:
            break
    return memoryview(data).toreadonly()


async def of_aiohttp(content: _Content, length: int) -> bytes:
    """As `of_obstore`, for the content of an answer of aiohttp."""
    parts, came = [], 0
    async for part in content.iter_any():
        parts.append(part)
        came += len(part)
        if came > length:
            break
    return parts[0] if len(parts) == 1 else b"".join(parts)


def wrong_length(path: str, came: int, length: int, source: str) -> TruncatedRead:
    """The error for a body that is shorter or longer than was announced."""
    told = f"{came} of {length} bytes came" if came < length else f"more than the announced {length} bytes came"
    return TruncatedRead(f"{path!r} of source {source!r}: {told}; read it again", path=path, source=source)


def check_nothing_left(path: str, start: int, end: int | None, size: int, source: str) -> None:
    """Check that an object of `size` bytes has none from `start` to `end`, as its server says.

    Raises:
        BadRequest: if `start` is beyond the object.
        ObjectChanged: if the object does have bytes there.
    """
    if start > size:
        raise beyond_object(path, start, size, source)
    if start < size and end != start:
        text = f"the server of source {source!r} refused bytes from {start} of {path!r}, which has {size}"
        raise ObjectChanged(f"{text}; list the source again", path=path, source=source)
