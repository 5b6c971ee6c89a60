"""Read bodies of answers, and never more bytes than were announced.

A length in a header is not trusted: obstore reads a chunked body past it. So bodies are read as streams, which are
dropped at the first surplus byte. With obstore that takes 5 to 15 us more for 20 kB, and 40 us more for 100 kB, than
its `bytes_async` with 130 and 150 us (medians, uvloop, loopback, 2 busy cores).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from streaming.errors import ObjectChanged, TruncatedRead
from streaming.sources.base import Buffer, beyond_object

__all__ = ["check_nothing_left", "length_mismatch", "read_aiohttp_body", "read_obstore_body"]

ONE_PIECE = 4_000_000  # bytes; obstore joins a piece while it holds the interpreter lock, about 1 ms for this size


class _Content(Protocol):
    def iter_any(self) -> AsyncIterator[bytes]: ...


async def read_obstore_body(answer: Any, length: int) -> Buffer:
    """Read the body of a `GetResult`, of which `length` bytes are expected.

    Returns:
        These bytes; fewer or some more if the server does not send what it announced.
    """
    if length <= ONE_PIECE:
        # A correct body is smaller than a piece, so it comes as a whole at its end.
        async for piece in answer.stream(min_chunk_size=length + 1):
            return memoryview(piece)
        return b""
    data = bytearray()
    async for piece in answer.stream(min_chunk_size=ONE_PIECE):
        data += piece
        if len(data) > length:
            break
    return memoryview(data).toreadonly()


async def read_aiohttp_body(content: _Content, length: int) -> bytes:
    """Do as `read_obstore_body`, for the content of an answer of aiohttp."""
    parts, came = [], 0
    async for part in content.iter_any():
        parts.append(part)
        came += len(part)
        if came > length:
            break
    return parts[0] if len(parts) == 1 else b"".join(parts)


def length_mismatch(path: str, came: int, length: int, source: str) -> TruncatedRead:
    """Return the error for a body that is shorter or longer than announced."""
    message = f"{came} of {length} bytes came" if came < length else f"more than the announced {length} bytes came"
    return TruncatedRead(f"{path!r} of source {source!r}: {message}; read it again", path=path, source=source)


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
