"""A codec: two pure functions between the bytes of one object and one sample, chosen by the object's suffix.

Decoders never return a view of their input, as the buffer may be a shared cache entry or reused by a client. Sizes that
the data declares are compared with a limit before anything is allocated.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, cast

Buffer = bytes | bytearray | memoryview

# 8 GB: above any single sample seen, and below the memory of a training node.
DEFAULT_MAX_BYTES = 8 * 10**9

# Above this a reader over the caller's buffer is cheaper than a copy into BytesIO, which causes page faults: 230 vs.
# 2,300 us for 2.6 MB, and 152 vs. 136 us for 100 kB.
_COPY_BELOW_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Codec:
    """One format.

    Attributes:
        name: short and stable, for cache keys and metrics: "pt", "json", "json.zst".
        suffixes: lower case, each with its leading dot.
        decode: `(data, max_bytes) -> sample`, in memory of its own; called in any thread. `data` is flat and at most
            `max_bytes` long, and the sample takes at most 1 MiB more (see `limits`). Raises a `DecodeError` with the
            reason, and after "; " the next step if the codec has one; `streaming.codecs.decode` adds the names.
        encode: `sample -> bytes`. Raises TypeError if the format cannot hold the sample.
        view: like `decode`, but tensors may be views of `data`, which is writable; for callers that copy them at once.
            None if the format does not support this.
        default_max_bytes: the limit if the caller's is `DEFAULT_MAX_BYTES`.
        is_trivial: decoding costs no more than one copy, so it may run on an event loop.
        inner: of a format inside zstd, the codec of the decompressed bytes; None for every other format.
    """

    name: str
    suffixes: tuple[str, ...]
    decode: Callable[[Buffer, int], Any]
    encode: Callable[[Any], bytes]
    is_trivial: bool = False
    view: Callable[[memoryview, int], Any] | None = None
    default_max_bytes: int = DEFAULT_MAX_BYTES
    inner: Codec | None = None


def as_buffer(data: Any) -> Buffer:
    """Return `data` if it is bytes, else a flat view of its bytes. Raises TypeError if it has no buffer."""
    if isinstance(data, (bytes, bytearray)):
        return data
    view = memoryview(data)
    return view if view.format == "B" and view.ndim == 1 and view.contiguous else view.cast("B")


def open_buffer(data: Buffer) -> IO[bytes]:
    """Return a seekable binary file over `data`; large buffers and `bytes` are not copied."""
    if isinstance(data, bytes) or len(data) < _COPY_BELOW_BYTES:
        return io.BytesIO(data)
    return cast(IO[bytes], ViewReader(data))


class ViewReader(io.RawIOBase):
    """A read-only file over a buffer that it does not copy."""

    def __init__(self, data: Buffer) -> None:
        self._view = memoryview(data)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = (0, self._position, len(self._view))[whence]
        if origin + offset < 0:
            raise ValueError(f"position {origin + offset} is before the start")
        self._position = origin + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        end = len(self._view) if size is None or size < 0 else self._position + size
        part = self._view[self._position : end].tobytes()
        self._position += len(part)
        return part

    def readinto(self, target: Any) -> int:
        part = self._view[self._position : self._position + len(target)]
        target[: len(part)] = part
        self._position += len(part)
        return len(part)
