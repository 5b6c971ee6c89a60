"""Make samples: read their parts from their sources, decode, prepare, and store a copy in the cache.

A thread calls `read_in_thread` and `finish_in_thread` while the reads are healthy. `load` does it on the loop,
from the beginning or from where a thread left off; there decoding runs in a pool.
"""

from __future__ import annotations

import asyncio
import enum
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from time import perf_counter
from typing import Any, Final

from streaming.cache.budget import UNKNOWN_BYTES
from streaming.cache.compression import Entry
from streaming.cache.reservation import Reservation
from streaming.cache.sample import SmartLRUCache
from streaming.codecs import decode, decode_timed
from streaming.engine.decode_pool import DecodePool, as_exception
from streaming.engine.replicas import ReplicaReader
from streaming.errors import DecodeError, ObjectChanged, PrepareError, StreamingError, TruncatedRead
from streaming.index import Row, SampleIndex
from streaming.resilience.first_attempt import FirstAttempt
from streaming.sources.base import Blob
from streaming.telemetry.counters import Counters
from streaming.telemetry.timelines import Timelines

__all__ = ["IN_CACHE", "Arrived", "BegunSample", "SampleFetcher"]


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

LONG_S = 0.002
"""Samples that take longer to make than this are made by as many threads at once as decode, not by all that read."""

_LINE = "line.json"  # chooses the codec of a line
_AVERAGED = 4  # timed samples in the average
_TIMED_EVERY = 8  # samples: a thread's own clock takes 1 to 16 us


class BegunSample:
    """The part of a sample that a thread has done, for the loop to continue.

    Attributes:
        blobs: the parts that were read.
        attempt: the attempt to read the next part, if there is one.
        error: why the thread gave the sample up, if it had all parts or cannot read again; None otherwise.
    """

    __slots__ = ("attempt", "blobs", "error")

    def __init__(self) -> None:
        self.blobs: list[Blob] = []
        self.attempt: FirstAttempt | None = None
        self.error: Exception | None = None

    def begin(self, attempt: FirstAttempt) -> None:
        """Note the attempt to read the next part."""
        self.attempt = attempt


class Arrived:
    """A sample whose bytes have arrived, and what `SampleFetcher.finish` makes of it.

    Attributes:
        position: of the sample.
        rows, blobs: its parts.
        may_view: the bytes are in memory that is used again, and may be viewed until then.
        value: the sample, owned by the caller, or `IN_CACHE`.
        error: why there is no value; None otherwise.
    """

    __slots__ = ("blobs", "entry", "error", "may_view", "position", "reservation", "rows", "value")

    def __init__(
        self, position: int, reservation: Reservation | None, rows: Sequence[Row], blobs: Sequence[Blob], may_view: bool
    ) -> None:
        self.position = position
        self.reservation = reservation
        self.rows = rows
        self.blobs = blobs
        self.may_view = may_view
        self.value: Any = None
        self.entry: Entry | None = None
        self.error: Exception | None = None


