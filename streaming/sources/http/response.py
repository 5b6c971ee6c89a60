"""What an answer of a web server says beside its body, and what aiohttp's errors mean."""

from __future__ import annotations

import zlib

import aiohttp

from streaming.errors import TruncatedRead
from streaming.sources import header_values
from streaming.sources.base import too_large

__all__ = ["SentWhole", "content_range", "range_header", "unpacked"]


class SentWhole(Exception):
    """The server answered a range with the whole object."""


def range_header(start: int, end: int | None) -> dict[str, str]:
    """The header that asks for a part; an empty one cannot be asked for, and one byte brings the size too."""
    if not start and end is None:
        return {}
    return {"Range": f"bytes={start}-" if end is None else f"bytes={start}-{max(end - 1, start)}"}


def content_range(answer: aiohttp.ClientResponse) -> header_values.ContentRange:
    """What Content-Range tells."""
    return header_values.content_range(answer.headers.get("Content-Range"))


def unpacked(packed: bytes, path: str, source: str, limit: int) -> bytes:
    """What a body of the encoding gzip or deflate holds.

    Raises:
        ObjectTooLargeError: if that is more than `limit`, of which no more is unpacked.
        TruncatedRead: if it is damaged or ends early.
    """
    unpacker = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # finds out whether gzip or zlib
    try:
        data = unpacker.decompress(packed, limit + 1)
    except zlib.error as error:
        text = f"{path!r} of source {source!r} came in a damaged encoding: {error}; read it again"
        raise TruncatedRead(text, path=path, source=source) from error
    if len(data) > limit:
        raise too_large(path, len(data), limit, source)
    if not unpacker.eof:
        text = f"{path!r} of source {source!r} came in an encoding that ends early; read it again"
        raise TruncatedRead(text, path=path, source=source)
    return data
