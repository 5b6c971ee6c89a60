"""Threads fed by one event loop."""

import asyncio
import math
import threading

import pytest

from streaming.engine.decode_pool import DecodePool
from streaming.errors import ClosedError


@pytest.fixture
async def pool():
    """A pool of two threads on the test's loop, closed with the test."""
    pool = DecodePool(asyncio.get_running_loop(), 2)
    yield pool
    await asyncio.to_thread(pool.close)


async def test_results_and_errors_come_back(pool):
    """Each job's future gets what the function returned or raised."""
    good = [pool.run(pow, i, 2) for i in range(100)]
    bad = pool.run(int, "x")
    assert await asyncio.gather(*good) == [i * i for i in range(100)]
    with pytest.raises(ValueError, match="invalid literal"):
        await bad


async def test_jobs_run_side_by_side_in_the_given_number_of_threads(pool):
    """Two jobs that wait for each other both end; a third thread never starts."""
    meeting = threading.Barrier(2)
    await asyncio.gather(*(pool.run(meeting.wait, 30) for _ in range(2)))
    names = set(await asyncio.gather(*(pool.run(_thread_name) for _ in range(20))))
    assert len(names) <= 2
    assert all(name.startswith("streaming-decode") for name in names)


def _thread_name():
    return threading.current_thread().name


async def test_a_cancelled_job_does_not_begin(pool):
    """Cancelling before a thread is free skips the job; cancelling later drops its result."""
    begun, gate = threading.Semaphore(0), threading.Event()

    def block():
        begun.release()
        gate.wait(30)

    running = [pool.run(block) for _ in range(2)]
    await asyncio.to_thread(begun.acquire)
    await asyncio.to_thread(begun.acquire)
    calls: list[int] = []
    skipped = pool.run(calls.append, 1)
    skipped.cancel()
    running[0].cancel()
    gate.set()
    await running[1]
    await pool.run(calls.append, 2)
    assert calls == [2]


async def test_close_waits_for_what_runs_and_refuses_more():
    """After close no thread is left, and a new job raises an error."""
    pool = DecodePool(asyncio.get_running_loop(), 1)
    assert await pool.run(_thread_name)
    await asyncio.to_thread(pool.close)
    await asyncio.to_thread(pool.close)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("streaming-decode")]
    with pytest.raises(ClosedError, match="closed"):
        pool.run(_thread_name)


async def test_threads_keep_no_results_alive(pool):
    """A result lives only while its receiver keeps it, although the thread waits for its next job."""
    result = await pool.run(_Big)
    gone = threading.Event()
    result.gone = gone
    del result
    await asyncio.sleep(0)
    assert gone.is_set()


class _Big:
    gone = None

    def __del__(self):
        if self.gone is not None:
            self.gone.set()


async def test_short_jobs_run_in_one_thread(pool):
    """Several threads would compete for the interpreter's lock and slow each other down."""
    await asyncio.gather(*(pool.run(int) for _ in range(50)))
    assert len(set(await asyncio.gather(*(pool.run(_thread_name) for _ in range(50))))) == 1


async def test_a_job_that_is_stuck_among_short_ones_does_not_block_them(pool):
    """The lead passes to another thread, and returns in order when the job ends."""
    await asyncio.gather(*(pool.run(int) for _ in range(50)))
    gate = threading.Event()
    for _ in range(3):
        stuck = pool.run(gate.wait, 30)
        assert await asyncio.gather(*(pool.run(pow, i, 2) for i in range(50))) == [i * i for i in range(50)]
        assert not stuck.done()
        gate.set()
        assert await stuck is True
        gate.clear()


async def test_a_job_may_end_while_the_watch_looks_at_it(pool):
    """Its thread takes the lead back between two steps of the watch, which continues."""

    class Emptied(list):
        """The list of the leading thread, which that thread empties after its length was read."""

        def __len__(self):
            length = super().__len__()
            self.clear()
            return length

    pool._leading = Emptied([math.inf])
    pool._watch()


def _raise(error):
    raise error


@pytest.mark.parametrize("error", [StopIteration(1), SystemExit(2), KeyboardInterrupt(), asyncio.CancelledError()])
async def test_errors_that_a_loop_treats_specially_reach_only_the_caller(pool, error):
    """Unwrapped, they would leave the caller waiting in a future, or end the loop."""
    others = [pool.run(pow, 2, i) for i in range(8)]
    with pytest.raises(RuntimeError, match=type(error).__name__) as caught:
        await pool.run(_raise, error)
    assert caught.value.__cause__ is error
    assert await asyncio.gather(*others) == [2**i for i in range(8)]
