"""Load keys before they are asked for: single flight, bounded, in the announced order.

`ReadAhead` lives on one event loop. Keys come in by `announce` (the expected order) or by `get` (needed now). Each key
is loaded once however many ask for it. What was loaded and not yet used waits in a small ready set, from which a reader
in any thread takes it without a hop to the loop. `AsyncPrefetcher` and the adapter are both built on it.
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
from streaming.prefetch.flights import Ahead, AnnouncedOrder, Flight, Releasable

__all__ = ["ReadAhead"]

START_DEPTH: Final = 512
MAX_DEPTH: Final = 4096
"""Adaptive depth starts at eight batches of 64 and doubles each time a reader has to wait while it is the limit."""

CONCURRENCY: Final = 256
"""Loads in flight by default. Sources on a network bound theirs by themselves
(`streaming.resilience.concurrency_limit`); 64 would be 2,100 reads a second at 30 ms, where one server gave 4,600."""


class ReadAhead:
    """Loads announced keys ahead of their use, and any other key on demand.

    Args:
        load: `load(key, reservation)` returns a coroutine or future that loads one key. Called once per flight, with
            what `reserve` gave it.
        loop: the event loop that everything but `take` and `used` belongs to.
        max_ahead: most keys of one announced order that are loaded or loading, and not yet used or waited for by a
            thread; None adapts between 512 and 4,096.
        concurrency: most loads in flight for announced keys; a demanded key is always started.
        reserve: asked for a share of the byte budget before a load starts, `reserve(key, demanded)`; None means not
            now, and the announced keys wait until something was used. Without it there is no byte bound.
        is_held: whether a key needs no load, because a cache has it.
        keep_unused: keep what was loaded ahead for `take`, and count it until it is used. Otherwise a load ahead is
            done when it ends.
        copied: `copied(key, value)` is a copy for one of several readers of one load; what it raises, all of them get.

    Attributes:
        hits: reads that found their key loaded ahead of time.
    """

    def __init__(
        self,
        load: Callable[[Any, Any], asyncio.Future[Any] | Coroutine[Any, Any, Any]],
        loop: asyncio.AbstractEventLoop,
        *,
        max_ahead: int | None = None,
        concurrency: int | None = None,
        reserve: Callable[[Any, bool], Releasable | None] | None = None,
        is_held: Callable[[Any], bool] = lambda key: False,
        keep_unused: bool = True,
        copied: Callable[[Any, Any], Any] = lambda key, value: copy.deepcopy(value),
    ) -> None:
        self._load = load
        self.loop = loop
        self._is_adaptive = max_ahead is None
        self._depth = START_DEPTH if max_ahead is None else max_ahead
        self._concurrency = concurrency or CONCURRENCY
        self._reserve = reserve
        self._is_held = is_held
        self._copied = copied
        self._counts_unused = keep_unused
        self._keeps_ready = keep_unused
        self._plans: dict[Hashable, AnnouncedOrder] = {}
        self._flights: dict[Hashable, Flight] = {}
        self._flights_ahead = 0
        self._ahead: dict[Hashable, Ahead] = {}  # started ahead and not yet used, oldest first
        self._ready: dict[Hashable, Any] = {}
        self._failed: dict[Hashable, BaseException] = {}
        self._watched: dict[Hashable, threading.Lock] = {}  # a thread waits for this key to land
        self._queue: deque[tuple[Hashable, Flight, asyncio.Future[None]]] = deque()  # demanded, and no room yet
        self._overtaken: set[Hashable] = set()  # demanded before their turn in an announced order came
        self.hits = 0
        self._holders = 0  # demanded flights that hold a share of the budget, and give it back when they land
        self._used: deque[Hashable] = deque()  # reported by readers in any thread
        self._is_fill_due = False
        self._is_full = False  # the budget had no room for the next load ahead, and nothing was given back since
        self._is_closed = False

    @property
    def depth(self) -> int:
        """Most keys of one order loaded or loading and not yet used, at this moment."""
        return self._depth

    @property
    def in_flight(self) -> int:
        """Loads under way."""
        return len(self._flights)

    @property
    def ahead(self) -> int:
        """Announced keys that are loaded or loading, and not yet used."""
        return len(self._ahead)

    @property
    def orders(self) -> int:
        """Announced orders of which something was not read yet."""
        return len(self._plans)

    @property
    def is_full(self) -> bool:
        """Whether the next load ahead found no room in the byte budget, and nothing was given back since."""
        return self._is_full

    @property
    def waiting(self) -> int:
        """Announced keys whose load has not started. Any thread."""
        return sum([len(plan.keys) for plan in list(self._plans.values())])  # of what the loop may change meanwhile

    # -- from any thread

    def take(self, key: Hashable) -> Any:
        """What was loaded ahead for this key, or `MISS`. The caller owns it. Any thread."""
        value = self._pop(key)
        self.hits += value is not MISS
        return value

    def _pop(self, key: Hashable) -> Any:
        value = self._ready.pop(key, MISS)
        if value is not MISS:
            self._report_used(key)
        return value

    def is_coming(self, key: Hashable) -> bool:
        """Whether a load of this key is under way. Any thread."""
        return key in self._flights

    def is_ahead(self, key: Hashable) -> bool:
        """Whether this key was loaded ahead, or is on its way, and was not used yet. Any thread."""
        return key in self._ahead

    def wait(self, key: Hashable) -> Any:
        """Like `take`, but blocks while an announced key is on its way. Any thread except the loop's.

        `MISS` means that nobody is loading the key, that its load failed, or that another thread waits for it: `get` on
        the loop has the answer.
        """
        ahead = self._ahead.get(key)
        if ahead is None or key in self._watched:
            return MISS
        gate = threading.Lock()
        gate.acquire()
        self._watched[key] = gate
        self.loop.call_soon_threadsafe(self._demand, key)
        try:
            value = self.take(key)
            if value is MISS and key in self._flights:  # looked at after the gate stands: whoever lands it opens it
                gate.acquire()
                value = self._pop(key)
            return value
        finally:
            self._watched.pop(key, None)

    def _open_gate(self, key: Hashable) -> None:
        gate = self._watched.pop(key, None)
        if gate is not None:
            gate.release()

    def used(self, key: Hashable) -> None:
        """Say that this key was read elsewhere (from a cache), which makes room to read further ahead. Any thread."""
        if key in self._ahead:
            self._ready.pop(key, None)
            self._report_used(key)
            self.hits += key not in self._flights

    def _report_used(self, key: Hashable) -> None:
        self._used.append(key)
        if not self._is_fill_due and not self._is_closed:
            self._is_fill_due = True
            self.loop.call_soon_threadsafe(self._fill)

    # -- on the loop

    def announce(self, keys: Iterable[Hashable], order: Hashable = None) -> None:
        """Append keys to the order that will be read; several orders, told apart by any value, go on side by side."""
        self._plans.setdefault(order, AnnouncedOrder()).keys.extend(keys)
        self._fill()

    def forget(self, order: Hashable = None) -> None:
        """Drop an announced order and whatever was loaded for it; a load that a reader waits for goes on."""
        plan = self._plans.pop(order, None)
        if plan is not None:
            for key in [key for key, ahead in self._ahead.items() if ahead.plan is plan]:
                self._drop(key)
            if not any(plan.keys for plan in self._plans.values()):
                self._overtaken.clear()
            self._fill()

    def drop_ready(self) -> None:
        """Stop keeping values for `take`: the readers are other processes, which read from the cache."""
        self._keeps_ready = False
        self._ready.clear()

    async def get(self, key: Hashable) -> Any:
        """The value of this key: what is ready, what is in flight, or a load started now.

        A failed load raises here, once; the next call loads again. Cancelling the call cancels the load unless another
        reader or an announced order wants it too.

        Raises:
            ClosedError: the engine was closed, before the call or during it.
            Exception: whatever the load raised.
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
        flight = self._flights.get(key) or self._start(key, False)
        self._grow_if_late()
        return await self._wait(flight)

    async def _wait(self, flight: Flight) -> Any:
        waiter = self.loop.create_future()
        flight.waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter in flight.waiters:
                flight.waiters.remove(waiter)
            if not flight.waiters and not flight.is_ahead:
                flight.task.cancel()
            raise

    async def aclose(self) -> None:
        """Cancel every load, release what they hold, fail those who wait. Idempotent; leaves no task behind."""
        self._is_closed = True
        self._plans.clear()
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._ready.clear()
        self._drain_used()
        for key in list(self._ahead):
            self._settle(key)
        self._failed.clear()
        for key in list(self._watched):
            self._open_gate(key)

    def _fill(self) -> None:
        """Start announced loads while depth, concurrency and budget allow; the newest order first."""
        self._drain_used()
        self._grant()
        if self._queue:
            return
        for order in reversed(list(self._plans)):
            plan = self._plans[order]
            while plan.keys and plan.ahead < self._depth and self._flights_ahead < self._concurrency:
                if not self._start_ahead(plan.keys[0], plan):
                    return
                plan.keys.popleft()
            if not plan.keys and not plan.ahead:  # over, and there may be one for each epoch of a long run
                del self._plans[order]

    def _start_ahead(self, key: Hashable, plan: AnnouncedOrder) -> bool:
        """Start this load unless it is not needed; False when the byte budget has no room for it now."""
        if key in self._overtaken:
            self._overtaken.remove(key)
            return True
        if key in self._ahead or key in self._flights:
            return True
        reservation = None
        try:
            if self._is_held(key):
                return True
            if self._reserve is not None:
                reservation = self._reserve(key, False)
                if reservation is None:
                    self._is_full = True
                    return False
        except Exception as exc:
            self._fail(key, True, [], exc)
            return True
        self._ahead[key] = Ahead(plan, reservation)
        plan.ahead += 1
        self._start(key, True, reservation)
        return True

    def _drain_used(self) -> None:
        self._is_fill_due = False
        while self._used:
            self._settle(self._used.popleft())

    def _settle(self, key: Hashable) -> None:
        """Count a key as used and give its share of the budget back."""
        ahead = self._ahead.pop(key, None)
        if ahead is not None:
            ahead.plan.ahead -= 1
            if ahead.reservation is not None:
                ahead.reservation.release()
                self._is_full = False

    def _start(self, key: Hashable, is_ahead: bool, reservation: Releasable | None = None) -> Flight:
        if not is_ahead:  # it may have been loaded ahead and lost since: what it holds for that is not another's
            self._settle(key)
        flight = Flight(is_ahead)
        self._flights[key] = flight
        self._flights_ahead += is_ahead
        if not is_ahead and any(plan.keys for plan in self._plans.values()):
            if len(self._overtaken) >= MAX_DEPTH:  # of readers beside the order: theirs are never announced
                self._overtaken.clear()
            self._overtaken.add(key)
        try:
            if is_ahead or self._has_room_for(key, flight):
                load = self._load(key, flight.reservation or reservation)
            else:
                turn = self.loop.create_future()
                self._queue.append((key, flight, turn))
                load = self._load_at(turn, key, flight)
            flight.task = self.loop.create_task(load) if asyncio.iscoroutine(load) else asyncio.ensure_future(load)
        except Exception as exc:  # the flight is known already, and others may join it
            flight.task = self.loop.create_future()
            flight.task.set_exception(exc)
        # A callback and not a wrapping coroutine: a task cancelled before its first step runs no `finally`.
        flight.task.add_done_callback(partial(self._landed, key, flight))
        return flight

    async def _load_at(self, turn: asyncio.Future[None], key: Hashable, flight: Flight) -> Any:
        await turn
        return await self._load(key, flight.reservation)

    def _landed(self, key: Hashable, flight: Flight, task: asyncio.Future[Any]) -> None:
        self._flights_ahead -= flight.is_ahead
        if flight.reservation is not None:
            flight.reservation.release()
            self._holders -= 1
            self._is_full = False
        error = ClosedError("the prefetcher was stopped during this read") if task.cancelled() else task.exception()
        if self._flights.get(key) is flight:  # else it was dropped meanwhile, and settled then
            del self._flights[key]
            waiters = [waiter for waiter in flight.waiters if not waiter.done()]
            try:
                values = [] if error is not None else self._values(key, len(waiters), task.result())
            except Exception as exc:
                error = exc
            if error is None:
                self._deliver(key, waiters, values)
            else:
                self._fail(key, flight.is_ahead, waiters, error)
            self._open_gate(key)
        # A load that landed frees no budget before it is used: to ask for it each time in vain costs 5 us.
        if not self._is_closed and not (self._is_full and self._ahead and not self._used and not self._queue):
            self._fill()

    def _values(self, key: Hashable, many: int, value: Any) -> list[Any]:
        """What was loaded, and a copy for each further reader: each owns what it gets."""
        return [value, *(self._copied(key, value) for _ in range(many - 1))]

    def _deliver(self, key: Hashable, waiters: list[asyncio.Future[Any]], values: list[Any]) -> None:
        for waiter, value in zip(waiters, values, strict=False):
            waiter.set_result(value)
        if waiters or not self._counts_unused:
            self._settle(key)
        elif self._keeps_ready and (key in self._ahead or key in self._watched):
            self._ready[key] = values[0]

    def _fail(self, key: Hashable, is_ahead: bool, waiters: list[asyncio.Future[Any]], error: BaseException) -> None:
        for waiter in waiters:
            waiter.set_exception(error)
        if not waiters and is_ahead:
            self._failed[key] = error  # raised at the read that needs it
            if len(self._failed) > MAX_DEPTH:
                del self._failed[next(iter(self._failed))]
        if waiters or not self._counts_unused:
            self._settle(key)

    def _demand(self, key: Hashable) -> None:
        """A thread waits for this key: it is no longer ahead of its reader, and another one may start in its place."""
        self._grow_if_late()
        flight = self._flights.get(key)
        ahead = self._ahead.get(key)
        if flight is not None and ahead is not None and flight.reservation is None:
            del self._ahead[key]
            ahead.plan.ahead -= 1
            flight.reservation = ahead.reservation
            self._holders += ahead.reservation is not None
            self._fill()

    def _grant(self) -> None:
        """Start the demanded loads that waited for room, in the order of asking."""
        while self._queue:
            key, flight, turn = self._queue[0]
            if not (turn.done() or flight.task.done()):  # else it was cancelled
                try:
                    if not self._has_room_for(key, flight):
                        return
                    turn.set_result(None)
                except Exception as exc:
                    turn.set_exception(exc)
            self._queue.popleft()

    def _has_room_for(self, key: Hashable, flight: Flight) -> bool:
        """Give a demanded load its share of the budget, or let it go without one. False: it has to wait for others.

        Loads ahead are not dropped while a demanded one is on its way: that ends by itself, they would be loaded twice.
        """
        if self._reserve is None:
            return True
        reservation = self._reserve(key, True)
        if reservation is None and self._holders:
            return False
        while reservation is None and self._ahead:
            furthest = next(reversed(self._ahead))
            plan = self._ahead[furthest].plan
            self._drop(furthest)
            plan.keys.appendleft(furthest)
            reservation = self._reserve(key, True)
        flight.reservation = reservation
        self._holders += reservation is not None
        return True

    def _drop(self, key: Hashable) -> None:
        """Undo a load ahead: cancel it, or forget what it brought."""
        self._ready.pop(key, None)
        self._failed.pop(key, None)
        self._settle(key)
        flight = self._flights.get(key)
        if flight is not None and not flight.waiters:
            del self._flights[key]
            flight.task.cancel()
        self._open_gate(key)

    def _grow_if_late(self) -> None:
        if self._is_adaptive and any(plan.keys and plan.ahead >= self._depth for plan in self._plans.values()):
            self._depth = min(2 * self._depth, MAX_DEPTH)
            self._fill()
