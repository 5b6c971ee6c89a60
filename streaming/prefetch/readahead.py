"""Load keys before they are demanded: each once, within bounds, in the announced order.

Keys come in by `announce` (the expected order) or by a read (needed now). What was loaded and not used yet is kept in a
small ready set, from which a reader in any thread takes it. The loads are run by an event loop, or by threads that take
them in runs (`take_run`). `AsyncPrefetcher` and the adapter are both built on it.

All state is under one lock, which is held for microseconds and never while something is loaded, copied or awaited.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Callable, Coroutine, Hashable, Iterable, Sequence
from functools import partial
from typing import Any, Final, Literal, NamedTuple

from streaming.core.miss import MISS
from streaming.errors import ClosedError
from streaming.prefetch.announced import MAX_DEPTH, AnnouncedOrder, AnnouncedOrders
from streaming.prefetch.demanded import DemandedLoads, Reserve
from streaming.prefetch.loads import Load, LoopWait, ThreadWait, Wait

__all__ = ["CONCURRENCY", "Failure", "Landing", "ReadAhead"]

CONCURRENCY: Final = 256
"""Loads in flight by default. Sources on a network have a concurrency limit of their own
(`streaming.resilience.concurrency_limit`); 64 would be 2,100 reads a second at 30 ms, where one server gave 4,600."""

_REFILL = 32  # keys that may be loaded before threads are woken: a thread that is woken for each key costs 20 us


class Failure(NamedTuple):
    """The error of one key, among the values of `get_each`."""

    error: BaseException


class Landing(NamedTuple):
    """A load that has ended: with a value, or with an error."""

    load: Load
    value: Any
    error: BaseException | None = None


class ReadAhead:
    """Loads announced keys ahead of their use, and any other key on demand. Safe in any thread, except where noted.

    Args:
        load: `load(key, reservation)` returns a coroutine or future that loads one key in the share of the budget that
            `reserve` gave. Called on the loop, once for all readers of a key; not at all if threads take the loads.
        loop: the event loop that runs the loads.
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
        wake_threads: called when threads may find loads in `take_run`; None: the loop runs all loads.

    Attributes:
        announced: the announced orders, and what of them is loaded or loading and not used yet.
        hits: reads that found their key loaded ahead of time.
        is_full: whether the byte budget had no room for the next load ahead, and nothing was given back since.
        has_more: whether the last `take_run` left loads that could be taken.
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
        wake_threads: Callable[[], None] | None = None,
    ) -> None:
        self._load = load
        self.loop = loop
        self._concurrency = concurrency or CONCURRENCY
        self._reserve = reserve
        self._is_held = is_held
        self._copied = copied
        self._wake_threads = wake_threads
        self._counts_unused = keep_unused
        self._keeps_ready = keep_unused
        self.announced = AnnouncedOrders(max_ahead)
        self._started = self.announced.started
        self._demanded = DemandedLoads(reserve, self._drop_furthest)
        self._loads: dict[Hashable, Load] = {}
        self._loads_ahead = 0
        self._ready: dict[Hashable, Any] = {}
        self._failed: dict[Hashable, BaseException] = {}
        self._lock = threading.Lock()
        self.hits = 0
        self.has_more = False
        self.is_full = False
        self._is_fill_due = False
        self._is_closed = False

    @property
    def in_flight(self) -> int:
        """Number of loads in flight."""
        return len(self._loads)

    def is_coming(self, key: Hashable) -> bool:
        """Whether a load of this key is in flight."""
        return key in self._loads

    def is_awaited(self, key: Hashable) -> bool:
        """Whether a reader waits for this key, which is in flight."""
        load = self._loads.get(key)
        return load is not None and bool(load.waiters)

    def is_ahead(self, key: Hashable) -> bool:
        """Whether this key is loaded or loading ahead, and was not used yet."""
        return key in self._started

    # -- reading

    def take(self, key: Hashable) -> Any:
        """Return what was loaded ahead for this key, which the caller owns from now on, or `MISS`."""
        value = self._ready.pop(key, MISS)
        if value is not MISS:
            self._count_used((key,))
        return value

    def take_many(self, keys: Sequence[Hashable]) -> list[Any]:
        """Do `take` for each key."""
        pop = self._ready.pop
        values = [pop(key, MISS) for key in keys]
        used = [key for key, value in zip(keys, values, strict=True) if value is not MISS]
        if used:
            self._count_used(used)
        return values

    def used(self, keys: Iterable[Hashable]) -> None:
        """Report that these keys were read from a cache, which makes room to read further ahead."""
        started = self._started
        used = [key for key in keys if key in started]
        if used:
            for key in used:
                self._ready.pop(key, None)
            self._count_used(used)

    def _count_used(self, keys: Sequence[Hashable]) -> None:
        with self._lock:
            self.hits += len(keys)
            for key in keys:
                self._settle(key)
        self._start_more()

    def read_many(self, keys: Sequence[Hashable]) -> list[Any]:
        """Return the values of these keys: what is ready, what is in flight, or loads started now. Blocks meanwhile.

        Any thread except the loop's. `MISS` for a key that `is_held`. Otherwise like `get`.
        """
        wait = ThreadWait(len(keys))
        self._join(keys, wait, is_thread=True)
        if wait.pending and wait.error is None:
            try:
                wait.block()
            except BaseException:
                self._withdraw(keys, wait)
                raise
        return self._values(keys, wait)

    async def get(self, key: Hashable) -> Any:
        """Return the value of this key: what is ready, what is in flight, or a load started now; on any loop.

        A failed load raises here, once; the next call loads again. Cancelling the call cancels the load unless it was
        announced or another reader waits for it. `MISS` if the key `is_held`.

        Raises:
            ClosedError: the prefetcher was closed, before the call or during it.
            Exception: what the load raised.
        """
        return (await self._get_many((key,), LoopWait(1, asyncio.get_running_loop())))[0]

    async def get_each(self, keys: Sequence[Hashable]) -> list[Any]:
        """Do `get` for each key, at once; the errors are `Failure`s among the values."""
        return await self._get_many(keys, _Each(len(keys), asyncio.get_running_loop()))

    async def _get_many(self, keys: Sequence[Hashable], wait: LoopWait) -> list[Any]:
        self._join(keys, wait, is_thread=False)
        if wait.pending and wait.error is None:
            try:
                await wait.woken
            except asyncio.CancelledError:
                self._withdraw(keys, wait)
                raise
        return self._values(keys, wait)

    def _values(self, keys: Sequence[Hashable], wait: Wait) -> list[Any]:
        if wait.error is not None:
            self._withdraw(keys, wait)
            raise wait.error
        return wait.values

    def _join(self, keys: Sequence[Hashable], wait: Wait, *, is_thread: bool) -> None:
        """Let a reader wait for these keys; start loads for those that are not in flight."""
        with self._lock:
            if self._is_closed:
                raise ClosedError("read from a prefetcher that was stopped; start it again, or open a new one")
            for at, key in enumerate(keys):
                self._join_one(key, wait, at, is_thread)
                if wait.error is not None:
                    break
            is_late = wait.pending > 0 and self.announced.grow()
        if wait.pending or is_late:
            self._start_now()

    def _join_one(self, key: Hashable, wait: Wait, at: int, is_thread: bool) -> None:
        value = self._ready.pop(key, MISS)
        if value is not MISS:
            self.hits += 1
            self._settle(key)
            wait.values[at] = value
            return
        error = self._failed.pop(key, None)
        if error is not None:
            self._settle(key)
            wait.pending += 1
            wait.fail(at, error)
            return
        load = self._loads.get(key)
        if load is None:
            if self._is_held(key):  # it has landed since the reader looked
                return
            load = self._demand(key)
        elif is_thread and load.reservation is None and key in self._started:
            # Look-ahead is counted from what is needed now, so that another key may be loaded ahead in its place.
            self._demanded.hold(load, self.announced.use(key))
        wait.pending += 1
        load.waiters.append((wait, at))

    def _demand(self, key: Hashable) -> Load:
        if key in self._started:  # it was loaded ahead and lost since: that share is not for this load
            self._settle(key)
        self.announced.overtake(key)
        load = self._loads[key] = Load(key, is_ahead=False)
        self._demanded.waiting.append(load)
        return load

    def _withdraw(self, keys: Sequence[Hashable], wait: Wait) -> None:
        """Let a reader no longer wait; a load that no one waits for and that was not announced is cancelled."""
        with self._lock:
            for key in keys:
                load = self._loads.get(key)
                if load is None:
                    continue
                load.waiters = [waiter for waiter in load.waiters if waiter[0] is not wait]
                if not load.waiters and not load.is_ahead:
                    self._cancel(load)

    # -- announcing

    def announce(self, keys: Iterable[Hashable], order: Hashable = None) -> None:
        """Append keys to the order that will be read. Orders of different names advance independently."""
        with self._lock:
            self.announced.extend(keys, order)
        self._start_now()

    def forget(self, order: Hashable = None) -> None:
        """Drop an announced order and what was loaded for it; a load that a reader waits for continues."""
        with self._lock:
            for key in self.announced.forget(order):
                self._drop(key)
        self._start_now()

    def drop_ready(self) -> None:
        """Stop keeping values for `take`: the readers are other processes, which read from the cache."""
        with self._lock:
            self._keeps_ready = False
            self._ready.clear()

    # -- choosing what to load

    def _choose(self) -> Load | None:
        """Return the next load, with its share of the budget; None while there is none, or no room. Under the lock.

        What a reader waits for comes first, then the announced keys while depth, concurrency and budget allow; the
        newest order first.
        """
        while self._demanded.waiting:
            load = self._demanded.waiting[0]
            if self._loads.get(load.key) is load:  # else it was cancelled
                try:
                    if not self._demanded.has_room(load):
                        return None
                except Exception as exc:
                    self._fail_now(load, exc)
                    continue
                load.share = load.reservation
                self._demanded.waiting.popleft()
                return load
            self._demanded.waiting.popleft()
        announced = self.announced
        for order in announced.newest_first():
            while order.keys and order.ahead < announced.depth and self._loads_ahead < self._concurrency:
                key = order.keys[0]
                if announced.skip(key) or key in self._started or key in self._loads:
                    order.keys.popleft()
                    continue
                chosen = self._choose_ahead(key, order)
                if chosen is False:
                    return None
                order.keys.popleft()
                if chosen is not None:
                    return chosen
            if not order.keys and not order.ahead:
                announced.end(order)
        return None

    def _choose_ahead(self, key: Hashable, order: AnnouncedOrder) -> Load | Literal[False] | None:
        """Return the load of an announced key, None if it needs none, or False if there is no room for it now."""
        reservation = None
        try:
            if self._is_held(key):
                return None
            if self._reserve is not None:
                if self.is_full and self._started:  # nothing was given back: a refusal costs 5 us
                    return False
                reservation = self._reserve(key, False)
                if reservation is None:
                    self.is_full = True
                    return False
        except Exception as exc:
            self._keep_failure(key, exc)
            return None
        self.announced.start(key, order, reservation)
        load = self._loads[key] = Load(key, is_ahead=True)
        load.share = reservation
        self._loads_ahead += 1
        return load

    def _fail_now(self, load: Load, error: Exception) -> None:
        """End a load that could not be started. Under the lock."""
        del self._loads[load.key]
        waiters, load.waiters = load.waiters, []
        for wait, at in waiters:
            if wait.fail(at, error):
                wait.wake()

    # -- starting loads

    def _start_more(self) -> None:
        """Start what may be started after keys were used: in threads not for each key."""
        if self._wake_threads is None:
            self._fill_soon()
            return
        announced = self.announced
        enough = min(_REFILL, announced.depth // 8 or 1)
        with self._lock:
            is_due = any(order.keys and announced.depth - order.ahead >= enough for order in announced.newest_first())
        if is_due or self._demanded.waiting:
            self._wake_threads()

    def _start_now(self) -> None:
        if self._wake_threads is not None:
            self._wake_threads()
        elif asyncio._get_running_loop() is self.loop:
            self._fill()
        else:
            self._fill_soon()

    def _fill_soon(self) -> None:
        if not self._is_fill_due and not self._is_closed:
            self._is_fill_due = True
            try:
                self.loop.call_soon_threadsafe(self._fill)
            except RuntimeError:
                if not self.loop.is_closed():
                    raise

    def _fill(self) -> None:
        """Start the loads on the loop."""
        self._is_fill_due = False
        if self._wake_threads is not None:
            return
        while not self._is_closed:
            with self._lock:
                load = self._choose()
            if load is None:
                return
            try:
                running = self._load(load.key, load.share)
            except Exception as exc:  # the load is known already, and others may join it
                running = self.loop.create_future()
                running.set_exception(exc)
            self._run(load, running)

    def run_on_loop(self, load: Load, running: asyncio.Future[Any] | Coroutine[Any, Any, Any]) -> None:
        """Let the loop finish a load that a thread took and passed on. On the loop."""
        with self._lock:
            is_wanted = self._loads.get(load.key) is load
        if is_wanted:
            self._run(load, running)
            return
        if asyncio.iscoroutine(running):
            running.close()
        self.land([Landing(load, MISS)])

    def _run(self, load: Load, running: asyncio.Future[Any] | Coroutine[Any, Any, Any]) -> None:
        task = self.loop.create_task(running) if asyncio.iscoroutine(running) else asyncio.ensure_future(running)
        with self._lock:
            load.task = task
            is_wanted = self._loads.get(load.key) is load
        # A callback and not a wrapping coroutine: a task cancelled before its first step runs no `finally`.
        task.add_done_callback(partial(self._landed, load))
        if not is_wanted:
            task.cancel()

    def _landed(self, load: Load, task: asyncio.Future[Any]) -> None:
        error = ClosedError("the prefetcher was stopped during this read") if task.cancelled() else task.exception()
        self.land([Landing(load, None if error is not None else task.result(), error)])

    def take_run(self, most: int, landings: Sequence[Landing] = ()) -> list[Load]:
        """End a thread's loads as `land` does, and return its next ones: at most this many, none if there are none."""
        run: list[Load] = []
        with self._lock:
            awaited = self._end(landings) if landings else ()
            while not self._is_closed and len(run) < most:
                load = self._choose()
                if load is None:
                    break
                run.append(load)
            self.has_more = len(run) == most
        for landing, waiters in awaited:
            self._deliver(landing, waiters)
        return run

    # -- ending loads

    def land(self, landings: Sequence[Landing]) -> None:
        """End loads: give their values to the readers that wait, or keep them for those that come."""
        with self._lock:
            awaited = self._end(landings)
        for landing, waiters in awaited:
            self._deliver(landing, waiters)
        if self._wake_threads is None:
            # A load that ended gives nothing back before it is used, and a reservation that is refused costs 5 us.
            is_hopeless = self.is_full and self._started and not self._demanded.waiting
            if not self._is_closed and not is_hopeless:
                self._start_now()
        elif awaited and self._demanded.waiting:
            self._wake_threads()

    def _end(self, landings: Sequence[Landing]) -> list[tuple[Landing, list[tuple[Wait, int]]]]:
        """Take loads out of flight, and return those that readers wait for, with their waits. Under the lock."""
        awaited = []
        for landing in landings:
            load, value, error = landing
            self._loads_ahead -= load.is_ahead
            if load.reservation is not None:
                self._demanded.release(load)
                self.is_full = False
            key = load.key
            if self._loads.get(key) is not load:  # it was dropped, and settled then
                continue
            del self._loads[key]
            if load.waiters:
                awaited.append((landing, load.waiters))
                self._settle(key)
            elif error is not None:
                if load.is_ahead:
                    self._keep_failure(key, error)
            elif not self._counts_unused:
                self._settle(key)
            elif self._keeps_ready and key in self._started:
                self._ready[key] = value
        return awaited

    def _deliver(self, landing: Landing, waiters: Sequence[tuple[Wait, int]]) -> None:
        """Give each reader a value of its own; if one cannot be copied, no reader has a value."""
        load, value, error = landing
        values = [value] * len(waiters)
        if error is None and len(waiters) > 1:
            try:
                values[1:] = [self._copied(load.key, value) for _ in waiters[1:]]
            except Exception as exc:
                error = exc
        with self._lock:
            if error is None:
                woken = [wait for (wait, at), own in zip(waiters, values, strict=True) if wait.put(at, own)]
            else:
                woken = [wait for wait, at in waiters if wait.fail(at, error)]
        for wait in woken:
            wait.wake()

    def _keep_failure(self, key: Hashable, error: BaseException) -> None:
        """Keep an error for the read that needs the key."""
        self._failed[key] = error
        if len(self._failed) > MAX_DEPTH:
            del self._failed[next(iter(self._failed))]
        if not self._counts_unused:
            self._settle(key)

    def _settle(self, key: Hashable) -> None:
        """Count a key as used and give its share of the budget back."""
        reservation = self.announced.use(key)
        if reservation is not None:
            reservation.release()
            self.is_full = False

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
            self._cancel(load)

    def _cancel(self, load: Load) -> None:
        """Forget a load; one that a thread has begun ends unseen. Under the lock."""
        del self._loads[load.key]
        if load.task is None:
            return
        if asyncio._get_running_loop() is self.loop:
            load.task.cancel()
        else:
            self.loop.call_soon_threadsafe(load.task.cancel)

    async def aclose(self) -> None:
        """Cancel every load, release what they hold, fail the waiting readers. Idempotent; leaves no task behind.

        A load that a thread has begun is not waited for.
        """
        with self._lock:
            self._is_closed = True
            self.announced.clear()
            self._demanded.waiting.clear()
            loads = list(self._loads.values())
            abandoned = [load for load in loads if load.task is None]
            for load in abandoned:
                del self._loads[load.key]
        for load in abandoned:
            error = ClosedError("the prefetcher was stopped during this read")
            self._deliver(Landing(load, None, error), load.waiters)
        tasks = [load.task for load in loads if load.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        with self._lock:
            self._ready.clear()
            for key in list(self._started):
                self._settle(key)
            self._failed.clear()


class _Each(LoopWait):
    """Waits for every load, and keeps errors among the values."""

    def fail(self, at: int, error: BaseException) -> bool:
        return self.put(at, Failure(error))
