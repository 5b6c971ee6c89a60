"""The one place of a training process that does input: fetches, caches, reads ahead, and answers the workers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from streaming.cache.advice import Advice
from streaming.cache.rates import RecentHits
from streaming.cache.reading import PlaceTuple
from streaming.cache.sample import Reservation, SmartLRUCache
from streaming.core.runtime import Runtime
from streaming.engine.bad_samples import BadSamples, Replacing
from streaming.engine.decode_pool import DecodePool
from streaming.engine.fetch import IN_CACHE, SampleFetcher
from streaming.engine.metrics_snapshot import of_cache, of_read_ahead, of_reads
from streaming.engine.read_counts import ReadCounts
from streaming.engine.replicas import ReplicaReader
from streaming.engine.sample_copies import Uncopyable, copy_sample, pickle_sample
from streaming.engine.served import Served
from streaming.errors import PrepareError
from streaming.index import Changes, SampleIndex
from streaming.index.revalidation import Revalidation
from streaming.link.messages import LinkHandle, LinkServer
from streaming.link.pickled_errors import pickle_error
from streaming.link.worker import Other, Reply, Request, Worker
from streaming.prefetch.fetch_queue import PrefetchQueue
from streaming.prefetch.readahead import CONCURRENCY, MISS, ReadAhead
from streaming.telemetry.counters import Counters, MetricsSnapshot
from streaming.telemetry.stages import ACCOUNTS, CACHE

__all__ = ["Engine"]


class Engine:
    """Serves samples by position to its own process (`read`, `read_many`) and to workers (through `handle`).

    `read` and `read_many` may be called from any thread except the runtime's own; a hit is served in the caller's
    thread. Everything else of an owner runs on the runtime's loop.

    Args:
        runtime: the loop thread of this process.
        reader: reads the bytes; closed with the owner.
        index: which bytes are which sample.
        cache: keeps encoded samples under their position; closed with the owner.
        prepare: see `SampleFetcher`.
        prefetch_ahead: most samples read ahead of the one that is needed now (None adapts), and most that `fetch` has
            brought and nobody has read (None is no bound).
        concurrency: most samples being read ahead at once; None for the default.
        decode_threads: size of the pool; None for one a processor.
        max_bytes: bound of one decoded object.
        bad: replaces samples that cannot be loaded; None raises their errors.
        revalidation: compares the index with the sources; started and closed with the owner.

    Attributes:
        announces: this process says what it will read.
    """

    announces = True

    def __init__(
        self,
        runtime: Runtime,
        reader: ReplicaReader,
        index: SampleIndex,
        cache: SmartLRUCache,
        *,
        prepare: Callable[[Any], Any] | None = None,
        prefetch_ahead: int | None = None,
        concurrency: int | None = None,
        decode_threads: int | None = None,
        max_bytes: int,
        bad: BadSamples | None = None,
        revalidation: Revalidation,
    ) -> None:
        self.index = index
        self.fingerprint = index.fingerprint
        self.cache = cache
        self._bad = bad
        self._revalidation = revalidation
        self.counters = Counters()
        self._received_before = 0  # bytes that came in before the metrics were reset
        self._recent = RecentHits(len(index))
        self._advice = Advice(cache.max_bytes, cache.max_ttl_seconds)
        self._read_counts = ReadCounts(len(index))
        self._runtime = runtime
        self._reader = reader
        self._pool = DecodePool(runtime.loop, decode_threads)
        self._fetcher = SampleFetcher(
            index,
            reader,
            cache=cache,
            prepare=prepare,
            pool=self._pool,
            counters=self.counters,
            max_bytes=max_bytes,
        )
        load = self._fetcher.load
        if bad is not None:
            load = Replacing(load, bad, index, cache, lambda: self.counters.samples_fetched).load
        self._engine = ReadAhead(
            load,
            runtime.loop,
            max_ahead=prefetch_ahead,
            # Enough for the threads to find work, and their results to be told together; more would only queue.
            concurrency=concurrency or (8 * self._pool.threads if reader.is_blocking else None),
            reserve=self._reserve,
            is_held=cache.contains,
            copied=self._copied,
        )
        self._batches = PrefetchQueue(
            self._start_prefetch,
            unread=cache.unread,
            most_unread=prefetch_ahead,
            most_loading=concurrency or CONCURRENCY,
        )
        self._prefetches: dict[int, asyncio.Task[None]] = {}
        cache.unread.listen(lambda: runtime.call_soon(self._batches.fill))
        self._server: LinkServer | None = None
        self._is_closed = False
        runtime.call_soon(revalidation.start)

    # -- from any thread of this process

    def read(self, position: int) -> Any:
        """One sample, owned by the caller. Blocks while it is fetched."""
        self.counters.reads += 1
        sample = self._read_now(position)
        return self._wait([position])[0] if sample is MISS else sample

    def read_many(self, positions: Sequence[int]) -> list[Any]:
        """Samples in the order asked, owned by the caller; those missing are fetched together."""
        began = time.perf_counter()
        self.counters.reads += len(positions)
        samples = self._read_many_now(positions)
        ACCOUNTS.mine.seconds[CACHE] += time.perf_counter() - began
        missing = [at for at, sample in enumerate(samples) if sample is MISS]
        if missing:
            fetched = self._wait([positions[at] for at in missing])
            for at, sample in zip(missing, fetched, strict=True):
                samples[at] = sample
        return samples

    def read_drawn(self, positions: Sequence[int]) -> tuple[list[Any], list[int]]:
        """As `read_many`, and how often each sample was asked for in this way before."""
        draws = self._read_counts.count(positions)
        return self.read_many(positions), draws

    @property
    def reads(self) -> int:
        """Samples that were asked for since the last `reset_metrics`, by this process and its workers."""
        return self.counters.reads

    def name_of(self, position: int) -> str:
        """Name of a sample, for messages."""
        return self.index.name(position)

    def _read_now(self, position: int) -> Any:
        sample = self._engine.take(position)
        if sample is MISS or sample is IN_CACHE:
            sample = self.cache.get_nowait(position, MISS)
            if sample is not MISS:
                self._engine.used(position)
        return sample

    def _read_many_now(self, positions: Sequence[int]) -> list[Any]:
        samples = [self._engine.take(position) for position in positions]
        absent = [at for at, sample in enumerate(samples) if sample is MISS or sample is IN_CACHE]
        for at, sample in zip(absent, self.cache.get_many([positions[at] for at in absent], MISS), strict=True):
            samples[at] = sample
            if sample is not MISS:
                self._engine.used(positions[at])
        return samples

    def _wait(self, positions: Sequence[int]) -> list[Any]:
        """Samples that are not there yet: the loop fetches what nobody fetches; the rest is waited for as it lands."""
        started = time.perf_counter()
        try:
            asked = [at for at, position in enumerate(positions) if not self._engine.is_coming(position)]
            self.counters.late += len(positions) - len(asked)
            coming = sorted(set(range(len(positions))).difference(asked), reverse=True)
            if not coming:
                return self._runtime.run(self._get_many(positions))
            samples = [MISS] * len(positions)
            answer = self._runtime.submit(self._get_many([positions[at] for at in asked]))
            try:
                for at in coming:  # from the last on: once that is there, the others hardly wake this thread
                    samples[at] = self._engine.wait(positions[at])
                for at, sample in zip(asked, answer.result(), strict=True):
                    samples[at] = sample
            except BaseException:
                answer.cancel()
                raise
            return [
                self._read_or_ask(position) if sample is MISS or sample is IN_CACHE else sample
                for position, sample in zip(positions, samples, strict=True)
            ]
        finally:
            ACCOUNTS.mine.add(self._note_wait(positions, started))

    def _note_wait(self, positions: Sequence[int], started: float) -> list[float]:
        """Count a wait for these samples that ends now; by stage."""
        ended = time.perf_counter()
        seconds = self._fetcher.timelines.waited(positions, started, ended)
        counters = self.counters
        counters.waits += 1
        counters.wait_seconds += ended - started
        counters.waited = [before + more for before, more in zip(counters.waited, seconds, strict=True)]
        return seconds

    def _read_or_ask(self, position: int) -> Any:
        """A sample that is large, was asked for twice, failed, or was dropped while it was waited for."""
        sample = self._read_now(position)
        return self._runtime.run(self._get(position)) if sample is MISS else sample

    def announce(self, positions: Iterable[int], order: Hashable) -> None:
        """Say which samples will be read next, in order; announcements under equal `order` continue each other."""
        self.cache.retain()
        self._recent.note(self.counters.reads, self.counters.samples_fetched)
        self._advice.on_epoch(self._recent.epoch_s)
        self._runtime.call_soon(self._engine.announce, list(positions), order)

    def forget(self, order: Hashable) -> None:
        """Say that what was announced under this order will not be read."""
        self._runtime.call_soon(self._engine.forget, order)

    def stop_fetching(self) -> None:
        """Drop what `fetch` was asked for and has not begun."""
        self._runtime.call_soon(self._batches.clear)

    def stats(self) -> dict[str, Any]:
        """The numbers of `StreamingDatasetAdapter.get_cache_stats`."""
        counters = self.counters
        added, changed, removed = self._revalidation.counts or (None, None, None)
        hits = max(counters.reads - counters.samples_fetched, 0)
        observed = self._recent.note(counters.reads, counters.samples_fetched)
        mean_bytes = counters.bytes_fetched / counters.samples_fetched if counters.samples_fetched else 0.0
        return {
            **self.cache.get_cache_stats(),
            "total_hits": hits,
            "total_misses": counters.samples_fetched,
            "hit_rate": hits / counters.reads if counters.reads else 0.0,
            "observed_hit_rate": observed,
            "prefetch_hits": self._prefetch_hits,
            "fetched_samples": counters.samples_fetched,
            "fetched_objects": counters.objects_fetched,
            "fetched_bytes": self._received,
            "saved_bytes": round(hits * mean_bytes),  # at the mean size of what was fetched
            "waits": counters.waits,
            "wait_seconds": counters.wait_seconds,
            "in_flight": self._engine.in_flight,
            "dropped": self.index.dropped,
            "skipped_objects": self.index.skipped_objects,
            "added_samples": added,
            "changed_samples": changed,
            "removed_samples": removed,
            "bad_samples": 0 if self._bad is None else self._bad.count,
        }

    @property
    def _prefetch_hits(self) -> int:
        """Reads that found their sample announced and loaded, or brought by `fetch`."""
        return self._engine.hits + self.cache.get_metrics().prefetch_hits

    def metrics_snapshot(self, process: str = "trainer") -> MetricsSnapshot:
        """The numbers of this moment as metrics, see `StreamingDatasetAdapter.readings`; `process` is where this is."""
        counters = self.counters
        misses = counters.samples_fetched
        observed = self._recent.note(counters.reads, misses)
        return {
            **self._reader.metrics_snapshot(),
            **of_cache(self.cache, max(counters.reads - misses, 0), misses, observed),
            "cache_prefetch_hits": {(): self._prefetch_hits},
            **of_read_ahead(self._engine, self.cache),
            **of_reads(counters, self._received, 0 if self._bad is None else self._bad.count),
            "dataset_samples": {(): len(self.index)},
            "event_loop_lag_seconds": {(process,): self._runtime.lag_s},
        }

    def refresh_index(self) -> Changes:
        """See `StreamingDatasetAdapter.refresh_index`. Blocks meanwhile."""
        return self._runtime.run(self.revalidate())

    def reset_metrics(self) -> None:
        """Set every count back to zero."""
        self.counters.reset()
        self._received_before = self._reader.nbytes
        self.cache.reset_metrics()
        self._engine.hits = 0

    def clear(self) -> None:
        """Drop every cached sample."""
        self.cache.clear()

    @property
    def _received(self) -> int:
        """Bytes that came from the sources since the metrics were reset."""
        return self._reader.nbytes - self._received_before

    def handle(self) -> LinkHandle:
        """What a child process needs to read through this owner; starts to listen for other processes."""
        if self._server is None:
            served = Served(self, self.metrics_snapshot)
            self._server = LinkServer(self._runtime, served.answer, served.left)
        return LinkHandle(self._server.hello_fd, self.cache.arena.fd)

    def as_worker(self) -> Worker:
        """In a forked child: what reads through this owner, without the descriptors that are the parent's alone."""
        if self._server is not None:
            self._server.close_inherited()
        return Worker(self.handle())

    def close(self) -> None:
        """Stop reading, answer no more workers, close the sources and free the cache. Blocks meanwhile; idempotent."""
        self._runtime.run(self.aclose())

    # -- on the loop

    async def fetch(self, positions: Iterable[int]) -> None:
        """Bring these samples into the cache, and wait until all are there that may be before one of them is read.

        At most `prefetch_ahead` of such samples are unread; the others follow as these are read. Those that are there,
        or were announced, cost nothing. Failures surface at their reads.
        """
        wanted, prefetches, waiting = list(positions), self._prefetches, self._batches.waiting
        self._batches.add(wanted)
        for position in wanted:
            while position in prefetches or (position in waiting and prefetches):
                tasks = [prefetches[position]] if position in prefetches else list(prefetches.values())
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    def _start_prefetch(self, position: Any) -> bool:
        engine = self._engine
        if engine.is_coming(position) or engine.is_ahead(position) or self.cache.contains(position):
            return False
        self._prefetches[position] = self._runtime.loop.create_task(self._prefetch(position))
        return True

    async def _prefetch(self, position: int) -> None:
        self._fetcher.prefetching.add(position)
        try:
            with contextlib.suppress(Exception):  # the read of this sample fetches again
                await self._engine.get(position)
        finally:
            self._fetcher.prefetching.discard(position)
            self._batches.loading.discard(position)
            del self._prefetches[position]
        self._batches.fill()

    async def revalidate(self) -> Changes:
        """See `StreamingDatasetAdapter.refresh_index`."""
        return await self._revalidation.refresh()

    async def aclose(self) -> None:
        """Stop reading, answer no more workers, close the sources and free the cache. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._batches.clear()
        await self._revalidation.aclose()
        await self._engine.aclose()
        if self._server is not None:
            await self._server.aclose()
        await self._reader.aclose()
        await asyncio.to_thread(self._pool.close)
        self.cache.close()

    async def _get_many(self, positions: Sequence[int]) -> list[Any]:
        if len(positions) == 1:
            return [await self._get(positions[0])]
        reads = [asyncio.ensure_future(self._get(position)) for position in positions]
        try:
            return await asyncio.gather(*reads)
        except BaseException:
            for read in reads:
                read.cancel()
            raise

    async def _get(self, position: int) -> Any:
        """One sample, from a load or, if that left it in the cache, from there; again if it was evicted meanwhile."""
        while True:
            sample = await self._engine.get(position)
            self.cache.unread.discard(position)
            if sample is IN_CACHE:
                sample = self.cache.get_nowait(position, MISS)
            if sample is not MISS:
                return sample

    def _reserve(self, position: int, demanded: bool) -> Reservation | None:
        nbytes = self._fetcher.nbytes(position)
        if not demanded:
            self._advice.on_read_ahead(nbytes)
        return self.cache.reserve(nbytes, demanded=demanded, key=position)

    def serve_processes(self) -> None:
        """Keep what is read ahead in the cache from now on, for readers in other processes."""
        self._engine.drop_ready()
        self.cache.serves_processes = True

    async def answer(self, request: Request) -> Reply:
        """Reply to a worker: see `Reply`."""
        positions, is_stale, is_drawn = request
        self.serve_processes()
        if is_stale:  # evicted between the last answer and its reading: this time send the bytes
            inline = {at: await self._inline(position) for at, position in enumerate(positions)}
            return None, [None] * len(positions), inline, None
        self.counters.reads += len(positions)
        draws = self._read_counts.count(positions) if is_drawn else None
        places = self.cache.places(positions)
        missing = [at for at, place in enumerate(places) if place is None]
        held = [position for position, place in zip(positions, places, strict=True) if place is not None]
        others: dict[int, Other] = {}
        for at in self._fleeting(positions, places):
            others[at], places[at] = await self._inline(positions[at]), None
        try:
            fetched, waited = await self._fetch_items([positions[at] for at in missing])
        finally:
            for position in held:  # not before: what passes makes way for others from then on
                self._engine.used(position)
        for at, (place, other) in zip(missing, fetched, strict=True):
            places[at] = place
            if other is not None:
                others[at] = other
        return draws, places, others, waited

    def _fleeting(self, positions: Sequence[int], places: Sequence[PlaceTuple | None]) -> list[int]:
        """Which of these would be gone before a worker has copied them."""
        return [at for at, place in enumerate(places) if place and self.cache.is_fleeting(positions[at])]

    async def _fetch_items(
        self, positions: Sequence[int]
    ) -> tuple[list[tuple[PlaceTuple | None, Other | None]], list[float] | None]:
        if not positions:
            return [], None
        started = time.perf_counter()
        self.counters.late += sum([self._engine.is_coming(position) for position in positions])
        fetched = await asyncio.gather(*(self._fetch_item(position) for position in positions))
        return fetched, self._note_wait(positions, started)

    async def _fetch_item(self, position: int) -> tuple[PlaceTuple | None, Other | None]:
        try:
            sample = await self._engine.get(position)
            self.cache.unread.discard(position)
            place = None if self.cache.is_fleeting(position) else self.cache.place(position)
            if place is not None:
                return place, None
            return None, await self._inline(position) if sample is IN_CACHE else (
                False,
                self._pickled(position, sample),
            )
        except Exception as exc:
            return None, (True, pickle_error(exc))

    async def _inline(self, position: int) -> Other:
        try:
            sample = self.cache.get_nowait(position, MISS)
            if sample is MISS:
                sample = await self._get(position)
            return False, self._pickled(position, sample)
        except Exception as exc:
            return True, pickle_error(exc)

    def _copied(self, position: int, sample: Any) -> Any:
        try:
            return sample if sample is IN_CACHE else copy_sample(sample)
        except Uncopyable as exc:
            raise self._not_copied(position, exc) from exc

    def _pickled(self, position: int, sample: Any) -> bytes:
        try:
            return pickle_sample(sample)
        except Uncopyable as exc:
            raise self._not_copied(position, exc) from exc

    def _not_copied(self, position: int, reason: Uncopyable) -> PrepareError:
        name = self.index.name(position)
        return PrepareError(
            f"sample {position} ({name!r}) cannot be given to several readers: {reason}; let prepare return tensors, "
            "arrays, text or what can be copied",
            path=name,
        )
