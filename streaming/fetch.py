"""Make one sample: read its parts from their sources, decode, prepare, and lay a copy into the cache."""

from __future__ import annotations

import asyncio
import enum
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from streaming.cache.sample import SmartLRUCache
from streaming.codecs import codec_for, decode
from streaming.counters import Counters
from streaming.errors import ObjectChanged, PrepareError, StreamingError, TruncatedRead
from streaming.index import Row, SampleIndex
from streaming.pool import DecodePool
from streaming.sources.base import Blob, DataSource

__all__ = ["SampleFetcher"]


class _Marker(enum.Enum):
    IN_CACHE = "in cache"


IN_CACHE: Final = _Marker.IN_CACHE
"""What `load` returns for a large sample that is in the cache, from where a reader takes its copy."""

LARGE_BYTES = 256_000
"""From this size on, keeping the decoded sample for its reader costs more (page faults for memory that is not reused)
than a second copy out of the cache."""

UNKNOWN_BYTES = 8 * 2**20
MOST_PLANNED = 4096  # rows remembered between `nbytes` and `load`

INLINE_BYTES = 256_000
"""Up to this size, copying raw bytes on the event loop (about 20 microseconds) costs less than a hop to the pool."""


class SampleFetcher:
    """Loads samples by position. `load` belongs to the runtime's loop; decoding runs in the pool.

    Args:
        index: what the samples are made of.
        sources: those the index was built over, in the same order.
        cache: where each loaded sample is kept, under its position.
        prepare: deterministic function of a sample, run before the cache; None for none.
        pool: threads for decoding, and for sources whose reads block a thread.
        counters: bumped for each sample before it is kept.
        max_bytes: bound of one decoded object.

    Attributes:
        is_blocking: all sources merely block a thread, so that one pool job reads and decodes.
    """

    def __init__(
        self,
        index: SampleIndex,
        sources: Sequence[DataSource],
        *,
        cache: SmartLRUCache,
        prepare: Callable[[Any], Any] | None,
        pool: DecodePool,
        counters: Counters,
        max_bytes: int,
    ) -> None:
        self._index = index
        self._sources = sources
        self._cache = cache
        self._prepare = prepare
        self._pool = pool
        self._counters = counters
        self._max_bytes = max_bytes
        self._most_in_cache = cache.max_bytes // 256  # smaller than what is evicted before a reader comes
        self._planned: dict[int, tuple[Row, ...]] = {}
        self._largest = 0
        self._counting = threading.Lock()
        self._is_stored_plain = False  # the last sample did not compress, so the next will hardly take time for it
        self.is_blocking = all(source.read_blocking is not None for source in sources)

    def nbytes(self, position: int) -> int:
        """Bytes that this sample's parts have in their sources, to be asked before `load`.

        Where a listing gave no size: what the largest sample so far had, 8 MiB before the first.
        """
        rows = self._index.rows(position)
        if len(self._planned) >= MOST_PLANNED:
            self._planned.clear()
        self._planned[position] = rows
        lengths = [row.length for row in rows]
        return sum(lengths) if min(lengths) >= 0 else self._largest or UNKNOWN_BYTES

    async def load(self, position: int) -> Any:
        """Read, decode and prepare one sample, and keep a copy in the cache.

        Returns:
            The sample, owned by the caller, or `IN_CACHE`.

        Raises:
            SourceError: a part could not be read, or is not the object that was indexed.
            DecodeError: a part is not what its suffix says.
            PrepareError: `prepare` failed.
        """
        rows = self._planned.pop(position, None) or self._index.rows(position)
        if self.is_blocking:
            return await self._pool.run(self._load_blocking, position, rows)
        blobs = await self._read_all(rows)
        if self._is_cheap(rows, blobs):
            return self._finish(position, rows, blobs)
        return await self._pool.run(self._finish, position, rows, blobs)

    async def _read_all(self, rows: Sequence[Row]) -> list[Blob]:
        if len(rows) == 1:
            return [await self._read(rows[0])]
        reads = [asyncio.ensure_future(self._read(row)) for row in rows]
        try:
            return await asyncio.gather(*reads)
        except BaseException:
            for read in reads:
                read.cancel()
            raise

    async def _read(self, row: Row) -> Blob:
        return await self._sources[row.source].read(row.path, row.start, _end(row))

    def _count(self, rows: Sequence[Row], blobs: Sequence[Blob]) -> None:
        """Count a sample before a reader can see it, so that nobody has read more than was fetched."""
        nbytes = sum([len(blob.data) for blob in blobs])
        counters = self._counters
        with self._counting:
            self._largest = max(self._largest, nbytes)
            counters.samples_fetched += 1
            counters.objects_fetched += len(rows)
            counters.bytes_fetched += nbytes

    def _load_blocking(self, position: int, rows: Sequence[Row]) -> Any:
        blobs = []
        for row in rows:
            read = self._sources[row.source].read_blocking
            assert read is not None
            blobs.append(read(row.path, row.start, _end(row)))
        return self._finish(position, rows, blobs)

    def _is_cheap(self, rows: Sequence[Row], blobs: Sequence[Blob]) -> bool:
        return (
            self._prepare is None
            and sum([len(blob.data) for blob in blobs]) <= INLINE_BYTES
            and all(codec_for(row.path).is_trivial for row in rows)
            and self._is_stored_plain
        )

    def _finish(self, position: int, rows: Sequence[Row], blobs: Sequence[Blob]) -> Any:
        sample: Any = {}
        for row, blob in zip(rows, blobs, strict=True):
            source = self._sources[row.source].name
            self._check(row, blob, source)
            name = f"{row.path}.json" if row.path.lower().endswith(".jsonl") else row.path  # a row is one line of it
            sample[row.part] = decode(blob.data, name, max_bytes=self._max_bytes, source=source)
        sample["idx"] = position
        if self._prepare is not None:
            sample = self._run_prepare(position, sample)
            if type(sample) is dict:
                sample.setdefault("idx", position)
        self._count(rows, blobs)
        entry = self._cache.encode(sample)
        if entry is None or not self._cache.admit(position, entry):
            return sample
        self._is_stored_plain = is_plain = entry.nbytes == entry.raw_nbytes
        return IN_CACHE if is_plain and LARGE_BYTES <= entry.nbytes <= self._most_in_cache else sample

    def _check(self, row: Row, blob: Blob, source: str) -> None:
        if row.size >= 0 and blob.size != row.size:
            raise ObjectChanged(
                f"{row.path!r} of source {source!r} has {blob.size} bytes and had {row.size} when it was indexed; "
                "build the index anew to read the new object",
                path=row.path,
                source=source,
            )
        if row.length >= 0 and len(blob.data) != row.length:
            raise TruncatedRead(
                f"{row.path!r} of source {source!r} gave {len(blob.data)} of {row.length} bytes; read it again",
                path=row.path,
                source=source,
            )

    def _run_prepare(self, position: int, sample: Any) -> Any:
        assert self._prepare is not None
        try:
            return self._prepare(sample)
        except StreamingError:
            raise
        except Exception as exc:
            name = self._index.name(position)
            raise PrepareError(
                f"prepare failed on sample {position} ({name!r}): {type(exc).__name__}: {exc}", path=name
            ) from exc


def _end(row: Row) -> int | None:
    """Where the bytes of a row end; None for a whole object, which needs no range."""
    return None if row.start == 0 and row.length == row.size else row.start + row.length
