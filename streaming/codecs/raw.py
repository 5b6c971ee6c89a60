"""Raw bytes, and UTF-8 text.

These formats have no end marker, so only the size in the source's listing shows that an object is truncated.
"""

from __future__ import annotations

import re
from typing import Any

from streaming.codecs.base import Buffer, Codec
from streaming.codecs.limits import ALLOWANCE_BYTES, max_cost
from streaming.errors import DecodeError, ObjectTooLargeError, TruncatedData

# One character of the first kind makes each character of a text take 4 bytes, one of the second kind 2.
_WIDTHS = ((4, re.compile(rb"[\xf0-\xff]")), (2, re.compile(rb"[\xc4-\xff]")))
_CONTINUATIONS = bytes(range(0x80, 0xC0))


def decode_raw(data: Buffer, max_bytes: int) -> bytes:
    """Return the bytes; `bytes` are not copied."""
    return bytes(data)


def encode_raw(sample: Any) -> bytes:
    """Return the bytes of any buffer. Raises TypeError for anything else, such as an int."""
    return sample if isinstance(sample, bytes) else memoryview(sample).tobytes()


def decode_utf8(data: Buffer, max_bytes: int) -> str:
    """Decode strict UTF-8.

    Raises: ObjectTooLargeError: if the text takes more than `max_bytes` and 1 MiB in memory. TruncatedData: if the last
    character is incomplete. DecodeError: with the position, otherwise."""
    if 4 * len(data) > ALLOWANCE_BYTES and 4 * len(data) > max_cost(max_bytes):
        _check_width(data, max_bytes)
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as exc:
        if exc.reason == "unexpected end of data":
            raise TruncatedData(f"ends within a character, at byte {exc.start:,}") from exc
        raise DecodeError(f"is not UTF-8: byte 0x{data[exc.start]:02x} at {exc.start:,} ({exc.reason})") from exc


def _check_width(data: Buffer, max_bytes: int) -> None:
    width = next((width for width, pattern in _WIDTHS if pattern.search(data)), 1)
    if width * len(data) > max_cost(max_bytes):
        cost = width * len(bytes(data).translate(None, _CONTINUATIONS))
        if cost > max_cost(max_bytes):
            raise ObjectTooLargeError(f"is text that takes {cost:,} bytes in memory, the limit is {max_bytes:,}")


def decode_text(data: Buffer, max_bytes: int) -> str:
    """Decode text, including line ends and byte order mark. Raises as `decode_utf8`."""
    return decode_utf8(data, max_bytes)


def encode_text(sample: Any) -> bytes:
    """Encode a str as UTF-8. Raises TypeError for anything else."""
    if not isinstance(sample, str):
        raise TypeError(f"text holds a str, not {type(sample).__name__}")
    return sample.encode()


RAW = Codec(
    name="raw",
    suffixes=(".bin", ".raw", ".bytes", ".jpg", ".jpeg", ".png", ".webp", ".mp4", ".wav", ".flac", ".mp3"),
    decode=decode_raw,
    encode=encode_raw,
    is_trivial=True,
)
TEXT = Codec(name="text", suffixes=(".txt",), decode=decode_text, encode=encode_text)
