"""`ReadAhead`: loads in the announced order, within bounds, each once."""

import asyncio
import threading
from typing import Any

import pytest

from streaming.core.miss import MISS
from streaming.errors import ClosedError
from streaming.prefetch.readahead import ReadAhead


class Store:
    """Loads that the test ends, and a byte budget that counts."""

    def __init__(self, budget=None):
        self.started = []
        self.begun = {}
        self.gates = {}
        self.budget = budget
        self.reserved = 0

    async def load(self, key, reservation):
        self.started.append(key)
        self.begun.setdefault(key, asyncio.Event()).set()
        gate = self.gates.setdefault(key, asyncio.get_running_loop().create_future())
        await gate
        return [key]

    def finish(self, key, error=None):
        gate = self.gates.setdefault(key, asyncio.get_running_loop().create_future())
        if error is None:
            gate.set_result(None)
        else:
            gate.set_exception(error)

    def reserve(self, key, demanded):
        if self.budget is not None and self.reserved >= self.budget:
            return None
        self.reserved += 1
        return Share(self)


class Share:
    """One unit of the store's budget."""

    def __init__(self, store):
        self.store = store

    def release(self):
        if self.store is not None:
            self.store.reserved -= 1
            self.store = None


async def settle():
    """Run every callback that is due."""
    for _ in range(10):
        await asyncio.sleep(0)


def engine_over(store, **options):
    return ReadAhead(store.load, asyncio.get_running_loop(), reserve=store.reserve, **options)


async def test_loads_follow_the_announced_order_within_the_depth():
    """No more than max_ahead keys are loaded and unused, and they start in order."""
    store = Store()
    engine = engine_over(store, max_ahead=3)
    engine.announce("abcdef")
    await settle()
    assert store.started == ["a", "b", "c"]
    store.finish("a")
    await settle()
    assert store.started == ["a", "b", "c"]
    assert engine.take("a") == ["a"]
    await settle()
    assert store.started == ["a", "b", "c", "d"]
    await engine.aclose()


async def test_concurrency_bounds_loads_in_flight():
    """Loads that ended make room even before they are used."""
    store = Store()
    engine = engine_over(store, max_ahead=10, concurrency=2)
    engine.announce("abcd")
    await settle()
    assert store.started == ["a", "b"]
    store.finish("b")
    await settle()
    assert store.started == ["a", "b", "c"]
    await engine.aclose()


async def test_readers_of_one_key_share_one_load_and_own_their_values():
    """There is one load, and no reader sees what another wrote."""
    store = Store()
    engine = engine_over(store)
    reads = [asyncio.ensure_future(engine.get("a")) for _ in range(3)]
    await settle()
    store.finish("a")
    values = await asyncio.gather(*reads)
    assert store.started == ["a"]
    assert values == [["a"]] * 3
    values[0].append("written")
    assert values[1:] == [["a"]] * 2


async def test_a_reader_joins_the_load_that_was_announced():
    """A key in flight is not loaded again."""
    store = Store()
    engine = engine_over(store)
    engine.announce("a")
    read = asyncio.ensure_future(engine.get("a"))
    await settle()
    store.finish("a")
    assert await read == ["a"]
    assert store.started == ["a"]
    assert engine.take("a") is MISS
    assert store.reserved == 0


async def test_a_failure_surfaces_once_at_the_read_that_needs_it():
    """An announced load that failed raises at its read; the read after that loads again."""
    store = Store()
    engine = engine_over(store)
    engine.announce("ab")
    await settle()
    store.finish("a", OSError("planted"))
    store.finish("b")
    await settle()
    assert await engine.get("b") == ["b"]
    with pytest.raises(OSError, match="planted"):
        await engine.get("a")
    store.gates.clear()
    again = asyncio.ensure_future(engine.get("a"))
    await settle()
    store.finish("a")
    assert await again == ["a"]
    assert store.reserved == 0


async def test_every_waiting_reader_gets_the_failure():
    """A failed load fails all its readers, and leaves nothing for the next reader."""
    store = Store()
    engine = engine_over(store)
    reads = [asyncio.ensure_future(engine.get("a")) for _ in range(2)]
    await settle()
    store.finish("a", ValueError("planted"))
    results = await asyncio.gather(*reads, return_exceptions=True)
    assert [type(result) for result in results] == [ValueError, ValueError]
    assert engine.in_flight == 0


