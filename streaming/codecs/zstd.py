"""Zstandard around any other format: one or more frames, each with or without its size.

A frame that declares its size is checked against the limit, then decompressed in one call into exactly that much
memory (58 us for 2.6 MB). Other frames are decompressed in pieces small enough that the output cannot exceed the limit
unnoticed. Contexts are not thread-safe: each thread keeps one, without a window buffer.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from streaming.codecs.base import Buffer, Codec
from streaming.errors import DecodeError, ObjectTooLargeError, TruncatedData

if TYPE_CHECKING:
    import zstandard

LEVEL = 3
# 128 MiB, the limit of the zstd command without --long; a frame could declare terabytes.
_MAX_WINDOW_BYTES = 1 << 27
# A block of 4 bytes can expand to 128 KiB, the format's highest ratio.
_MAX_RATIO = 32 * 1024
_PIECE_BYTES = (512, 256 * 1024)
_UNKNOWN_SIZE = 2**64 - 1
_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"

_thread = threading.local()


def decompress(data: Buffer, max_bytes: int) -> bytes:
    """Decompress all frames, joined.

    Raises: ObjectTooLargeError: if more than `max_bytes` are declared or come out, or the window is over 128 MiB.
    TruncatedData: if the last frame is incomplete. DecodeError: for damage and for bytes after the last frame.
    """
    import zstandard

    _check_start(data)
    try:
        frame = zstandard.get_frame_parameters(data)
        # An empty frame takes the slow path, as the fast one would not look behind it.
        if _is_plain(data) and 0 < frame.content_size < _UNKNOWN_SIZE:
            if frame.content_size > max_bytes:
                raise ObjectTooLargeError(f"declares {frame.content_size:,} bytes, the limit is {max_bytes:,}")
            if frame.content_size > _MAX_RATIO * len(data):
                raise TruncatedData(f"declares {frame.content_size:,} bytes, more than {len(data):,} can hold")
            try:
                return _decompressor().decompress(data, allow_extra_data=False)
            except zstandard.ZstdError as exc:
                if "unused data" not in str(exc):
                    raise
        return _decompress_frames(data, max_bytes)
    except zstandard.ZstdError as exc:
        raise _explain(exc) from exc


def compress(data: bytes) -> bytes:
    """Compress into one frame of level 3, with its size and a checksum."""
    # A copy: what one-shot compression returns keeps its whole worst-case allocation.
    return memoryview(_compressor().compress(data)).tobytes()


def wrap(inner: Codec) -> Codec:
    """Return the codec for `inner`'s suffixes followed by `.zst`."""

    def decode(data: Buffer, max_bytes: int) -> Any:
        return inner.decode(decompress(data, max_bytes), max_bytes)

    def encode(sample: Any) -> bytes:
        return compress(inner.encode(sample))

    suffixes = tuple(f"{suffix}.zst" for suffix in inner.suffixes)
    return Codec(
        name=f"{inner.name}.zst",
        suffixes=suffixes,
        decode=decode,
        encode=encode,
        default_max_bytes=inner.default_max_bytes,
        inner=inner,
    )


def _is_plain(data: Buffer) -> bool:
    return data[:4] == _MAGIC


def _check_start(data: Buffer) -> None:
    start = bytes(data[:4])
    if len(start) < 4 and (_MAGIC.startswith(start) or start[1:] == _SKIPPABLE[: len(start) - 1]):
        raise TruncatedData(f"ends within the header of a zstd frame, at byte {len(start)}")
    if start != _MAGIC and not (start[1:] == _SKIPPABLE and 0x50 <= start[0] <= 0x5F):
        raise DecodeError(f"is not a zstd frame: starts with {start!r}")


def _decompress_frames(data: Buffer, max_bytes: int) -> bytes:
    import zstandard

    view = memoryview(data)
    # A context of its own: streaming allocates a buffer as large as the window, which a cached context would keep.
    context = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    output: list[bytes] = []
    total = position = 0
    while position < len(view):
        if position:
            _check_start(view[position : position + 4])
        frame = context.decompressobj()
        size = _PIECE_BYTES[0]
        while not frame.eof:
            if position >= len(view):
                raise TruncatedData(f"ends within a zstd frame, after {total:,} bytes of output")
            piece = view[position : position + min(size, _piece_bytes(max_bytes - total))]
            size *= 2  # what follows the frame is copied each time, so pieces start small
            output.append(frame.decompress(piece))
            position += len(piece) - len(frame.unused_data)
            total += len(output[-1])
            if total > max_bytes:
                raise ObjectTooLargeError(f"holds more than the limit of {max_bytes:,} bytes")
    return b"".join(output)


def _piece_bytes(budget: int) -> int:
    """Return the most input whose output fits the budget in any case."""
    low, high = _PIECE_BYTES
    return min(max(budget // _MAX_RATIO, low), high)


def _explain(exc: zstandard.ZstdError) -> DecodeError:
    text = str(exc)
    if "did not decompress full frame" in text or "not enough data" in text:
        return TruncatedData("ends within a zstd frame")
    if "too much memory" in text:
        return ObjectTooLargeError(
            f"asks for a window of more than {_MAX_WINDOW_BYTES:,} bytes; compress it without --long"
        )
    return DecodeError(f"is a damaged zstd frame: {text}")


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_thread, "decompressor"):
        import zstandard

        _thread.decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    context: zstandard.ZstdDecompressor = _thread.decompressor
    return context


def _compressor() -> zstandard.ZstdCompressor:
    if not hasattr(_thread, "compressor"):
        import zstandard

        _thread.compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
    context: zstandard.ZstdCompressor = _thread.compressor
    return context
