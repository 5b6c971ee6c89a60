"""Report the tasks and child processes of a test that reaches its time limit, each with its stack.

There are two limits (see `[tool.pytest.ini_options]`). At the first, pytest-timeout prints the stacks of all threads
and fails the test, and the run continues. This plugin adds what thread stacks do not show, and ends the child
processes: a test that unwinds out of `with Popen(...)` would wait for them again. A test that still does not end, or
that hangs in C code where Python's signal handlers do not run, reaches the second limit: pytest's faulthandler prints
the stacks of all threads and ends the process, and xdist continues with another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import stat
import sys
from collections.abc import Generator, Iterator
from types import FrameType
from typing import Any

import psutil
import pytest

END_TIMEOUT_S = 5.0
"""Time for child processes to print their stacks and end; then they are killed."""


def pytest_configure() -> None:
    """Let each Python process that tests start print the stacks of its threads when SIGABRT ends it."""
    os.environ.setdefault("PYTHONFAULTHANDLER", "1")


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> Generator[None, object, object]:
    """Report tasks and children before pytest-timeout reports the threads and fails the test."""
    result = yield
    if settings.method == "signal":
        fail: Any = signal.getsignal(signal.SIGALRM)

        def report_and_fail(number: int, frame: FrameType | None) -> None:
            __tracebackhide__ = True
            with _uncaptured(item.config):
                _report(item.nodeid)
            fail(number, frame)

        signal.signal(signal.SIGALRM, report_and_fail)
    return result


def _uncaptured(config: pytest.Config) -> contextlib.AbstractContextManager[None]:
    """Restore the real standard error: captured output is lost if the second limit ends this process."""
    capture = config.pluginmanager.getplugin("capturemanager")
    return capture.global_and_fixture_disabled() if capture else contextlib.nullcontext()


def _report(test: str) -> None:
    lines = [f"{test} reached its time limit", *_tasks(), *_end_children()]
    sys.stderr.write("\n".join(["", *lines, ""]))
    sys.stderr.flush()


def _tasks() -> Iterator[str]:
    """Yield each unfinished task of any event loop, with the line at which each of its coroutines waits."""
    tasks = [found for found in gc.get_objects() if issubclass(type(found), asyncio.Task) and not found.done()]
    for task in tasks:
        yield f"task {task.get_name()}:"
        coroutine: Any = task.get_coro()
        while coroutine is not None:
            frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
            if frame is not None:
                yield f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_qualname}'
            coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)


def _end_children() -> Iterator[str]:
    """End all child processes; yield the command of each and its last output on standard error."""
    children = [child for child in psutil.Process().children(recursive=True) if not _is_tracker(child)]
    errors = {child: _open_errors(child) for child in children}
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            yield f"child {child.pid} ({child.status()}): {' '.join(child.cmdline())}"
            child.send_signal(signal.SIGABRT)
    for child in psutil.wait_procs(children, timeout=END_TIMEOUT_S)[1]:
        child.kill()
    for child, fd in errors.items():
        if fd is not None:
            yield f"standard error of child {child.pid}:"
            yield _read(fd)


def _is_tracker(process: psutil.Process) -> bool:
    """Whether it is a process that multiprocessing keeps for the rest of the run."""
    with contextlib.suppress(psutil.Error):
        return any("multiprocessing.resource_tracker" in part for part in process.cmdline())
    return False


def _open_errors(process: psutil.Process) -> int | None:
    """Open the pipe of the process's standard error for reading; None if it is not a pipe, or not on Linux."""
    path = f"/proc/{process.pid}/fd/2"
    with contextlib.suppress(OSError):
        if stat.S_ISFIFO(os.stat(path).st_mode):
            return os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    return None


def _read(fd: int) -> str:
    """Read the current content of a pipe."""
    with contextlib.suppress(BlockingIOError), open(fd, "rb", buffering=0) as pipe:
        return (pipe.read(1 << 16) or b"").decode(errors="replace")
    return ""
