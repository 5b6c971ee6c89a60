"""`SmartLRUCache.prefetch`: fetch keys into the cache, each once for all callers, within its budget for reads ahead."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Hashable, Iterable
from concurrent.futures import Future
from itertools import islice
from typing import TYPE_CHECKING, Any

from streaming.cache.budget import UNKNOWN_BYTES
from streaming.core.logs import get_logger

if TYPE_CHECKING:
    from streaming.cache.sample import SmartLRUCache

Fetch = Callable[[Any], Awaitable[Any]]

_FETCHES = 32

logger = get_logger(__name__)


class Filler:
    """Runs the fetches of one cache. Any loop, any thread: a key in flight elsewhere is awaited, not fetched again.

    It holds no reference to the cache, so that an unused cache frees its memory at once.

    Args:
        most: most keys that one call fetches, and most fetches in flight; None: all keys, 32 at a time.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._concurrency = most or _FETCHES
        self._lock = threading.Lock()
        self._flights: dict[Hashable, Future[bool | None]] = {}  # whether it is held; None: cancelled

    async def fill(self, cache: SmartLRUCache, keys: Iterable[Hashable], fetch_fn: Fetch) -> dict[Hashable, bool]:
        """See `SmartLRUCache.prefetch`."""
        limit = asyncio.Semaphore(self._concurrency)

        async def one(key: Hashable) -> bool:
            async with limit:
                return await self._fill_one(cache, key, fetch_fn)

        answer = dict.fromkeys(keys, False)
        async with asyncio.TaskGroup() as group:
            tasks = {key: group.create_task(one(key)) for key in islice(answer, self._most)}
        return answer | {key: task.result() for key, task in tasks.items()}

    async def _fill_one(self, cache: SmartLRUCache, key: Hashable, fetch_fn: Fetch) -> bool:
        while True:
            with self._lock:
                if cache.contains(key):
                    return True
                flight = self._flights.get(key)
                if flight is None:
                    mine = self._flights[key] = Future()
            if flight is None:
                return await self._fly(cache, key, mine, fetch_fn)
            outcome = await asyncio.wrap_future(flight)
            if outcome is not None:
                return outcome

    async def _fly(self, cache: SmartLRUCache, key: Hashable, flight: Future[bool | None], fetch_fn: Fetch) -> bool:
        flight.set_running_or_notify_cancel()  # a waiter that is cancelled does not cancel the others
        outcome: bool | None = None
        try:
            outcome = await self._fetch(cache, key, fetch_fn)
            return outcome
        finally:
            with self._lock:
                del self._flights[key]
            flight.set_result(outcome)

    async def _fetch(self, cache: SmartLRUCache, key: Hashable, fetch_fn: Fetch) -> bool:
        reservation = cache.reserve(min(UNKNOWN_BYTES, cache.window // self._concurrency))
        if reservation is None:
            logger.debug("cache_prefetch_skipped key=%s reason=no_room", key)
            return False
        try:
            sample = await fetch_fn(key)
            entry = await asyncio.to_thread(cache.encode, sample)
            return entry is not None and cache.admit(key, entry, prefetched=True, reservation=reservation)
        except Exception as exc:
            logger.warning("cache_prefetch_failed key=%s error=%s", key, exc)
            return False
        finally:
            reservation.release()
