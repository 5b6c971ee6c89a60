"""Threads for work that blocks or computes, fed by one event loop.

Like `run_in_executor`, at a third of its cost per job (about 10 us instead of 30): plain queues, and one wake-up of the
loop for all results that are waiting.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from streaming.errors import ClosedError

__all__ = ["DecodePool"]

_TOGETHER = 8
_SHORT_JOB_S = 0.000_5
"""Jobs shorter than this on average run in one thread, which delivers up to eight results to the loop at once.

Such jobs hold the interpreter's lock most of the time: with a second thread, reading and decoding local files of 20 kB
takes 14 context switches per job instead of 4 and has 0.6 of the rate. A wake-up of the loop costs as much as a job.
"""

_STUCK_S = 0.02
"""A job that takes this long loses the lead: the next job starts in another thread."""

_Job = tuple["asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]


class DecodePool:
    """Runs functions in threads for the coroutines of one loop.

    Args:
        loop: the loop on which `run` is awaited.
        threads: how many; None for one per processor. They start with the first job.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: int | None = None) -> None:
        self.threads = threads or os.cpu_count() or 1
        self._loop = loop
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._results: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._is_wake_due = False
        self._started: list[threading.Thread] = []
        self._is_closed = False
        self._lead = threading.Lock()  # held by the one thread that takes jobs
        self._leading: list[float] = []  # start of the job that runs while its thread keeps the lead
        self._mean_s = _SHORT_JOB_S
        self._unfinished = 0
        self._is_watched = False

    def run(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Start `function(*args)` in a thread; on the loop only. Cancelling the future skips a job that has not begun.

        Raises:
            ClosedError: after `close`.
        """
        if self._is_closed:
            raise ClosedError("work was given to a pool that is closed; open a new adapter")
        future = self._loop.create_future()
        self._jobs.put((future, function, args))
        self._unfinished += 1
        if not self._is_watched:
            self._is_watched = True
            self._loop.call_later(_STUCK_S, self._watch)
        if len(self._started) < self.threads:
            thread = threading.Thread(target=self._work, name=f"streaming-decode-{len(self._started)}", daemon=True)
            self._started.append(thread)
            thread.start()
        return future

    def close(self) -> None:
        """Wait for the jobs that are running and skip the others, then end the threads. Idempotent."""
        self._is_closed = True
        for _ in self._started:
            self._jobs.put(None)
        for thread in self._started:
            thread.join()
        self._started.clear()

    def _work(self) -> None:
        """Run jobs. One thread leads: it waits for a job, and before a long one it lets the next thread lead."""
        leads = False
        while True:
            if not leads:
                self._lead.acquire()
            job = self._jobs.get()
            if job is None:
                self._lead.release()
                return
            leads = self._mean_s < _SHORT_JOB_S
            if leads:
                self._leading.append(time.perf_counter())
            else:
                self._lead.release()
            self._do(*job)
            del job  # before the result is delivered: this thread must not keep it alive
            self._schedule_delivery()
            leads = leads and self._take_back_lead()

    def _take_back_lead(self) -> bool:
        """Return whether the thread still had the lead; the first caller to empty the list gets it."""
        try:
            self._leading.pop()
        except IndexError:
            return False
        return True

    def _do(self, future: asyncio.Future[Any], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        result, error = None, None
        started = time.perf_counter()
        if not self._is_closed and not future.cancelled():
            try:
                result = function(*args)
            except Exception as exc:
                error = exc
            except BaseException as exc:  # SystemExit would end the loop
                error = _as_exception(exc)
            if isinstance(error, StopIteration):  # a future refuses it
                error = _as_exception(error)
        seconds = min(time.perf_counter() - started, 2 * _SHORT_JOB_S)  # an outlier must not decide
        self._mean_s += (seconds - self._mean_s) / _TOGETHER
        self._results.append((future, result, error))

    def _schedule_delivery(self) -> None:
        is_short = self._mean_s < _SHORT_JOB_S
        if is_short and len(self._results) < _TOGETHER and not self._jobs.empty():
            return  # the next result comes soon, and one wake-up delivers both
        if self._is_wake_due:
            return
        self._is_wake_due = True
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            if not self._loop.is_closed():  # else no one waits for the result
                raise

    def _watch(self) -> None:
        """Take the lead from a thread that is stuck in a job."""
        began = self._leading[:1]  # in one step, as the thread may end its job and take the lead back meanwhile
        if began and time.perf_counter() - began[0] > _STUCK_S and self._take_back_lead():
            self._mean_s = 2 * _SHORT_JOB_S
            self._lead.release()
        self._is_watched = self._unfinished > 0 and not self._is_closed
        if self._is_watched:
            self._loop.call_later(_STUCK_S, self._watch)

    def _deliver(self) -> None:
        self._is_wake_due = False
        while self._results:
            future, result, error = self._results.popleft()
            self._unfinished -= 1
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)


def _as_exception(error: BaseException) -> Exception:
    text = f"a job of the decode pool raised {type(error).__name__}: {error}"
    wrapped = RuntimeError(text)
    wrapped.__cause__ = error
    return wrapped
