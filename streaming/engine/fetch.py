"""Make one sample: read its parts from their sources, decode, prepare, and store a copy in the cache."""

from __future__ import annotations

import asyncio
import enum
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from itertools import accumulate
from time import perf_counter
from typing import Any, Final

from streaming.cache.budget import UNKNOWN_BYTES
from streaming.cache.reservation import Reservation
from streaming.cache.sample import SmartLRUCache
from streaming.codecs import decode, decode_timed
from streaming.engine.decode_pool import DecodePool
from streaming.engine.replicas import ReplicaReader
from streaming.errors import DecodeError, ObjectChanged, PrepareError, StreamingError, TruncatedRead
from streaming.index import Row, SampleIndex
from streaming.sources.base import Blob
from streaming.telemetry.counters import Counters
from streaming.telemetry.timelines import Timelines

__all__ = ["SampleFetcher"]


class _Marker(enum.Enum):
    IN_CACHE = "in cache"


IN_CACHE: Final = _Marker.IN_CACHE
"""The result of `load` for a large sample: it is in the cache, where the reader takes its copy."""

LARGE_BYTES = 256_000
"""From this size on, keeping the decoded sample for its reader costs more (page faults for memory that is not reused)
than a second copy out of the cache."""

MOST_PLANNED = 4096  # rows remembered between `nbytes` and `load`

INLINE_BYTES = 256_000
INLINE_S = 0.000_2
"""Samples of up to this size, whose decoding recently took less than this, are decoded on the event loop: a hop to the
pool costs 50 to 100 us of thread switches, and the interpreter's lock would be held there too."""

_LINE = "line.json"  # chooses the codec of a line
_AVERAGED = 4  # timed samples in the average
_TIMED_EVERY = 8  # samples: a thread's own clock takes 1 to 16 us


