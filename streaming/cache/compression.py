"""zstd where it pays. A short trial per kind of sample decides, so that random floats cost next to nothing."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any, NamedTuple, cast

import zstandard

from streaming.cache.dictionary import HEADERS
from streaming.cache.flat import Buffer, Encoded, as_text, encode
from streaming.errors import ConfigError

LEVEL = 3
MIN_RATIO = 1.2  # below this, decompressing each hit costs more than the room is worth
TEXT_GAIN = 0.96  # JSON text is stored where it is this much smaller, as decoding it takes twice as long
_MIN_BYTES = 128  # below two cache lines there is nothing to save
_SLICES = 3
_SLICE_BYTES = 64 * 1024
_FIRST_TRIALS = 3  # the first entries of a kind are always tried
_RETRY_EVERY = 64  # one entry in this many is tried afterwards
_MAX_KINDS = 1024
_SMALL_FRAME = 4096  # smaller frames are also tried with the dictionary, as headers are a large part of them


class _Tools:
    """Compressors of one thread, as python-zstandard's objects are not thread-safe."""

    def __init__(self) -> None:
        self.plain = zstandard.ZstdCompressor(level=LEVEL, write_dict_id=False)
        self.small = zstandard.ZstdCompressor(level=LEVEL, write_dict_id=False, dict_data=_dictionary)
        self.decompress = zstandard.ZstdDecompressor(dict_data=_dictionary).decompress


_dictionary = zstandard.ZstdCompressionDict(HEADERS, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
_dictionary.precompute_compress(level=LEVEL)
_local = threading.local()


def _tools() -> _Tools:
    try:
        return cast(_Tools, _local.tools)
    except AttributeError:
        tools = _local.tools = _Tools()
        return tools


def _compress(data: Buffer) -> bytes:
    tools = _tools()
    frame = tools.plain.compress(data)
    if len(frame) >= _SMALL_FRAME:
        return frame
    return min(frame, tools.small.compress(data), key=len)


def decompress(frame: Buffer) -> bytes:
    """Return the bytes of a frame that `Compression` made. Any thread."""
    return _tools().decompress(frame)


class Entry(NamedTuple):
    """A sample encoded for `admit`: `nbytes` in `parts`, `raw_nbytes` before compression; `head` is 0 if compressed."""

    parts: list[Buffer]
    nbytes: int
    head: int
    raw_nbytes: int


class _Kind:
    """Results of the trials of one kind."""

    __slots__ = ("flat_bytes", "pays", "seen", "text_bytes")

    def __init__(self) -> None:
        self.seen = 0
        self.pays = False
        self.flat_bytes = 0
        self.text_bytes = 0

    def prefers_text(self) -> bool:
        return self.text_bytes < TEXT_GAIN * self.flat_bytes


class Compression:
    """Compresses payloads of kinds that pay. Thread-safe; the counts of a kind are approximate if threads race.

    Args:
        compression_type: "zstd" or "none".
    """

    def __init__(self, compression_type: str) -> None:
        if compression_type not in ("zstd", "none"):
            raise ConfigError(f"compression_type {compression_type!r} is unknown; use 'zstd' or 'none'")
        self.is_on = compression_type == "zstd"
        self._kinds: dict[Hashable, _Kind] = {}

    def encode(self, sample: Any, compress: bool) -> Entry:
        """Return a sample ready to store. Raises Unsupported if it holds types that cannot be stored flat."""
        encoded = encode(sample)
        frame = self.compress(encoded, sample) if compress else None
        if frame is None:
            return Entry(encoded.parts, encoded.nbytes, encoded.head, encoded.nbytes)
        return Entry([frame], len(frame), 0, encoded.nbytes)

    def compress(self, encoded: Encoded, sample: Any) -> bytes | None:
        """Return the payload as one zstd frame, or None if it is better stored as it is.

        The frame keeps the whole buffer that python-zstandard allocated: copy it soon.

        Args:
            encoded: result of `flat.encode`.
            sample: the sample that was encoded.
        """
        if not self.is_on or encoded.nbytes < _MIN_BYTES:
            return None
        kind = self._kind_of(encoded)
        kind.seen += 1
        is_trial = kind.seen <= _FIRST_TRIALS or kind.seen % _RETRY_EVERY == 0
        if is_trial:
            kind.pays = encoded.nbytes <= _SLICES * _SLICE_BYTES or _trial(encoded)
        if not kind.pays:
            return None
        frame = _smallest(encoded, sample, kind, is_trial)
        kind.pays = len(frame) * MIN_RATIO <= encoded.nbytes
        return frame if kind.pays else None

    def _kind_of(self, encoded: Encoded) -> _Kind:
        kind = self._kinds.get(encoded.kind)
        if kind is None:
            if len(self._kinds) >= _MAX_KINDS:
                self._kinds.clear()
            kind = self._kinds.setdefault(encoded.kind, _Kind())
        return kind


def _smallest(encoded: Encoded, sample: Any, kind: _Kind, is_trial: bool) -> bytes:
    """Return the frame in the form that is smaller for this kind; a trial makes both and compares them."""
    text = as_text(sample) if encoded.is_json and (is_trial or kind.prefers_text()) else None
    if text is None:
        return _compress(b"".join(encoded.parts))
    text_frame = _compress(text)
    if is_trial:
        frame = _compress(b"".join(encoded.parts))
        kind.flat_bytes += len(frame)
        kind.text_bytes += len(text_frame)
        if not kind.prefers_text():
            return frame
    return text_frame


def _trial(encoded: Encoded) -> bool:
    """Whether slices from the start, the middle and the end of the arrays compress well enough."""
    taken = packed = 0
    for part in _slices(encoded):
        taken += len(part)
        packed += len(_compress(part))
    return packed * MIN_RATIO <= taken


def _slices(encoded: Encoded) -> list[Buffer]:
    last = encoded.nbytes - _SLICE_BYTES
    wanted = [last * step // (_SLICES - 1) for step in range(_SLICES)]
    found: list[Buffer] = []
    start = 0
    for part in encoded.parts:
        end = start + len(part)
        while wanted and wanted[0] < end:
            at = wanted.pop(0) - start
            found.append(memoryview(part)[at : at + _SLICE_BYTES])
        start = end
    return found
