"""The loop thread and the bridge from synchronous code to it."""

import asyncio
import os
import subprocess
import sys
import threading

import pytest

from streaming.core.runtime import Done, Pending, Runtime, current_runtime
from streaming.errors import WrongThreadError


@pytest.fixture
def runtime():
    """A runtime of its own, ended with the test."""
    runtime = Runtime()
    yield runtime
    runtime.close()


async def _double(value):
    await asyncio.sleep(0)
    return 2 * value


async def _hold(times, seconds):
    for _ in range(times):
        threading.Event().wait(seconds)  # blocks the loop's thread, which is measured
        await asyncio.sleep(0.01)


def test_lag_ignores_one_long_pause_and_shows_frequent_short_ones(runtime):
    """Reads wait for short pauses that happen all the time."""
    runtime.run(_hold(1, 0.6))
    assert runtime.lag_s < 0.02
    runtime.run(_hold(12, 0.3))  # some of its timers may be due between two pauses
    assert runtime.lag_s > 0.02


def test_run_returns_the_result_of_a_coroutine(runtime):
    """Synchronous code gets what the coroutine returned."""
    assert runtime.run(_double(21)) == 42


def test_run_raises_what_the_coroutine_raised(runtime):
    """The caller gets the error unchanged."""

    async def fail():
        raise KeyError("name")

    with pytest.raises(KeyError, match="name"):
        runtime.run(fail())


async def test_run_works_inside_a_running_loop(runtime):
    """A caller inside its own loop may block on the library's."""
    assert runtime.run(_double(4)) == 8


def test_run_on_the_loop_thread_is_refused(runtime):
    """The loop would wait for itself: this is an error, not a hang."""

    async def nested():
        runtime.run(_double(1))

    with pytest.raises(WrongThreadError, match="await the async form"):
        runtime.run(nested())


def test_close_cancels_running_tasks_and_is_idempotent():
    """No task outlives its runtime."""
    runtime = Runtime()
    started, ended = threading.Event(), threading.Event()

    async def wait_forever():
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    future = runtime.submit(wait_forever())
    assert started.wait(10)
    runtime.close()
    runtime.close()
    assert ended.is_set()
    assert future.cancelled()
    assert runtime.loop.is_closed()
    runtime.call_soon(print, "nothing happens on a closed runtime")


def test_one_runtime_serves_a_process():
    """Every caller in a process shares the loop thread."""
    assert current_runtime() is current_runtime()


def test_a_forked_child_gets_a_runtime_of_its_own():
    """After a fork the child neither uses nor waits for its parent's loop."""
    code = """
import os, sys
from streaming.core.runtime import current_runtime
async def value(): return os.getpid()
assert current_runtime().run(value()) == os.getpid()
child = os.fork()
if child == 0:
    ok = current_runtime().run(value()) == os.getpid()
    os._exit(0 if ok else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert current_runtime().run(value()) == os.getpid()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_the_interpreter_ends_while_work_is_pending():
    """Exit cancels the work instead of waiting for it, and prints nothing."""
    code = """
import asyncio
from streaming.core.runtime import current_runtime
async def wait_forever(): await asyncio.Event().wait()
current_runtime().submit(wait_forever())
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
    assert done.stderr == b""


def test_an_interrupt_cancels_the_coroutine():
    """Ctrl-C in a blocked caller ends the work that it waited for."""
    code = """
import asyncio, os, signal
from streaming.core.runtime import current_runtime
async def interrupt():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise
try:
    current_runtime().run(interrupt())
except KeyboardInterrupt:
    current_runtime().close()
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.split() == ["cancelled", "interrupted"]


async def test_done_may_be_awaited_or_not():
    """Awaiting returns the completed result."""
    Done(1)
    assert await Done(2) == 2


async def test_pending_waits_on_any_loop(runtime):
    """The caller may await the work on its own loop, or block."""
    assert await Pending(runtime.submit(_double(3))) == 6
    assert Pending(runtime.submit(_double(5))).result(10) == 10


def test_importing_starts_no_thread():
    """The loop thread starts on first use, not on import."""
    code = "import threading, streaming.core.runtime; assert threading.active_count() == 1"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={**os.environ})


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_task_that_would_end_the_loop_ends_alone(runtime, error):
    """Its caller gets the error; the loop continues for everyone else."""

    async def end():
        raise error

    waiting = runtime.submit(asyncio.sleep(0, "served"))
    with pytest.raises(type(error)):
        runtime.run(end())
    assert waiting.result(10) == "served"
    assert runtime.run(_double(4)) == 8
