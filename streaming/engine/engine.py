"""The engine, which does all input of a training process: it fetches, caches, reads ahead and serves workers."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from streaming.cache.advice import Advice
from streaming.cache.reservation import Reservation
from streaming.cache.sample import SmartLRUCache
from streaming.core.logs import get_logger
from streaming.core.miss import MISS
from streaming.core.runtime import Runtime, current_runtime
from streaming.engine.bad_samples import BadSamples, Replacing
from streaming.engine.decode_pool import DecodePool
from streaming.engine.fetch import IN_CACHE, SampleFetcher
from streaming.engine.link_service import LinkService
from streaming.engine.read_counts import ReadCounts
from streaming.engine.replicas import ReplicaReader
from streaming.engine.sample_copies import Uncopyable, copy_sample, uncopyable_sample
from streaming.engine.statistics import EngineStatistics
from streaming.index import Changes, SampleIndex
from streaming.index.revalidation import Revalidation
from streaming.link.messages import LinkHandle, LinkServer
from streaming.link.worker import Worker
from streaming.prefetch.fetch_queue import PrefetchQueue
from streaming.prefetch.readahead import CONCURRENCY, ReadAhead
from streaming.telemetry.counters import Counters, MetricsSnapshot
from streaming.telemetry.stages import ACCOUNTS, CACHE

__all__ = ["Engine"]

logger = get_logger(__name__)


class Engine:
    """The `SampleReader` of the process that does the input; it serves workers through `handle`.

    `read` and `read_many` may be called from any thread except the runtime's own; a hit is served in the caller's
    thread. Everything else runs on the runtime's loop.

    Args:
        runtime: the loop thread of this process.
        reader: reads the bytes; closed with the engine.
        index: which bytes are which sample.
        cache: keeps encoded samples under their position; closed with the engine.
        prepare: see `SampleFetcher`.
        prefetch_ahead: most samples read ahead of the one that is needed now (None: adaptive), and most unread samples
            that `fetch` has loaded (None: unlimited).
        concurrency: most samples being read ahead at once; None for the default.
        decode_threads: size of the pool; None for one per processor.
        max_bytes: size limit of one decoded object.
        bad: replaces samples that cannot be loaded; None raises their errors.
        revalidation: compares the index with the sources; started and closed with the engine.

    Attributes:
        counters, read_counts, read_ahead: used by the `LinkService` too.
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
        self.length = len(index)
        self.cache = cache
        self._revalidation = revalidation
        self.counters = Counters()
        self._advice = Advice(cache.max_bytes, cache.max_ttl_seconds)
        self.read_counts = ReadCounts(len(index))
        self._runtime = runtime
        self._replicas = reader
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
        self.read_ahead = ReadAhead(
            load,
            runtime.loop,
            max_ahead=prefetch_ahead,
            # Enough for the threads to find work, and to deliver their results together; more would only queue.
            concurrency=concurrency or (8 * self._pool.threads if reader.is_blocking else None),
            reserve=self._reserve,
            is_held=cache.contains,
            copied=self._copied,
        )
        self._statistics = EngineStatistics(
            self.counters, index, cache, reader, self.read_ahead, revalidation=revalidation, bad=bad
        )
        self._prefetch_queue = PrefetchQueue(
            self._start_prefetch,
            unread=cache.unread,
            most_unread=prefetch_ahead,
            most_loading=concurrency or CONCURRENCY,
        )
        self._prefetch_tasks: dict[int, asyncio.Task[None]] = {}
        cache.unread.listen(lambda: runtime.call_soon(self._prefetch_queue.fill))
        self._server: LinkServer | None = None
        self._is_closed = False
        runtime.call_soon(revalidation.start)

    # -- from any thread of this process

    def read(self, position: int) -> Any:
        self.counters.reads += 1
        sample = self._read_now(position)
        return self._wait([position])[0] if sample is MISS else sample

    def read_many(self, positions: Sequence[int]) -> list[Any]:
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
        draws = self.read_counts.count(positions)
        return self.read_many(positions), draws

    @property
    def reads(self) -> int:
        return self.counters.reads

    def name_of(self, position: int) -> str:
        return self.index.name(position)

    def _read_now(self, position: int) -> Any:
        sample = self.read_ahead.take(position)
        if sample is MISS or sample is IN_CACHE:
            sample = self.cache.get_nowait(position, MISS)
            if sample is not MISS:
                self.read_ahead.used(position)
        return sample

    def _read_many_now(self, positions: Sequence[int]) -> list[Any]:
        samples = [self.read_ahead.take(position) for position in positions]
        absent = [at for at, sample in enumerate(samples) if sample is MISS or sample is IN_CACHE]
        for at, sample in zip(absent, self.cache.get_many([positions[at] for at in absent], MISS), strict=True):
            samples[at] = sample
            if sample is not MISS:
                self.read_ahead.used(positions[at])
        return samples

    def _wait(self, positions: Sequence[int]) -> list[Any]:
        """Return samples that are not ready: the loop fetches those that are not in flight; this thread waits."""
        started = time.perf_counter()
        try:
            new = [at for at, position in enumerate(positions) if not self.read_ahead.is_coming(position)]
            self.counters.late += len(positions) - len(new)
            in_flight = sorted(set(range(len(positions))).difference(new), reverse=True)
            if not in_flight:
                return self._runtime.run(self._get_many(positions))
            samples = [MISS] * len(positions)
            fetched = self._runtime.submit(self._get_many([positions[at] for at in new]))
            try:
                for at in in_flight:  # the last first: once it has arrived, the others rarely wake this thread
                    samples[at] = self.read_ahead.wait(positions[at])
                for at, sample in zip(new, fetched.result(), strict=True):
                    samples[at] = sample
            except BaseException:
                fetched.cancel()
                raise
            return [
                self._read_or_fetch(position) if sample is MISS or sample is IN_CACHE else sample
                for position, sample in zip(positions, samples, strict=True)
            ]
        finally:
            ACCOUNTS.mine.add(self.note_wait(positions, started))

    def note_wait(self, positions: Sequence[int], started: float) -> list[float]:
        """Count a wait for these samples that ends now; return it in seconds by stage."""
        ended = time.perf_counter()
        seconds = self._fetcher.timelines.waited(positions, started, ended)
        counters = self.counters
        counters.waits += 1
        counters.wait_seconds += ended - started
        counters.waited = [before + more for before, more in zip(counters.waited, seconds, strict=True)]
        return seconds

    def _read_or_fetch(self, position: int) -> Any:
        """Return a sample that is large, was wanted twice, failed, or was dropped during the wait."""
        sample = self._read_now(position)
        return self._runtime.run(self.get(position)) if sample is MISS else sample

    def announce(self, positions: Iterable[int], order: int) -> None:
        self.cache.retain()
        self._advice.on_epoch(self._statistics.epoch_s())
        self._runtime.call_soon(self.read_ahead.announce, list(positions), order)

    def forget(self, order: int) -> None:
        self._runtime.call_soon(self.read_ahead.forget, order)

    def stop_fetching(self) -> None:
        self._runtime.call_soon(self._prefetch_queue.clear)

    def stats(self) -> dict[str, Any]:
        return self._statistics.stats()

    def metrics_snapshot(self, process: str = "trainer") -> MetricsSnapshot:
        """Return the current numbers as metrics, see `StreamingDatasetAdapter.metrics_snapshot`.

        Args:
            process: the value of the label `process` for the lag of this process's event loop.
        """
        return {**self._statistics.metrics_snapshot(), "event_loop_lag_seconds": {(process,): self._runtime.lag_s}}

    def reset_metrics(self) -> None:
        self._statistics.reset()

    def refresh_index(self) -> Changes:
        return self._runtime.run(self.revalidate())

    def clear(self) -> None:
        self.cache.clear()

    def handle(self) -> LinkHandle:
        """Return what a child process needs to read through this engine; starts to listen for other processes."""
        if self._server is None:
            service = LinkService(self, self.metrics_snapshot)
            self._server = LinkServer(self._runtime, service.answer, service.left)
        return LinkHandle(self._server.hello_fd, self.cache.arena.fd)

    def as_worker(self) -> Worker:
        """Return a reader through this engine for a forked child, and close the descriptors of the parent."""
        if self._server is not None:
            self._server.close_inherited()
        return Worker(self.handle())

    def close_with(self, holder: object) -> weakref.finalize[Any, Any]:
        """Close in the background when the holder is garbage collected; return the finalizer, which can be detached."""
        finalizer = weakref.finalize(holder, _close_dropped, self, os.getpid())
        finalizer.atexit = False  # the runtime ends everything at interpreter exit
        return finalizer

    def close(self) -> None:
        """Stop reading, answer no more workers, close the sources and free the cache. Blocks meanwhile; idempotent."""
        self._runtime.run(self.aclose())

    # -- on the loop

    async def fetch(self, positions: Iterable[int]) -> None:
        """Load samples into the cache, and wait for as many as may be there before one of them is read.

        At most `prefetch_ahead` of such samples are unread; the others follow as these are read. Samples that are
        cached or were announced cost nothing. Failures surface at the reads.
        """
        wanted, prefetches, waiting = list(positions), self._prefetch_tasks, self._prefetch_queue.waiting
        self._prefetch_queue.add(wanted)
        for position in wanted:
            while position in prefetches or (position in waiting and prefetches):
                tasks = [prefetches[position]] if position in prefetches else list(prefetches.values())
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    def _start_prefetch(self, position: Any) -> bool:
        ahead = self.read_ahead
        if ahead.is_coming(position) or ahead.is_ahead(position) or self.cache.contains(position):
            return False
        self._prefetch_tasks[position] = self._runtime.loop.create_task(self._prefetch(position))
        return True

    async def _prefetch(self, position: int) -> None:
        self._fetcher.prefetching.add(position)
        try:
            await self.read_ahead.get(position)
        except Exception as exc:  # the read of this sample fetches it again
            logger.debug("prefetch_failed position=%d error=%s", position, exc)
        finally:
            self._fetcher.prefetching.discard(position)
            self._prefetch_queue.loading.discard(position)
            del self._prefetch_tasks[position]
        self._prefetch_queue.fill()

    async def revalidate(self) -> Changes:
        """See `StreamingDatasetAdapter.refresh_index`."""
        return await self._revalidation.refresh()

    async def aclose(self) -> None:
        """Stop reading, answer no more workers, close the sources and free the cache. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._prefetch_queue.clear()
        await self._revalidation.aclose()
        await self.read_ahead.aclose()
        if self._server is not None:
            await self._server.aclose()
        await self._replicas.aclose()
        await asyncio.to_thread(self._pool.close)
        self.cache.close()

    async def _get_many(self, positions: Sequence[int]) -> list[Any]:
        if len(positions) == 1:
            return [await self.get(positions[0])]
        reads = [asyncio.ensure_future(self.get(position)) for position in positions]
        try:
            return await asyncio.gather(*reads)
        except BaseException:
            for read in reads:
                read.cancel()
            raise

    async def get(self, position: int) -> Any:
        """Return one sample from its load, or from the cache if the load left it there; retry if it was evicted."""
        while True:
            sample = await self.read_ahead.get(position)
            self.cache.unread.discard(position)
            if sample is IN_CACHE:
                sample = self.cache.get_nowait(position, MISS)
            if sample is not MISS:
                return sample

    def _reserve(self, position: int, demanded: bool) -> Reservation | None:
        nbytes = self._fetcher.nbytes(position)
        if not demanded:
            self._advice.on_read_ahead(nbytes)
        return self.cache.reserve(nbytes, demanded=demanded, until_read=True)

    def serve_processes(self) -> None:
        """Keep what is read ahead in the cache from now on, for readers in other processes."""
        self.read_ahead.drop_ready()
        self.cache.serves_processes = True

    def _copied(self, position: int, sample: Any) -> Any:
        try:
            return sample if sample is IN_CACHE else copy_sample(sample)
        except Uncopyable as exc:
            raise uncopyable_sample(position, self.name_of(position), exc) from exc


def _close_dropped(engine: Engine, pid: int) -> None:
    if os.getpid() == pid:
        current_runtime().submit(_close_logged(engine))


async def _close_logged(engine: Engine) -> None:
    try:
        await engine.aclose()
    except Exception as exc:
        logger.debug("engine_not_closed error=%s", exc)