class SampleFetcher:
    """Loads samples by position. `load` belongs to the runtime's loop; decoding runs in the pool.

    Args:
        index: what the samples are made of.
        reader: reads the bytes of a row from a replica that can serve it.
        cache: where each loaded sample is kept, under its position.
        prepare: deterministic function of a sample, run before the cache; None for none.
        pool: threads for decoding what the loop has read.
        is_awaited: returns whether a reader waits for a position by now.
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
        is_awaited: Callable[[int], bool],
        counters: Counters,
        max_bytes: int,
    ) -> None:
        self._is_awaited = is_awaited
        self._decoding = threading.Semaphore(pool.threads)
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

    async def load(self, position: int, reservation: Reservation | None, begun: BegunSample | None = None) -> Any:
        """Read, decode and prepare one sample, and keep a copy in the cache.

        Args:
            position: of the sample.
            reservation: room in the cache for it; None if there is none.
            begun: what a thread has done of it.

        Returns:
            The sample, owned by the caller, or `IN_CACHE`.

        Raises:
            SourceError: a part could not be read, or is not the object that was indexed.
            DecodeError: a part is not what its suffix says.
            PrepareError: `prepare` failed.
        """
        if begun is not None and begun.error is not None:
            raise begun.error
        rows = self._planned.pop(position, None) or self._index.rows(position)
        began = perf_counter()
        blobs = await self._read(position, rows, begun)
        read = perf_counter()
        arrived = Arrived(position, reservation, rows, blobs, False)
        if self._is_short(blobs):
            self.finish([arrived], (began, read, read, read))
        else:
            await self._pool.run(self.finish, [arrived], (began, read, None, read))
        if arrived.error is not None:
            raise arrived.error
        return arrived.value

    async def _read(self, position: int, rows: Sequence[Row], begun: BegunSample | None) -> list[Blob]:
        blobs, attempt = ([], None) if begun is None else (begun.blobs, begun.attempt)
        is_awaited = partial(self._is_awaited, position)
        left = rows[len(blobs) :]
        if len(left) == 1:
            return [*blobs, await self._reader.read(left[0], attempt, is_awaited)]
        reads = [
            asyncio.ensure_future(self._reader.read(row, None if at else attempt, is_awaited))
            for at, row in enumerate(left)
        ]
        try:
            return [*blobs, *await asyncio.gather(*reads)]
        except BaseException:
            for read in reads:
                read.cancel()
            raise

    def read_in_thread(
        self, position: int, reservation: Reservation | None, begun: BegunSample, *, is_alone: bool
    ) -> Arrived:
        """Read the parts of one sample in this thread while the reads are healthy.

        Args:
            position: of the sample.
            reservation: room in the cache for it; None if there is none.
            begun: is kept up to date with what was done.
            is_alone: whether `finish` is called before the thread reads another sample.

        Raises:
            NeedsLoop, TakeOver, TakenOver: the loop has to continue, see `ReplicaReader.read_in_thread`.
            SourceError: a part could not be read.
        """
        rows = self._planned.pop(position, None) or self._index.rows(position)
        buffers = self._buffers(rows) if is_alone else [None] * len(rows)
        read = perf_counter()
        blobs = begun.blobs
        for row, buffer in zip(rows, buffers, strict=True):
            blob, read = self._reader.read_in_thread(row, buffer, read, begun.begin)
            begun.attempt = None
            blobs.append(blob)
        return Arrived(position, reservation, rows, blobs, buffers[0] is not None)

    def takes_long(self, arrived: Arrived) -> bool:
        """Whether a thread of its own should make this sample."""
        return (
            self._prepare is not None
            or self._finish_s >= LONG_S
            or sum([len(blob.data) for blob in arrived.blobs]) >= LARGE_BYTES
        )

    def finish_in_thread(self, arrived: Sequence[Arrived], passed: tuple[float, float, float, float]) -> None:
        """Do `finish`, with no more threads at once than the pool has where it takes long: more threads read."""
        if self._prepare is None and self._finish_s < LONG_S:
            self.finish(arrived, passed)
            return
        with self._decoding:
            self.finish(arrived, passed)

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

    def finish(self, arrived: Sequence[Arrived], passed: tuple[float, float, float | None, float]) -> None:
        """Turn bytes into samples in the cache, and set the value or the error of each.

        Several are taken through each stage together: the code and data of a stage stay in the processor's caches, and
        samples of 200 bytes take 25 us instead of 42.

        Args:
            arrived: the samples.
            passed: the moments at which their loads began, they began to wait for a thread, got one (None: now), and
                the last of their bytes had arrived.
        """
        began, queued, got_thread, read = passed
        if got_thread is None:
            got_thread = perf_counter()
        is_timed = len(arrived) > 1 or arrived[0].position % _TIMED_EVERY == 0
        started = time.thread_time() if is_timed else 0.0
        decompress_s = self._in_each(arrived, self._decode)
        prepared = decoded = perf_counter()
        if self._prepare is not None:
            self._in_each(arrived, self._run_prepare)
            prepared = perf_counter()
        self._count(arrived)
        self._in_each(arrived, self._encode)
        self._admit(arrived)
        if is_timed:
            seconds = min((time.thread_time() - started) / len(arrived), 2 * LONG_S)  # an outlier must not decide
            self._finish_s += (seconds - self._finish_s) / _AVERAGED
        ended = perf_counter()
        note = self.timelines.note
        for each in arrived:
            note((each.position, began, queued, got_thread, read, decoded, prepared, ended, decompress_s))

    def _in_each(self, arrived: Sequence[Arrived], stage: Callable[[Arrived], float | None]) -> float:
        """Take the samples that have no error through a stage; return the sum of what it returned."""
        total = 0.0
        for each in arrived:
            if each.error is None:
                try:
                    total += stage(each) or 0.0
                except BaseException as exc:
                    each.error = as_exception(exc)
        return total

    def _count(self, arrived: Sequence[Arrived]) -> None:
        """Count samples before a reader can see them, so that never more is read than was fetched."""
        whole = [each for each in arrived if each.error is None]
        sizes = [sum([len(blob.data) for blob in each.blobs]) for each in whole]
        counters = self._counters
        with self._counting:
            self._largest = max([self._largest, *sizes])
            counters.samples_fetched += len(whole)
            counters.objects_fetched += sum([len(each.rows) for each in whole])
            counters.bytes_fetched += sum(sizes)

    def _encode(self, arrived: Arrived) -> None:
        arrived.entry = self._cache.encode(arrived.value)

    def _admit(self, arrived: Sequence[Arrived]) -> None:
        """Store samples, and choose for each whether its reader takes its copy out of the cache."""
        for is_prefetched in (False, True):
            ours = [each for each in arrived if each.entry and (each.position in self.prefetching) is is_prefetched]
            if ours:
                admissions = [(each.position, each.entry, each.reservation) for each in ours if each.entry]
                stored = self._cache.admit_many(admissions, prefetched=is_prefetched)
                for each, is_stored in zip(ours, stored, strict=True):
                    if is_stored:
                        self._choose_copy(each)
        for each in arrived:
            if each.may_view and each.value is not IN_CACHE and each.error is None:
                each.may_view = False
                self._decode(each)

    def _choose_copy(self, arrived: Arrived) -> None:
        entry = arrived.entry
        assert entry is not None
        self._is_stored_plain = is_plain = entry.nbytes == entry.raw_nbytes
        if is_plain and LARGE_BYTES <= entry.nbytes <= self._most_in_cache:
            arrived.value = IN_CACHE

    def _decode(self, arrived: Arrived) -> float:
        """Check and decode the parts; return how many seconds decompression took."""
        position = arrived.position
        sample: dict[str, Any] = {}
        decompress_s = 0.0
        for row, blob in zip(arrived.rows, arrived.blobs, strict=True):
            self._check(row, blob)
            source = self._reader.source_of(row).name
            if row.path.lower().endswith(".jsonl"):
                sample[row.part] = self._decode_line(position, row, blob, source)
            else:
                sample[row.part], seconds = decode_timed(
                    blob.data, row.path, max_bytes=self._max_bytes, source=source, may_view=arrived.may_view
                )
                decompress_s += seconds
        sample["idx"] = position
        arrived.value = sample
        return decompress_s

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

    def _run_prepare(self, arrived: Arrived) -> None:
        assert self._prepare is not None
        try:
            sample = arrived.value = self._prepare(arrived.value)
        except StreamingError:
            raise
        except BaseException as exc:  # also SystemExit: it must not end this thread
            name = self._index.name(arrived.position)
            raise PrepareError(
                f"prepare failed on sample {arrived.position} ({name!r}): {type(exc).__name__}: {exc}", path=name
            ) from exc
        if type(sample) is dict:
            sample.setdefault("idx", arrived.position)
