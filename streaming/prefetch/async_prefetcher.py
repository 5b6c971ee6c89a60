"""`AsyncPrefetcher`: fill a cache ahead of its reader, on the reader's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Generator, Hashable, Sized
from typing import Any, Protocol, runtime_checkable

from streaming.core.runtime import Done
from streaming.errors import ClosedError, ConfigError
from streaming.prefetch.fetch_queue import PrefetchQueue
from streaming.prefetch.readahead import ReadAhead

__all__ = ["AsyncPrefetcher", "CountingCache", "SampleCache"]


class SampleCache(Protocol):
    """The part of a cache that a prefetcher needs."""

    async def get(self, key: str) -> Any:
        """Return the data of this key, or None."""

    async def put(self, key: str, data: Any) -> Any:
        """Store data under this key."""


class UnreadKeys(Sized, Protocol):
    """The keys that were fetched into a cache and not read yet."""

    def discard(self, key: Hashable) -> bool:
        """Note that a key was read."""

    def listen(self, callback: Callable[[], object]) -> None:
        """Call `callback()`, in any thread, when a key is no longer unread."""

    def unlisten(self, callback: Callable[[], object]) -> None:
        """End `listen`."""


@runtime_checkable
class CountingCache(Protocol):
    """A cache that keeps track of keys that were fetched ahead and not read yet, as `SmartLRUCache` does."""

    prefetch_ahead: int | None
    """Most keys that may be unread; None: no bound."""

    unread: UnreadKeys
    """Keys that are unread now."""

    def __contains__(self, key: str) -> bool:
        """Whether the key is held. Not counted as a read."""

    async def put(self, key: str, data: Any, *, prefetched: bool = False) -> Any:
        """Store data under this key; `prefetched`: unread until its first read."""


class AsyncPrefetcher:
    """Fetches queued keys into a cache; a reader's `get` joins a fetch in flight instead of starting another.

    The first read of a queued key, through `get` or the cache, counts as a prefetch hit of the cache. At most
    `prefetch_ahead` keys (a setting of the cache) are unread: reading one lets the next be fetched.

    Args:
        cache: any object with `await get(key)` (None when absent) and `await put(key, data)`. A cache that keeps track
            of unread keys, as `SmartLRUCache` does, bounds them.
        fetch_fn: `await fetch_fn(key)` returns the data; runs on the caller's loop, once per key for all readers.
        queue_size: most keys waiting; an awaited `queue_item` waits while there are more.
        concurrency: most fetches in flight for queued keys.

    `start` and `stop` may be called with or without `await`. `get` works before `start` too: it then fetches on demand.
    """

    def __init__(
        self,
        cache: SampleCache,
        fetch_fn: Callable[[str], Awaitable[Any]],
        queue_size: int = 100,
        *,
        concurrency: int = 16,
    ) -> None:
        if queue_size < 1 or concurrency < 1:
            raise ConfigError(
                f"queue_size={queue_size} and concurrency={concurrency} must be at least 1; "
                "leave them out to take the defaults"
            )
        self.cache = cache
        self.fetch_fn = fetch_fn
        self.queue_size = queue_size
        self._counting = cache if isinstance(cache, CountingCache) else None
        self._queue = PrefetchQueue(
            self._start_fetch,
            unread=() if self._counting is None else self._counting.unread,
            most_unread=None if self._counting is None else self._counting.prefetch_ahead,
            most_loading=concurrency,
        )
        self._engine: ReadAhead | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # the last one that this was used on
        self._is_running = False
        self._joined: set[str] = set()  # keys in flight that a reader waits for
        self._producers: list[asyncio.Future[None]] = []

    @property
    def is_running(self) -> bool:
        """Whether queued keys are being fetched."""
        return self._is_running

    def start(self) -> Done[None]:
        """Start fetching queued keys. Idempotent; a stopped prefetcher can be started again."""
        self._is_running = True
        if self._counting is not None:
            self._counting.unread.listen(self._wake_later)
        self._wake()
        return Done(None)

    def stop(self) -> Awaitable[None]:
        """Cancel the fetches in flight and clear the queue; awaiting it waits until no task is left. Idempotent."""
        self._is_running = False
        if self._counting is not None:
            self._counting.unread.unlisten(self._wake_later)
        self._queue.clear()
        self._release_producers()
        engine = self._leave_engine()
        if engine is None or engine.loop.is_closed():
            return Done(None)
        return engine.loop.create_task(engine.aclose())

    def queue_item(self, key: str) -> Awaitable[None]:
        """Fetch this key into the cache in the background, whether or not the result is awaited.

        Awaiting the result waits until at most `queue_size` keys wait for their fetch. In a thread without a running
        loop, the key is queued for the loop that the prefetcher is used on. A failed fetch is not raised here but by
        the next `get` of this key.

        Raises:
            ClosedError: the prefetcher was not started; when awaited, also if it was stopped meanwhile.
        """
        if not self._is_running:
            raise _not_started(key)
        if key not in self._queue.loading:
            self._queue.waiting[key] = None
        self._wake()
        return _Queued(self, key)

    async def get(self, key: str) -> Any:
        """Return the data of this key: from the cache, from the fetch in flight, or from a fetch started now.

        Raises:
            Exception: what `fetch_fn` raised for this key; the next call fetches again.
        """
        data = await self.cache.get(key)
        if data is not None:
            return data
        engine = self._open_engine()
        self._queue.waiting.pop(key, None)  # it does not wait for its turn
        self._release_producers()
        if key in self._queue.loading:
            self._joined.add(key)
        return await engine.get(key)

    async def _wait_for_room(self, key: str) -> None:
        while self._is_running and key in self._queue.waiting and len(self._queue.waiting) > self.queue_size:
            room = asyncio.get_running_loop().create_future()
            self._producers.append(room)
            await room
        if not self._is_running:
            raise _not_started(key)

    def _release_producers(self) -> None:
        """Wake the producers that wait for room."""
        producers, self._producers = self._producers, []
        for room in producers:
            if not room.done():
                room.set_result(None)

    def _wake(self) -> None:
        """Fetch what may be fetched now on the caller's loop, or else soon on the last loop."""
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            self._wake_later()
        else:
            self._fill()

    def _wake_later(self) -> None:
        """Fetch soon what may be fetched. Any thread, also one that holds the cache's lock."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                self._loop.call_soon_threadsafe(self._fill)

    def _fill(self) -> None:
        if self._is_running:
            self._open_engine()
            self._queue.fill()
            self._release_producers()

    def _open_engine(self) -> ReadAhead:
        loop = asyncio.get_running_loop()
        if self._engine is None or self._engine.loop is not loop:
            self._leave_engine()
            # The queue bounds what is in flight; all that is announced here starts at once.
            self._engine = ReadAhead(
                self._load, loop, max_ahead=sys.maxsize, concurrency=sys.maxsize, keep_unused=False
            )
        return self._engine

    def _leave_engine(self) -> ReadAhead | None:
        engine, self._engine = self._engine, None
        self._queue.loading.clear()
        self._joined.clear()
        return engine

    def _start_fetch(self, key: Any) -> bool:
        engine = self._open_engine()
        if engine.is_coming(key) or (self._counting is not None and key in self._counting):
            return False
        engine.announce([key])
        return True

    async def _load(self, key: str, reservation: None) -> Any:
        is_cancelled = False
        try:
            return await self._bring(key)
        except asyncio.CancelledError:
            is_cancelled = True  # by `stop`, or because the loop ends: no other fetch may start
            raise
        finally:
            self._joined.discard(key)
            self._queue.loading.discard(key)
            if not is_cancelled:
                self._fill()

    async def _bring(self, key: str) -> Any:
        is_ahead = key in self._queue.loading
        held = await self.cache.get(key) if is_ahead and self._counting is None else None
        if held is not None:
            return held
        data = await self.fetch_fn(key)
        if self._counting is None:
            await self.cache.put(key, data)
            return data
        await self._counting.put(key, data, prefetched=is_ahead)
        if key in self._joined:
            self._counting.unread.discard(key)
        return data


class _Queued:
    """Result of `queue_item`: awaiting it waits for room; it may be ignored."""

    def __init__(self, prefetcher: AsyncPrefetcher, key: str) -> None:
        self._prefetcher = prefetcher
        self._key = key

    def __await__(self) -> Generator[Any, None, None]:
        return self._prefetcher._wait_for_room(self._key).__await__()


def _not_started(key: str) -> ClosedError:
    return ClosedError(f"key {key!r} was queued while the prefetcher is stopped; call start() first")
