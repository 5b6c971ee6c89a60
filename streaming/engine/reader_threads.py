"""Threads that carry healthy loads from end to end, and the timer of the loop that watches over them.

A thread takes a load of the plan (a run of loads where they are short), loads it, and lands it: no task, future or
wake-up of the loop for a healthy sample. A load that fails or is late goes to the loop, and the thread to its next one.
A thread that hangs is replaced, and ends when its call returns.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

from streaming.prefetch.loads import Load
from streaming.prefetch.readahead import Landing, ReadAhead

__all__ = ["ReaderThreads"]

MOST_THREADS = 256
"""Most threads that load at once: at 30 ms, 8,500 loads a second."""

_CEILING = 2 * MOST_THREADS  # with those that hang; beyond, the loop loads

SHORT_S = 0.000_5
"""Loads shorter than this on average are taken by one thread. They hold the interpreter's lock most of the time: with a
second thread, reading and decoding local files of 20 kB takes 14 context switches per load instead of 4."""

_RUN_S = 0.001  # loads that take this long together are taken at once
_LONGEST_RUN = 32
_AVERAGED = 16  # loads in the mean time of a load
_WATCH_S = 0.02  # between two looks at the loads in threads, unless a read is due to be late before
_STUCK_S = 0.02  # a thread that leads is not waited for longer than this
_IDLE_S = 10.0  # a thread without work ends
_JOIN_S = 0.3  # `close` waits this long for threads that are busy


class _Reader:
    """One thread: the loads that it has taken, and those that it has done and not landed."""

    __slots__ = ("begun", "current", "done", "is_lost", "rest", "thread")

    def __init__(self) -> None:
        self.thread: threading.Thread
        self.rest: deque[Load] = deque()
        self.done: deque[Landing] = deque()
        self.current: Load | None = None
        self.begun = 0.0
        self.is_lost = False


class ReaderThreads:
    """Runs the loads of a `ReadAhead` in threads.

    Args:
        loop: watches over the threads.
        load: `load(load)` in a thread returns how it landed; None if the loop has it now.
        pass_on: `pass_on(load)` on the loop starts a load there that a thread has taken and not begun.
        watch: `watch(now)` on the loop takes over what is late; it returns the loads that it took, and after how many
            seconds it wants to be called again.
        most: returns how many threads may load now; None: as many as the time that a load takes suggests.
        cores: number of threads for loads that compute.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        load: Callable[[Load], Landing | None],
        *,
        pass_on: Callable[[Load], None],
        watch: Callable[[float], tuple[list[Load], float]],
        most: Callable[[], int | None],
        cores: int,
    ) -> None:
        self._loop = loop
        self._load = load
        self._pass_on = pass_on
        self._watch_loads = watch
        self._most_now = most
        self._cores = cores
        self._plan: ReadAhead
        self._changed = threading.Condition(threading.Lock())
        self._calls = 0
        self._idle = 0
        self._active = 0
        self._readers: set[_Reader] = set()
        self._mean_s = SHORT_S / 2
        self._is_watched = False
        self._is_closed = False

    def serve(self, plan: ReadAhead) -> None:
        """Take the loads of this plan; called once, before `wake`."""
        self._plan = plan

    @property
    def most(self) -> int:
        """Number of threads that may load now."""
        most = self._most_now()
        if most is not None:
            return max(1, min(most, MOST_THREADS))
        if self._mean_s < SHORT_S:
            return 1
        return self._cores if self._mean_s < 10 * SHORT_S else max(self._cores, 16)

    def wake(self) -> None:
        """Let a thread look for loads. Any thread."""
        with self._changed:
            self._calls += 1
            if self._is_closed or self._active - self._idle >= self.most:
                return
            if self._idle:
                self._changed.notify()
                return
            if len(self._readers) < _CEILING:
                self._start()
                return
        self._loop.call_soon_threadsafe(self._load_on_loop)

    def _start(self) -> None:
        reader = _Reader()
        self._readers.add(reader)
        self._active += 1
        reader.thread = threading.Thread(
            target=self._work, args=(reader,), name=f"streaming-reader-{len(self._readers)}", daemon=True
        )
        reader.thread.start()

    def close(self) -> None:
        """End the threads; those that are busy end with their load, and are waited for only briefly. Idempotent."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            readers = list(self._readers)
        until = perf_counter() + _JOIN_S
        for reader in readers:
            if reader.thread is not threading.current_thread():
                reader.thread.join(max(until - perf_counter(), 0.0))

    # -- in a thread

    def _work(self, reader: _Reader) -> None:
        plan, rest, done = self._plan, reader.rest, reader.done
        while True:
            calls = self._calls
            run = plan.take_run(self._run_length())
            if not run:
                if self._park(reader, calls):
                    continue
                return
            if not self._is_watched:
                self._start_watch()
            if plan.has_more:
                self.wake()
            rest.extend(run)
            started = perf_counter()
            count = 0
            while rest:
                try:
                    load = rest.popleft()
                except IndexError:  # taken by the timer meanwhile
                    break
                reader.begun = perf_counter()
                reader.current = load
                landing = self._load(load)
                reader.current = None
                count += 1
                if landing is not None:
                    done.append(landing)
                    del landing
            del run, load
            seconds = min((perf_counter() - started) / max(count, 1), 20 * SHORT_S)
            self._mean_s += (seconds - self._mean_s) * min(count / _AVERAGED, 1.0)
            plan.land(_drain(done))
            if not self._may_go_on(reader):
                return

    def _run_length(self) -> int:
        return min(max(int(_RUN_S / max(self._mean_s, 1e-9)), 1), _LONGEST_RUN) if self.most == 1 else 1

    def _may_go_on(self, reader: _Reader) -> bool:
        """Whether a thread loads more; one that was given up for lost may find that it was replaced."""
        if not reader.is_lost and self._active <= self.most and not self._is_closed:
            return True
        with self._changed:
            if reader.is_lost:
                reader.is_lost = False
                self._active += 1
            if self._active - self._idle <= self.most and not self._is_closed:
                return True
            return self._leave(reader)

    def _leave(self, reader: _Reader) -> bool:
        self._active -= 1
        self._readers.discard(reader)
        return False

    def _park(self, reader: _Reader, calls: int) -> bool:
        """Wait for loads. False: the thread ends."""
        with self._changed:
            if self._is_closed:
                return self._leave(reader)
            if self._calls != calls:
                return True
            self._idle += 1
            is_called = self._changed.wait(_IDLE_S)
            self._idle -= 1
            if self._is_closed or not (is_called or self._calls != calls):
                return self._leave(reader)
            return True

    # -- on the loop

    def _start_watch(self) -> None:
        with self._changed:
            if self._is_watched or self._is_closed:
                return
            self._is_watched = True
        try:
            self._loop.call_soon_threadsafe(self._watch)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def _watch(self) -> None:
        now = perf_counter()
        taken, again_s = self._watch_loads(now)
        late = set(map(id, taken))
        readers = list(self._readers)
        is_busy = False
        for reader in readers:
            load = reader.current
            if load is None:
                continue
            is_busy = True
            if id(load) in late:
                self._give_up(reader)
            elif now - reader.begun > _STUCK_S and (reader.rest or reader.done or self.most == 1):
                self._share_out(reader)
        self._is_watched = is_busy and not self._is_closed
        if self._is_watched:
            self._loop.call_later(min(again_s, _WATCH_S), self._watch)

    def _give_up(self, reader: _Reader) -> None:
        """Replace a thread whose load was taken over."""
        self._share_out(reader)
        with self._changed:
            if not reader.is_lost:
                reader.is_lost = True
                self._active -= 1
        self.wake()

    def _share_out(self, reader: _Reader) -> None:
        """Land what a slow thread has done, and let the loop load what it has not begun."""
        self._mean_s = max(self._mean_s, 2 * SHORT_S)
        self._plan.land(_drain(reader.done))
        for load in _drain(reader.rest):
            self._pass_on(load)
        self.wake()

    def _load_on_loop(self) -> None:
        """Load where no thread can: all of them hang."""
        for load in self._plan.take_run(_LONGEST_RUN):
            self._pass_on(load)


def _drain(queue: deque[Any]) -> list[Any]:
    """Take everything out of a queue that another thread may be emptying too."""
    taken = []
    while queue:
        try:
            taken.append(queue.popleft())
        except IndexError:
            break
    return taken
