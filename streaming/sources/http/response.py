"""Ranges and content encodings of requests and answers."""

from __future__ import annotations

import zlib

import aiohttp

from streaming.errors import TruncatedRead
from streaming.sources import header_values
from streaming.sources.base import too_large

__all__ = ["WholeObjectSent", "content_range", "decompress_body", "range_header"]


class WholeObjectSent(Exception):
    """The server answered a range with the whole object."""


def range_header(start: int, end: int | None) -> dict[str, str]:
    """Return the header for a part. HTTP has no empty ranges: one byte is requested, which brings the size too."""
    if not start and end is None:
        return {}
    return {"Range": f"bytes={start}-" if end is None else f"bytes={start}-{max(end - 1, start)}"}


def content_range(answer: aiohttp.ClientResponse) -> header_values.ContentRange:
    """Parse the Content-Range of an answer."""
    return header_values.content_range(answer.headers.get("Content-Range"))


def decompress_body(packed: bytes, path: str, source: str, limit: int) -> bytes:
    """Decompress a body with content encoding gzip or deflate.

    Raises:
        ObjectTooLargeError: if the result is larger than `limit`; decompression stops there.
        TruncatedRead: if it is damaged or ends early.
    """
    unpacker = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # detects gzip or zlib
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