async def test_cancelling_the_only_reader_cancels_its_load():
    """A load without a reader stops and gives its budget back."""
    store = Store()
    engine = engine_over(store)
    read = asyncio.ensure_future(engine.get("a"))
    await settle()
    read.cancel()
    await settle()
    assert store.gates["a"].cancelled()
    assert (engine.in_flight, store.reserved) == (0, 0)


async def test_cancelling_before_the_load_began_leaves_nothing():
    """A reader that is cancelled before its load starts leaves no load behind."""
    store = Store()
    engine = engine_over(store)
    read = asyncio.ensure_future(engine.get("a"))
    await asyncio.sleep(0)
    read.cancel()
    await settle()
    assert (engine.in_flight, store.reserved) == (0, 0)
    again = asyncio.ensure_future(engine.get("a"))
    await settle()
    store.gates.clear()
    await engine.aclose()
    with pytest.raises(ClosedError):
        await again


async def test_cancelling_one_reader_leaves_the_others():
    """The load continues while another reader waits for it."""
    store = Store()
    engine = engine_over(store)
    first = asyncio.ensure_future(engine.get("a"))
    second = asyncio.ensure_future(engine.get("a"))
    await settle()
    first.cancel()
    await settle()
    store.finish("a")
    assert await second == ["a"]


async def test_the_budget_bounds_what_is_announced_and_never_starves_a_reader():
    """Announced loads wait for room; the furthest gives way to a demanded key, and is loaded again later."""
    store = Store(budget=2)
    engine = engine_over(store)
    engine.announce("abc")
    await settle()
    assert store.started == ["a", "b"]
    read = asyncio.ensure_future(engine.get("z"))
    await settle()
    assert store.started == ["a", "b", "z"]
    assert store.gates["b"].cancelled()
    store.gates.pop("b")
    store.finish("z")
    assert await read == ["z"]
    await settle()
    assert store.started == ["a", "b", "z", "b"]
    await engine.aclose()
    assert store.reserved == 0


async def test_each_load_gets_the_reservation_made_for_it():
    """Announced, demanded, or demanded and waiting for room: the load gets what is released after it."""
    store = Store(budget=1)
    made: dict[Any, Any] = {}
    given: dict[Any, Any] = {}

    def reserve(key, demanded):
        share = store.reserve(key, demanded)
        made[key] = share or made.get(key)
        return share

    async def load(key, reservation):
        given[key] = reservation
        return await store.load(key, reservation)

    engine = ReadAhead(load, asyncio.get_running_loop(), reserve=reserve)
    engine.announce("a")
    await settle()
    store.finish("a")
    assert await engine.get("a") == ["a"]
    reads = [asyncio.ensure_future(engine.get(key)) for key in "bc"]
    await settle()
    assert store.started == ["a", "b"]
    store.finish("b")
    await settle()
    store.finish("c")
    assert await asyncio.gather(*reads) == [["b"], ["c"]]
    assert given == made
    assert None not in made.values()
    await engine.aclose()
    assert store.reserved == 0


async def test_demanded_loads_wait_for_each_other_and_then_come_first():
    """Without room, a demanded load waits for another to end; meanwhile nothing is loaded ahead or dropped."""
    store = Store(budget=2)
    engine = engine_over(store)
    engine.announce("abcd")
    await settle()
    reads = [asyncio.ensure_future(engine.get(key)) for key in "axyz"]
    await settle()
    assert store.started == ["a", "b", "x"]
    assert store.gates["b"].cancelled()
    reads[2].cancel()
    store.finish("x")
    assert await reads[1] == ["x"]
    await settle()
    assert store.started == ["a", "b", "x", "z"]
    store.finish("a")
    store.finish("z")
    assert await reads[0] == ["a"]
    assert await reads[3] == ["z"]
    assert reads[2].cancelled()
    await engine.aclose()
    assert (engine.in_flight, store.reserved) == (0, 0)


async def test_closing_fails_loads_that_wait_for_room():
    """A demanded load that never got room fails like one in flight."""
    store = Store(budget=1)
    engine = engine_over(store)
    reads = [asyncio.ensure_future(engine.get(key)) for key in "ab"]
    await settle()
    assert store.started == ["a"]
    await engine.aclose()
    for read in reads:
        with pytest.raises(ClosedError):
            await read
    assert (engine.in_flight, store.reserved) == (0, 0)


