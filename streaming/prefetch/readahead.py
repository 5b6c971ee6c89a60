"""Load keys before they are demanded: each once, within bounds, in the announced order.

Keys come in by `announce` (the expected order) or by `get` (needed now). What was loaded and not used yet is kept in a
small ready set, from which a reader in any thread takes it without a hop to the event loop. `AsyncPrefetcher` and the
adapter are both built on it.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterable
from functools import partial
from typing import Any, Final

from streaming.core.miss import MISS
from streaming.errors import ClosedError
from streaming.prefetch.announced import MAX_DEPTH, AnnouncedOrder, AnnouncedOrders
from streaming.prefetch.demanded import DemandedLoads, Reserve
from streaming.prefetch.loads import Load, Releasable

__all__ = ["CONCURRENCY", "ReadAhead"]

CONCURRENCY: Final = 256
"""Loads in flight by default. Sources on a network have a concurrency limit of their own
(`streaming.resilience.concurrency_limit`); 64 would be 2,100 reads a second at 30 ms, where one server gave 4,600."""


class ReadAhead:
    """Loads announced keys ahead of their use, and any other key on demand.

    Args:
        load: `load(key, reservation)` returns a coroutine or future that loads one key in the share of the budget that
            `reserve` gave. Called once for all readers of a key.
        loop: the event loop that everything but `take` and `used` belongs to.
        max_ahead: most keys of one announced order that are loaded or loading, and not yet used or waited for by a
            thread; None adapts between 512 and 4,096.
        concurrency: most loads in flight for announced keys; a demanded key is always started.
        reserve: `reserve(key, demanded)` returns a share of the byte budget before a load starts; None means not now,
            and the announced keys wait until something was used. Without it there is no byte bound.
        is_held: whether a key needs no load, because a cache has it.
        keep_unused: keep what was loaded ahead for `take`, and count it until it is used. Otherwise a load ahead is
            done when it ends.
        copied: `copied(key, value)` returns a copy for one of several readers of one load; each of them gets what it
            raises.

    Attributes:
        announced: the announced orders, and what of them is loaded or loading and not used yet.
        hits: reads that found their key loaded ahead of time.
        is_full: whether the byte budget had no room for the next load ahead, and nothing was given back since.
    """

    def __init__(
        self,
        load: Callable[[Any, Any], asyncio.Future[Any] | Coroutine[Any, Any, Any]],
        loop: asyncio.AbstractEventLoop,
        *,
        max_ahead: int | None = None,
        concurrency: int | None = None,
        reserve: Reserve | None = None,
        is_held: Callable[[Any], bool] = lambda key: False,
        keep_unused: bool = True,
        copied: Callable[[Any, Any], Any] = lambda key, value: copy.deepcopy(value),
    ) -> None:
        self._load = load
        self.loop = loop
        self._concurrency = concurrency or CONCURRENCY
        self._reserve = reserve
        self._is_held = is_held
        self._copied = copied
        self._counts_unused = keep_unused
        self._keeps_ready = keep_unused
        self.announced = AnnouncedOrders(max_ahead)
        self._started = self.announced.started
        self._demanded = DemandedLoads(reserve, self._drop_furthest)
        self._loads: dict[Hashable, Load] = {}
        self._loads_ahead = 0
        self._ready: dict[Hashable, Any] = {}
        self._failed: dict[Hashable, BaseException] = {}
        self._awaited: dict[Hashable, threading.Lock] = {}  # a thread waits for this key, until its lock is released
        self.hits = 0
        self._used: deque[Hashable] = deque()  # reported by readers in any thread
        self._is_fill_due = False
        self.is_full = False
        self._is_closed = False

    @property
    def in_flight(self) -> int:
        """Number of loads in flight."""
        return len(self._loads)

    # -- from any thread

    def take(self, key: Hashable) -> Any:
        """Return what was loaded ahead for this key, which the caller owns from now on, or `MISS`. Any thread."""
        value = self._pop(key)
        self.hits += value is not MISS
        return value

    def _pop(self, key: Hashable) -> Any:
        value = self._ready.pop(key, MISS)
        if value is not MISS:
            self._report_used(key)
        return value

    def is_coming(self, key: Hashable) -> bool:
        """Whether a load of this key is in flight. Any thread."""
        return key in self._loads

    def is_ahead(self, key: Hashable) -> bool:
        """Whether this key is loaded or loading ahead, and was not used yet. Any thread."""
        return key in self._started

    def wait(self, key: Hashable) -> Any:
        """Like `take`, but blocks while a load of an announced key is in flight. Any thread except the loop's.

        `MISS` means that the key is not being loaded, that its load failed, or that another thread waits for it: `get`
        on the loop has the answer.
        """
        if key not in self._started or key in self._awaited:
            return MISS
        landing = threading.Lock()
        landing.acquire()
        self._awaited[key] = landing
        self.loop.call_soon_threadsafe(self._demand, key)
        try:
            value = self.take(key)
            if value is MISS and key in self._loads:  # looked up after the lock is known to `_end_wait`
                landing.acquire()
                value = self._pop(key)
            return value
        finally:
            self._awaited.pop(key, None)

    def _end_wait(self, key: Hashable) -> None:
        """Wake the thread that waits for a key."""
        landing = self._awaited.pop(key, None)
        if landing is not None:
            landing.release()

    def used(self, key: Hashable) -> None:
        """Report that this key was read from a cache, which makes room to read further ahead. Any thread."""
        if key in self._started:
            self._ready.pop(key, None)
            self._report_used(key)
            self.hits += key not in self._loads

    def _report_used(self, key: Hashable) -> None:
        self._used.append(key)
        if not self._is_fill_due and not self._is_closed:
            self._is_fill_due = True
            self.loop.call_soon_threadsafe(self._fill)

    # -- on the loop

    def announce(self, keys: Iterable[Hashable], order: Hashable = None) -> None:
        """Append keys to the order that will be read. Orders of different names advance independently."""
        self.announced.extend(keys, order)
        self._fill()

    def forget(self, order: Hashable = None) -> None:
        """Drop an announced order and what was loaded for it; a load that a reader waits for continues."""
        for key in self.announced.forget(order):
            self._drop(key)
        self._fill()

    def drop_ready(self) -> None:
        """Stop keeping values for `take`: the readers are other processes, which read from the cache."""
        self._keeps_ready = False
        self._ready.clear()

    async def get(self, key: Hashable) -> Any:
        """Return the value of this key: what is ready, what is in flight, or a load started now.

        A failed load raises here, once; the next call loads again. Cancelling the call cancels the load unless it was
        announced or another reader waits for it.

        Raises:
            ClosedError: the prefetcher was closed, before the call or during it.
            Exception: what the load raised.
        """
        if self._is_closed:
            raise ClosedError("read from a prefetcher that was stopped; start it again, or open a new one")
        value = self.take(key)
        if value is not MISS:
            return value
        error = self._failed.pop(key, None)
        if error is not None:
            self._settle(key)
            raise error
        load = self._loads.get(key) or self._start_demanded(key)
        self._grow_if_late()
        return await self._wait(load)

    async def _wait(self, load: Load) -> Any:
        waiter = self.loop.create_future()
        load.waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter in load.waiters:
                load.waiters.remove(waiter)
            if not load.waiters and not load.is_ahead:
                load.task.cancel()
            raise

    async def aclose(self) -> None:
        """Cancel every load, release what they hold, fail the waiting readers. Idempotent; leaves no task behind."""
        self._is_closed = True
        self.announced.clear()
        tasks = [load.task for load in self._loads.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._ready.clear()
        self._drain_used()
        for key in list(self._started):
            self._settle(key)
        self._failed.clear()
        for key in list(self._awaited):
            self._end_wait(key)

    def _fill(self) -> None:
        """Start announced loads while depth, concurrency and budget allow; the newest order first."""
        self._drain_used()
        if self._demanded.waiting and not self._demanded.grant():
            return
        for order in self.announced.newest_first():
            while order.keys and order.ahead < self.announced.depth and self._loads_ahead < self._concurrency:
                if not self._start_ahead(order.keys[0], order):
                    return
                order.keys.popleft()
            if not order.keys and not order.ahead:
                self.announced.end(order)

    def _start_ahead(self, key: Hashable, order: AnnouncedOrder) -> bool:
        """Start this load if it is needed; False if the byte budget has no room for it now."""
        if self.announced.skip(key) or key in self._started or key in self._loads:
            return True
        reservation = None
        try:
            if self._is_held(key):
                return True
            if self._reserve is not None:
                reservation = self._reserve(key, False)
                if reservation is None:
                    self.is_full = True
                    return False
        except Exception as exc:
            self._fail(key, True, [], exc)
            return True
        self.announced.start(key, order, reservation)
        self._start(key, True, reservation)
        return True

    def _start_demanded(self, key: Hashable) -> Load:
        if key in self._started:  # it was loaded ahead and lost since: that share is not for this load
            self._settle(key)
        self.announced.overtake(key)
        return self._start(key, False, None)

    def _start(self, key: Hashable, is_ahead: bool, reservation: Releasable | None) -> Load:
        load = self._loads[key] = Load(is_ahead)
        self._loads_ahead += is_ahead
        loop = self.loop
        try:
            if is_ahead:
                running = self._load(key, reservation)
            elif self._demanded.has_room(key, load):
                running = self._load(key, load.reservation)
            else:
                running = self._load_in_turn(key, load, self._demanded.turn_of(key, load))
            load.task = loop.create_task(running) if asyncio.iscoroutine(running) else asyncio.ensure_future(running)
        except Exception as exc:  # the load is known already, and others may join it
            load.task = loop.create_future()
            load.task.set_exception(exc)
        # A callback and not a wrapping coroutine: a task cancelled before its first step runs no `finally`.
        load.task.add_done_callback(partial(self._landed, key, load))
        return load

    async def _load_in_turn(self, key: Hashable, load: Load, turn: asyncio.Future[None]) -> Any:
        await turn
        return await self._load(key, load.reservation)

    def _landed(self, key: Hashable, load: Load, task: asyncio.Future[Any]) -> None:
        self._loads_ahead -= load.is_ahead
        if load.reservation is not None:
            self._demanded.release(load)
            self.is_full = False
        error = ClosedError("the prefetcher was stopped during this read") if task.cancelled() else task.exception()
        if self._loads.get(key) is load:  # else it was dropped, and settled then
            del self._loads[key]
            waiters = [waiter for waiter in load.waiters if not waiter.done()]
            if error is None:
                error = self._deliver(key, waiters, task.result())
            if error is not None:
                self._fail(key, load.is_ahead, waiters, error)
            self._end_wait(key)
        # A load that ended gives nothing back before it is used, and a reservation that is refused costs 5 us.
        is_hopeless = self.is_full and self._started and not self._used and not self._demanded.waiting
        if not self._is_closed and not is_hopeless:
            self._fill()

    def _deliver(self, key: Hashable, waiters: list[asyncio.Future[Any]], value: Any) -> Exception | None:
        """Give each reader a value of its own. Return the error of a copy, after which no reader has a value."""
        try:
            values = [value, *(self._copied(key, value) for _ in waiters[1:])]
        except Exception as exc:
            return exc
        for waiter, own in zip(waiters, values, strict=False):
            waiter.set_result(own)
        if waiters or not self._counts_unused:
            self._settle(key)
        elif self._keeps_ready and (key in self._started or key in self._awaited):
            self._ready[key] = value
        return None

    def _fail(self, key: Hashable, is_ahead: bool, waiters: list[asyncio.Future[Any]], error: BaseException) -> None:
        for waiter in waiters:
            waiter.set_exception(error)
        if not waiters and is_ahead:
            self._failed[key] = error  # raised at the read that needs it
            if len(self._failed) > MAX_DEPTH:
                del self._failed[next(iter(self._failed))]
        if waiters or not self._counts_unused:
            self._settle(key)

    def _drain_used(self) -> None:
        self._is_fill_due = False
        while self._used:
            self._settle(self._used.popleft())

    def _settle(self, key: Hashable) -> None:
        """Count a key as used and give its share of the budget back."""
        reservation = self.announced.use(key)
        if reservation is not None:
            reservation.release()
            self.is_full = False

    def _demand(self, key: Hashable) -> None:
        """Note that a thread waits for this key, so that another key may be loaded ahead in its place."""
        self._grow_if_late()
        load = self._loads.get(key)
        if load is not None and load.reservation is None and key in self._started:
            self._demanded.hold(load, self.announced.use(key))
            self._fill()

    def _grow_if_late(self) -> None:
        if self.announced.grow():
            self._fill()

    def _drop_furthest(self) -> bool:
        """Drop the load ahead that is needed last, to be started again later. False if there is none."""
        if not self._started:
            return False
        key = next(reversed(self._started))
        order = self._started[key].order
        self._drop(key)
        order.keys.appendleft(key)
        return True

    def _drop(self, key: Hashable) -> None:
        """Undo a load ahead: cancel it, or discard its result."""
        self._ready.pop(key, None)
        self._failed.pop(key, None)
        self._settle(key)
        load = self._loads.get(key)
        if load is not None and not load.waiters:
            del self._loads[key]
            load.task.cancel()
        self._end_wait(key)
