"""Find the lines of a `.jsonl` object. Each object is read once, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streaming.codecs.git_lfs import refuse_lfs_pointer
from streaming.errors import ObjectChanged, TruncatedRead

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streaming.sources.base import Buffer, DataSource

__all__ = ["Lines", "find_lines"]

CHUNK_BYTES = 8 * 2**20  # of one read: large enough to hide latency, small enough for memory
NEWLINE = 0x0A
SPACE = 0x20  # and below: white space around a JSON value


class Lines(NamedTuple):
    """The lines of one object, without blank ones.

    Attributes:
        starts: int64, first byte of each line.
        lengths: int64, bytes of each line without its newline.
        size: of the whole object in bytes.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    size: int


async def find_lines(source: DataSource, path: str, size: int, *, chunk_bytes: int = CHUNK_BYTES) -> Lines:
    """Read an object in chunks and find its lines.

    Args:
        size: as listed; -1 if unknown.

    Raises:
        ObjectChanged: if it has another size than listed, or changes while it is read.
        DecodeError: if it is a Git LFS pointer.
        SourceError: if it cannot be read.
    """
    finder = _Finder()
    if size == 0:
        return finder.finish()
    etag: str | None = None
    while finder.position < size or size < 0:
        blob = await source.read(path, finder.position, finder.position + chunk_bytes)
        if size < 0 or not finder.position:
            size, etag = (blob.size if size < 0 else size), blob.etag
        if blob.size != size or blob.etag != etag:
            text = f"{path!r} of source {source.name!r} changed while it was indexed; index it when it is complete"
            raise ObjectChanged(text, path=path, source=source.name)
        if not len(blob.data) and size:
            text = f"{path!r} of source {source.name!r} gave {finder.position} of {size} bytes; read it again"
            raise TruncatedRead(text, path=path, source=source.name)
        if not finder.position:
            refuse_lfs_pointer(blob.data, path, source.name)
        finder.add(blob.data)
    return finder.finish()


class _Finder:
    """Finds lines chunk by chunk; a line may span any number of chunks."""

    def __init__(self) -> None:
        self.position = 0
        self._starts = [np.zeros(1, np.int64)]
        self._has_text: list[NDArray[np.bool_]] = []
        self._open_line_has_text = False

    def add(self, data: Buffer) -> None:
        chunk = np.frombuffer(data, np.uint8)
        after = np.flatnonzero(chunk == NEWLINE) + 1
        begins = np.concatenate([np.zeros(1, after.dtype), after])
        is_open = not len(after) or after[-1] < len(chunk)
        # Each line has at least its newline, so none is empty, as `reduceat` requires.
        has_text = np.logical_or.reduceat(chunk > SPACE, begins if is_open else begins[:-1])
        has_text[0] |= self._open_line_has_text
        self._open_line_has_text = bool(has_text[-1]) if is_open else False
        self._has_text.append(has_text[: len(after)])
        self._starts.append(after + self.position)
        self.position += len(chunk)

    def finish(self) -> Lines:
        starts = np.concatenate(self._starts)
        # The end of the last line is where one more newline would be.
        lengths = np.diff(starts, append=self.position + 1) - 1
        kept = np.concatenate([*self._has_text, np.array([self._open_line_has_text])])
        return Lines(starts[kept], lengths[kept], self.position)