async def test_a_key_that_was_demanded_early_is_not_loaded_ahead():
    """A key that was demanded before its turn is skipped when the turn comes, once."""
    store = Store()
    engine = engine_over(store, max_ahead=1)
    engine.announce("abcb")
    read = asyncio.ensure_future(engine.get("b"))
    await settle()
    store.finish("b")
    assert await read == ["b"]
    store.gates.pop("b")
    store.finish("a")
    await settle()
    assert engine.take("a") == ["a"]
    await settle()
    assert store.started == ["a", "b", "c"]
    store.finish("c")
    await settle()
    assert engine.take("c") == ["c"]
    await settle()
    assert store.started == ["a", "b", "c", "b"]
    await engine.aclose()


async def test_what_a_cache_holds_is_not_loaded():
    """Keys that need no load are skipped."""
    store = Store()
    engine = engine_over(store, is_held=lambda key: key == "b")
    engine.announce("abc")
    await settle()
    assert store.started == ["a", "c"]
    await engine.aclose()


async def test_forgetting_an_order_leaves_the_others():
    """Two orders advance independently; dropping one releases what it held."""
    store = Store()
    engine = engine_over(store, max_ahead=2)
    engine.announce("abc", "train")
    engine.announce("xyz", "validate")
    await settle()
    store.finish("a")
    await settle()
    engine.forget("train")
    await settle()
    assert store.gates["b"].cancelled()
    assert engine.take("a") is MISS
    assert store.reserved == 2
    store.finish("x")
    assert await engine.get("x") == ["x"]
    await settle()
    assert "z" in store.started
    await engine.aclose()


async def test_depth_grows_when_a_reader_is_late():
    """An adaptive depth doubles if it was the limit."""
    store = Store()
    engine = engine_over(store, concurrency=10_000)
    before = engine.announced.depth
    engine.announce(range(3 * before))
    read = asyncio.ensure_future(engine.get(0))
    await settle()
    assert engine.announced.depth == 2 * before
    read.cancel()
    await engine.aclose()


async def test_values_for_other_processes_are_not_kept():
    """After drop_ready the depth and the budget still bound what is unused, so that a cache does not lose it."""
    store = Store()
    engine = engine_over(store, max_ahead=2)
    engine.announce("abc")
    await settle()
    store.finish("a")
    await settle()
    engine.drop_ready()
    assert engine.take("a") is MISS
    assert store.reserved == 2
    assert store.started == ["a", "b"]
    engine.used("a")
    await settle()
    assert store.started == ["a", "b", "c"]
    await engine.aclose()


async def test_close_fails_waiting_readers_and_leaves_no_task():
    """Readers get ClosedError, loads are cancelled, and nothing of the budget is held."""
    store = Store()
    engine = engine_over(store)
    engine.announce("ab")
    read = asyncio.ensure_future(engine.get("z"))
    await settle()
    before = asyncio.all_tasks()
    await engine.aclose()
    await engine.aclose()
    with pytest.raises(ClosedError, match="stopped"):
        await read
    with pytest.raises(ClosedError, match="start it again"):
        await engine.get("a")
    assert asyncio.all_tasks() < before
    assert store.reserved == 0


async def test_a_thread_waits_for_a_key_in_flight():
    """Blocking for an announced key needs no hop to the loop, and ends when its load ends or fails."""
    store = Store()
    engine = engine_over(store)
    engine.announce("abc")
    waits = [asyncio.ensure_future(asyncio.to_thread(engine.wait, key)) for key in "abcz"]
    assert await waits[3] is MISS  # it is not being loaded
    await settle()
    store.finish("a")
    store.finish("b", OSError("planted"))
    assert await waits[0] == ["a"]
    assert await waits[1] is MISS
    with pytest.raises(OSError, match="planted"):
        await engine.get("b")
    engine.forget()
    store.finish("c")
    assert await waits[2] == ["c"]
    await settle()
    assert store.reserved == 0


async def test_a_key_that_a_thread_waits_for_is_not_ahead():
    """Look-ahead is counted from the sample that is needed now: while it is in flight, one more is read."""
    store = Store()
    engine = engine_over(store, max_ahead=2)
    engine.announce("abcd")
    wait = asyncio.ensure_future(asyncio.to_thread(engine.wait, "a"))
    await store.begun.setdefault("c", asyncio.Event()).wait()
    assert store.started == ["a", "b", "c"]
    store.finish("a")
    assert await wait == ["a"]
    await engine.aclose()
    assert store.reserved == 0


async def test_close_ends_a_waiting_thread():
    """No thread stays blocked after `aclose`."""
    store = Store()
    engine = engine_over(store)
    engine.announce("a")
    wait = asyncio.ensure_future(asyncio.to_thread(engine.wait, "a"))
    await settle()
    await engine.aclose()
    assert await wait is MISS