class SampleFetcher:
    """Loads samples by position. `load` belongs to the runtime's loop; decoding runs in the pool.

    Args:
        index: what the samples are made of.
        reader: reads the bytes of a row from a replica that can serve it.
        cache: where each loaded sample is kept, under its position.
        prepare: deterministic function of a sample, run before the cache; None for none.
        pool: threads for decoding, and for sources whose reads block a thread.
        counters: count each sample before it is stored.
        max_bytes: size limit of one decoded object.

    Attributes:
        timelines: the timelines of the most recent samples.
        prefetching: positions that are loaded for no reader yet: their first read is a prefetch hit.
    """

    def __init__(
        self,
        index: SampleIndex,
        reader: ReplicaReader,
        *,
        cache: SmartLRUCache,
        prepare: Callable[[Any], Any] | None,
        pool: DecodePool,
        counters: Counters,
        max_bytes: int,
    ) -> None:
        self._index = index
        self._reader = reader
        self._cache = cache
        self._prepare = prepare
        self._pool = pool
        self._counters = counters
        self._max_bytes = max_bytes
        self._most_in_cache = cache.max_bytes // 256  # smaller than what is evicted before a reader comes
        self._planned: dict[int, tuple[Row, ...]] = {}
        self._largest = 0
        self._counting = threading.Lock()
        self._scratch = threading.local()
        self._finish_s = INLINE_S  # recent average, from the bytes of a sample to its place in the cache
        self._is_stored_plain = False  # the last sample did not compress, so the next will hardly take time for it
        self.timelines = Timelines()
        self.prefetching: set[int] = set()

    def nbytes(self, position: int) -> int:
        """Return the bytes that this sample's parts have in their sources; called before `load`.

        If a listing gave no size: those of the largest sample so far, 8 MiB before the first.
        """
        rows = self._planned.get(position)
        if rows is None:
            if len(self._planned) >= MOST_PLANNED:
                self._planned.clear()
            rows = self._planned[position] = self._index.rows(position)
        lengths = [row.length for row in rows]
        return sum(lengths) if min(lengths) >= 0 else self._largest or UNKNOWN_BYTES

    def load(self, position: int, reservation: Reservation | None) -> asyncio.Future[Any] | Coroutine[Any, Any, Any]:
        """Read, decode and prepare one sample, and keep a copy in the cache; await the result.

        Args:
            position: of the sample.
            reservation: room in the cache for it; None if there is none.

        Returns:
            The sample, owned by the caller, or `IN_CACHE`.

        Raises:
            SourceError: a part could not be read, or is not the object that was indexed.
            DecodeError: a part is not what its suffix says.
            PrepareError: `prepare` failed.
        """
        rows = self._planned.pop(position, None) or self._index.rows(position)
        if self._reader.is_blocking:
            return self._pool.run(self._load_blocking, position, rows, reservation, perf_counter())
        return self._load(position, rows, reservation)

    async def _load(self, position: int, rows: Sequence[Row], reservation: Reservation | None) -> Any:
        began = perf_counter()
        blobs = [await self._reader.read(rows[0])] if len(rows) == 1 else await self._read_all(rows)
        read = perf_counter()
        if self._is_short(blobs):
            return self._finish(position, rows, blobs, reservation, (began, read, read, read))
        return await self._pool.run(self._finish, position, rows, blobs, reservation, (began, read, None, read))

    async def _read_all(self, rows: Sequence[Row]) -> list[Blob]:
        reads = [asyncio.ensure_future(self._reader.read(row)) for row in rows]
        try:
            return await asyncio.gather(*reads)
        except BaseException:
            for read in reads:
                read.cancel()
            raise

    def _count(self, rows: Sequence[Row], blobs: Sequence[Blob]) -> None:
        """Count a sample before a reader can see it, so that never more is read than was fetched."""
        nbytes = sum([len(blob.data) for blob in blobs])
        counters = self._counters
        with self._counting:
            self._largest = max(self._largest, nbytes)
            counters.samples_fetched += 1
            counters.objects_fetched += len(rows)
            counters.bytes_fetched += nbytes

    def _load_blocking(self, position: int, rows: Sequence[Row], reservation: Reservation | None, began: float) -> Any:
        buffers = self._buffers(rows)
        started = read = perf_counter()
        blobs = []
        for row, buffer in zip(rows, buffers, strict=True):
            blob, read = self._reader.read_blocking(row, buffer, read)
            blobs.append(blob)
        passed = (began, began, started, read)
        return self._finish(position, rows, blobs, reservation, passed, may_view=buffers[0] is not None)

    def _buffers(self, rows: Sequence[Row]) -> list[memoryview] | list[None]:
        """Return this thread's memory for each part of a large sample that goes through the cache; else None for each.

        Reusing memory saves a sample of 2.6 MB a thousand page faults.
        """
        lengths = [row.length for row in rows]
        total = sum(lengths)
        goes_through_cache = self._prepare is None and self._is_stored_plain
        if not goes_through_cache or min(lengths) < 0 or not LARGE_BYTES <= total <= self._most_in_cache:
            return [None] * len(rows)
        scratch = getattr(self._scratch, "memory", None)
        if scratch is None or len(scratch) < total:
            scratch = self._scratch.memory = memoryview(bytearray(total))
        ends = list(accumulate(lengths))
        return [scratch[end - length : end] for end, length in zip(ends, lengths, strict=True)]

    def _is_short(self, blobs: Sequence[Blob]) -> bool:
        return (
            self._prepare is None
            and self._finish_s < INLINE_S
            and sum([len(blob.data) for blob in blobs]) <= INLINE_BYTES
        )

    def _finish(
        self,
        position: int,
        rows: Sequence[Row],
        blobs: Sequence[Blob],
        reservation: Reservation | None,
        passed: tuple[float, float, float | None, float],
        *,
        may_view: bool = False,
    ) -> Any:
        """Turn the bytes into a sample in the cache.

        Args:
            passed: the moments at which its load began, it began to wait for a thread, got one (None: now), and its
                bytes had arrived.
        """
        began, queued, got_thread, read = passed
        if got_thread is None:
            got_thread = perf_counter()
        is_timed = position % _TIMED_EVERY == 0
        started = time.thread_time() if is_timed else 0.0
        for row, blob in zip(rows, blobs, strict=True):
            self._check(row, blob)
        sample, decompress_s = self._decode(position, rows, blobs, may_view)
        prepared = decoded = perf_counter()
        if self._prepare is not None:
            sample = self._run_prepare(position, sample)
            if type(sample) is dict:
                sample.setdefault("idx", position)
            prepared = perf_counter()
        self._count(rows, blobs)
        entry = self._cache.encode(sample)
        if entry is not None:
            prefetched = position in self.prefetching
            if not self._cache.admit(position, entry, prefetched=prefetched, reservation=reservation):
                entry = None
        if is_timed:
            seconds = min(time.thread_time() - started, 2 * INLINE_S)  # an outlier must not decide
            self._finish_s += (seconds - self._finish_s) / _AVERAGED
        self.timelines.note(
            (position, began, queued, got_thread, read, decoded, prepared, perf_counter(), decompress_s)
        )
        if entry is not None:
            self._is_stored_plain = is_plain = entry.nbytes == entry.raw_nbytes
            if is_plain and LARGE_BYTES <= entry.nbytes <= self._most_in_cache:
                return IN_CACHE
        return self._decode(position, rows, blobs, False)[0] if may_view else sample

    def _decode(
        self, position: int, rows: Sequence[Row], blobs: Sequence[Blob], may_view: bool
    ) -> tuple[dict[str, Any], float]:
        """Return the sample, and how many seconds its decompression took."""
        sample: dict[str, Any] = {}
        decompress_s = 0.0
        for row, blob in zip(rows, blobs, strict=True):
            source = self._reader.source_of(row).name
            if row.path.lower().endswith(".jsonl"):
                sample[row.part] = self._decode_line(position, row, blob, source)
            else:
                sample[row.part], seconds = decode_timed(
                    blob.data, row.path, max_bytes=self._max_bytes, source=source, may_view=may_view
                )
                decompress_s += seconds
        sample["idx"] = position
        return sample, decompress_s

    def _decode_line(self, position: int, row: Row, blob: Blob, source: str) -> Any:
        try:
            return decode(blob.data, _LINE, max_bytes=self._max_bytes)
        except DecodeError as exc:
            place = f"the line at byte {row.start:,} of {row.path!r} in source {source!r}"
            text = str(exc).removeprefix(f"{_LINE!r}, ")
            raise type(exc)(
                f"sample {self._index.name(position)!r}, {place}, {text}", path=row.path, source=source
            ) from exc.__cause__

    def _check(self, row: Row, blob: Blob) -> None:
        source = self._reader.source_of(row).name
        if row.size >= 0 and blob.size != row.size:
            raise ObjectChanged(
                f"{row.path!r} of source {source!r} has {blob.size} bytes and had {row.size} when it was indexed; "
                "build the index again to read the new object",
                path=row.path,
                source=source,
            )
        if self._reader.is_changed(row, blob):
            raise ObjectChanged(
                f"{row.path!r} of source {source!r} was replaced since it was indexed: its ETag differs; "
                "build the index again to read the new object",
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
        except BaseException as exc:  # also SystemExit: it must not end this thread
            name = self._index.name(position)
            raise PrepareError(
                f"prepare failed on sample {position} ({name!r}): {type(exc).__name__}: {exc}", path=name
            ) from exc
