"""`AsyncPrefetcher`: fill a cache ahead of its reader, on the reader's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from streaming.errors import Closed, ConfigError
from streaming.readahead import ReadAhead
from streaming.runtime import Done

__all__ = ["AsyncPrefetcher", "SampleCache"]


class SampleCache(Protocol):
    """What a prefetcher needs of a cache."""

    async def get(self, key: str) -> Any:
        """The data of this key, or None."""

    async def put(self, key: str, data: Any) -> Any:
        """Keep data under this key."""


class AsyncPrefetcher:
    """Fetches queued keys into a cache; a reader's `get` joins a fetch under way instead of starting another.

    Args:
        cache: anything with `await get(key)` (None when absent) and `await put(key, data)`.
        fetch_fn: `await fetch_fn(key)` brings the data; runs on the caller's loop, once per key however many ask.
        queue_size: most keys waiting; `queue_item` waits while it is full.
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
        self._concurrency = concurrency
        self._engine: ReadAhead | None = None
        self._is_running = False
        self._queued: dict[str, None] = {}
        self._room = asyncio.Event()

    @property
    def is_running(self) -> bool:
        """Whether queued keys are being fetched."""
        return self._is_running

    def start(self) -> Done[None]:
        """Begin to fetch queued keys. Idempotent; a stopped prefetcher can be started again."""
        self._is_running = True
        return Done(None)

    def stop(self) -> Awaitable[None]:
        """Cancel the fetches under way and forget the queue; awaiting it waits until no task is left. Idempotent."""
        self._is_running = False
        self._queued.clear()
        self._room.set()
        engine, self._engine = self._engine, None
        if engine is None or engine.loop.is_closed():
            return Done(None)
        return engine.loop.create_task(engine.aclose())

    async def queue_item(self, key: str) -> None:
        """Fetch this key into the cache in the background; waits while `queue_size` keys are waiting already.

        A failure stays silent here and is raised by the next `get` of this key.

        Raises:
            Closed: the prefetcher was not started, or was stopped meanwhile.
        """
        is_cached = await self.cache.get(key) is not None
        while self._is_running and len(self._queued) >= self.queue_size and key not in self._queued:
            self._room.clear()
            await self._room.wait()
        if not self._is_running:
            raise Closed(f"key {key!r} was queued while the prefetcher is stopped; call start() first")
        if not is_cached and key not in self._queued:
            self._queued[key] = None
            self._open_engine().announce([key])

    async def get(self, key: str) -> Any:
        """The data of this key: from the cache, from the fetch under way, or from a fetch made now.

        Raises:
            Exception: whatever `fetch_fn` raised for this key; the next call fetches again.
        """
        data = await self.cache.get(key)
        return await self._open_engine().get(key) if data is None else data

    def _open_engine(self) -> ReadAhead:
        loop = asyncio.get_running_loop()
        if self._engine is None or self._engine.loop is not loop:
            self._engine = ReadAhead(
                self._load,
                loop,
                max_ahead=self._concurrency,
                concurrency=self._concurrency,
                is_held=lambda key: key not in self._queued,  # a reader came first and fetched it
                keep_unused=False,
            )
        return self._engine

    async def _load(self, key: str) -> Any:
        self._queued.pop(key, None)
        self._room.set()
        data = await self.fetch_fn(key)
        await self.cache.put(key, data)
        return data