async def test_numbers_are_read_in_any_thread():
    """The counts can be read while orders are announced and forgotten."""
    engine = engine_over(Store(), max_ahead=1)
    is_over, errors = threading.Event(), []

    def count():
        try:
            while not is_over.is_set():
                assert min(engine.announced.waiting, len(engine.announced.started), engine.in_flight) >= 0
        except Exception as exc:
            errors.append(exc)

    counting = threading.Thread(target=count)
    counting.start()
    for number in range(3000):
        engine.announce([number, -number - 1], number)
        if number >= 40:
            engine.forget(number - 40)
    is_over.set()
    counting.join()
    await engine.aclose()
    assert errors == []


# -- errors that no caller awaits


async def test_an_error_while_copies_are_made_reaches_every_reader():
    """No reader waits forever; the budget is given back and the next read works."""
    store = Store(budget=1)

    def copied(key, value):
        raise ZeroDivisionError(key)

    engine = engine_over(store, copied=copied)
    readers = [asyncio.ensure_future(engine.get("a")) for _ in range(3)]
    await settle()
    store.finish("a")
    errors = await asyncio.gather(*readers, return_exceptions=True)
    assert [type(error) for error in errors] == [ZeroDivisionError] * 3
    assert (store.reserved, engine.in_flight) == (0, 0)
    assert await engine.get("a") == ["a"]
    await engine.aclose()


@pytest.mark.parametrize("name", ["load", "reserve", "is_held"])
async def test_an_error_at_the_start_of_a_load_reaches_its_readers(name):
    """Whether announced or not, the reader of that key gets the error, others are loaded, and nothing is left."""
    store = Store()

    def fail(function):
        def checked(key, *rest):
            if key == "b":
                raise ZeroDivisionError(key)
            return function(key, *rest)

        return checked

    calls: dict[str, Any] = {"load": store.load, "reserve": store.reserve, "is_held": lambda key: False}
    calls[name] = fail(calls[name])
    load = calls.pop("load")
    engine = ReadAhead(load, asyncio.get_running_loop(), **calls)
    engine.announce("abc")
    await settle()
    for key in "ac":
        store.finish(key)
        assert await engine.get(key) == [key]
    with pytest.raises(ZeroDivisionError):
        await engine.get("b")
    if name != "is_held":  # only checked for announced keys
        errors = await asyncio.gather(engine.get("b"), engine.get("b"), return_exceptions=True)
        assert [type(error) for error in errors] == [ZeroDivisionError] * 2
    assert (store.reserved, engine.in_flight) == (0, 0)
    assert (len(engine.announced.started), engine.announced.waiting) == (0, 0)
    await engine.aclose()


async def test_an_error_when_a_queued_read_gets_its_turn_reaches_it():
    """A read that waited for room ends if its reservation fails."""
    store = Store(budget=1)
    is_broken = False

    def reserve(key, demanded):
        if is_broken:
            raise ZeroDivisionError(key)
        return store.reserve(key, demanded)

    engine = ReadAhead(store.load, asyncio.get_running_loop(), reserve=reserve)
    first, second = asyncio.ensure_future(engine.get("a")), asyncio.ensure_future(engine.get("b"))
    await settle()
    assert store.started == ["a"]
    is_broken = True
    store.finish("a")
    assert await first == ["a"]
    with pytest.raises(ZeroDivisionError):
        await second
    assert (store.reserved, engine.in_flight) == (0, 0)
    await engine.aclose()


async def test_orders_that_are_over_are_not_kept():
    """A long run has one for each epoch."""
    store = Store()
    engine = engine_over(store)
    for order in range(3):
        engine.announce("a", order)
        store.finish("a")
        assert await engine.get("a") == ["a"]
        store.gates.clear()
    await settle()
    assert len(engine.announced) == 0
    await engine.aclose()


async def test_a_key_that_was_loaded_ahead_and_lost_gives_its_own_share_back():
    """If the cache has lost it and the budget holds nothing else, its reader loads it again."""
    store = Store(budget=1)
    engine = engine_over(store)
    engine.drop_ready()
    engine.announce("ab")
    store.finish("a")
    await settle()
    assert (store.started, len(engine.announced.started), store.reserved) == (["a"], 1, 1)
    assert await engine.get("a") == ["a"]
    assert store.started[:2] == ["a", "a"]
    store.finish("b")
    assert await engine.get("b") == ["b"]
    await engine.aclose()
    assert store.reserved == 0
