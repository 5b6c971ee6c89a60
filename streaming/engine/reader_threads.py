"""Threads that carry healthy loads from end to end, and the timer of the loop that watches over them.

No task, future or wake-up of the loop for a healthy sample:

- Of files, a thread takes a run of loads out of the plan, reads them, makes the samples and lands them.
- Of servers, many threads read, and a leading thread does the rest for all that has arrived meanwhile. If each reading
  thread made its samples itself, 16 of them would contend for the interpreter's lock: 12 context switches a sample
  instead of 4, and a fifth of the rate.

A load that fails or is late goes to the loop, and the thread to its next one. A thread that hangs is replaced, and ends
when its call returns.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any, NamedTuple

from streaming.core.miss import MISS
from streaming.core.runtime import Runtime
from streaming.engine.bad_samples import BAD
from streaming.engine.decode_pool import as_exception
from streaming.engine.fetch import Arrived, BegunSample, SampleFetcher
from streaming.engine.replicas import ReplicaReader
from streaming.engine.thread_count import MOST_THREADS, ThreadCount
from streaming.prefetch.loads import Load
from streaming.prefetch.readahead import Landing, ReadAhead
from streaming.resilience.first_attempt import TakenOver, TakeOver
from streaming.sources.base import NeedsLoop

__all__ = ["ReaderThreads"]

_CEILING = 2 * MOST_THREADS  # with those that hang; beyond, the loop loads

SHORT_S = 0.000_5
"""Loads shorter than this on average are taken by one thread. They hold the interpreter's lock most of the time: with a
second thread, reading and decoding local files of 20 kB takes 14 context switches per load instead of 4."""

_RUN_S = 0.004  # loads that take this long together are taken at once
_LONGEST_RUN = 32
_AVERAGED = 16  # loads in the mean time of a load
_SLOW_THREADS = 16  # for loads of a file system that wait, such as a network mount
_WATCH_S = 0.02  # between two looks at the loads in threads, unless a read is due to be late before
_STUCK_S = 0.02  # a load that takes this long does not delay others of its thread
_IDLE_S = 10.0  # a thread without work ends
_JOIN_S = 0.3  # `close` waits this long for threads that are busy


class _Reader:
    """One thread, and its loads: not begun, being read, read, and done but not landed.

    Its queues may be emptied by the timer too: who takes an element out has it.
    """

    __slots__ = ("begun", "current", "done", "is_lost", "read", "rest", "since", "thread")

    def __init__(self) -> None:
        self.thread: threading.Thread
        self.rest: deque[Load] = deque()
        self.current: Load | None = None
        self.begun: BegunSample | None = None
        self.since = 0.0
        self.read: deque[tuple[Load, Arrived]] = deque()
        self.done: deque[Landing] = deque()
        self.is_lost = False


class _Arrival(NamedTuple):
    """The report of a reading thread on a load: its bytes, or how it landed, or only that it is in other hands.

    Attributes:
        started, read: moments at which the thread began, and at which the bytes had arrived.
        is_over: whether one load less is in the hands of the threads.
    """

    load: Load | None
    arrived: Arrived | None
    landing: Landing | None
    started: float
    read: float
    is_over: bool


_NOTHING = _Arrival(None, None, None, 0.0, 0.0, False)
_GONE = _NOTHING._replace(is_over=True)


class ReaderThreads:
    """Runs the loads of a `ReadAhead` in threads.

    Args:
        runtime: its loop watches over the threads, and continues where they cannot.
        fetcher: reads and makes the samples.
        replicas: say how many threads their endpoints allow.
        load: `load(position, share, begun)` returns a coroutine that continues a load on the loop.
        replaces_bad: whether `load` is given samples that cannot be loaded, instead of their readers the error.
        cores: number of threads for loads that compute.
    """

    def __init__(
        self,
        runtime: Runtime,
        fetcher: SampleFetcher,
        replicas: ReplicaReader,
        load: Callable[[int, Any, BegunSample | None], Any],
        *,
        replaces_bad: bool,
        cores: int,
    ) -> None:
        self._runtime = runtime
        self._fetcher = fetcher
        self._replicas = replicas
        self._load = load
        self._replaces_bad = replaces_bad
        self._cores = cores
        self._plan: ReadAhead
        self._changed = threading.Condition(threading.Lock())
        self._calls = 0
        self._idle = 0
        self._active = 0
        self._readers: set[_Reader] = set()
        self._is_remote = bool(replicas.attempts)
        self._to_read: SimpleQueue[Load | None] = SimpleQueue()
        self._arrivals: SimpleQueue[_Arrival] = SimpleQueue()
        self._outstanding = 0  # loads given to reading threads that have not arrived
        self._mean_s = SHORT_S / 2
        self._loads = 0
        self._count = ThreadCount()
        self._had_room = True  # since the last look: a thread found nothing more to load, or could have been added
        self._is_watched = False
        self._is_closed = False

    def serve(self, plan: ReadAhead) -> None:
        """Take the loads of this plan; called once, before `wake`."""
        self._plan = plan

    @property
    def most(self) -> int:
        """Number of threads that may load now."""
        most = self._replicas.most_threads()
        if most is not None:
            return max(1, min(most, self._count.threads))
        if self._mean_s < SHORT_S:
            return 1
        return self._cores if self._mean_s < 10 * SHORT_S else max(self._cores, _SLOW_THREADS)

    def wake(self) -> None:
        """Let a thread look for loads. Any thread."""
        if self._is_remote and self._readers:
            self._arrivals.put(_NOTHING)
            return
        with self._changed:
            self._calls += 1
            if self._is_closed:
                return
            if self._is_remote:
                if not self._readers:
                    self._start(self._lead)
                self._arrivals.put(_NOTHING)
                return
            if self._active - self._idle >= self.most:
                return
            if self._idle:
                self._changed.notify()
                return
            if len(self._readers) < _CEILING:
                self._start(self._work)
                return
        self._runtime.call_soon(self._load_on_loop)

    def _start(self, work: Callable[[_Reader], None]) -> None:
        reader = _Reader()
        name = f"streaming-reader-{len(self._readers) + 1}"
        reader.thread = threading.Thread(target=work, args=(reader,), name=name, daemon=True)
        reader.thread.start()
        self._readers.add(reader)
        self._active += work != self._lead

    def close(self) -> None:
        """End the threads; those that are busy end with their load, and are waited for only briefly. Idempotent."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            readers = list(self._readers)
        self._arrivals.put(_NOTHING)
        for _ in readers:
            self._to_read.put(None)
        until = perf_counter() + _JOIN_S
        for reader in readers:
            if reader.thread is not threading.current_thread():
                reader.thread.join(max(until - perf_counter(), 0.0))

    # -- in the threads that read from servers

    def _lead(self, reader: _Reader) -> None:
        """Give loads to the threads that read, and make and land the samples of what has arrived."""
        while not self._is_closed:
            arrivals = [self._arrivals.get()]
            while len(arrivals) < _LONGEST_RUN and not self._arrivals.empty():
                arrivals.append(self._arrivals.get())
            try:
                self._make(reader, arrivals)
            except BaseException as exc:  # no reader waits forever, whatever it was
                loads = [
                    arrival.load for arrival in arrivals if arrival.load is not None and arrival.arrived is not None
                ]
                self._give_back(reader, loads, as_exception(exc))
            self._outstanding -= sum([arrival.is_over for arrival in arrivals])
            self._loads += len(arrivals)
            most = self.most
            room = most + most // 2 - self._outstanding
            run = self._plan.take_run(max(room, 0), _drain(reader.done))
            if run:
                self._outstanding += len(run)
                self._give_out(run, most)
            self._had_room = self._had_room or self._outstanding < most
        self._plan.land(_drain(reader.done))
        with self._changed:
            self._readers.discard(reader)

    def _make(self, reader: _Reader, arrivals: list[_Arrival]) -> None:
        """Make the samples of what has arrived."""
        whole = [arrival for arrival in arrivals if arrival.arrived is not None]
        for arrival in arrivals:
            if arrival.landing is not None:
                reader.done.append(arrival.landing)
        if whole:
            last = whole[-1]
            assert last.load is not None
            arrived = [arrival.arrived for arrival in whole if arrival.arrived is not None]
            self._fetcher.finish(arrived, (last.load.since, last.load.since, last.started, last.read))
            for arrival, each in zip(whole, arrived, strict=True):
                assert arrival.load is not None
                self._end(reader, arrival.load, each)

    def _give_out(self, run: list[Load], most: int) -> None:
        for load in run:
            self._to_read.put(load)
        if not self._is_watched:
            self._start_watch()
        with self._changed:
            # The system may refuse a thread.
            with contextlib.suppress(RuntimeError):
                while self._active < min(self._outstanding, most) and len(self._readers) < _CEILING:
                    self._start(self._serve)
            has_thread = self._active > 0
        if not has_thread:  # all hang
            self._runtime.call_soon(self._read_on_loop)

    def _serve(self, reader: _Reader) -> None:
        """Read what the leading thread gives out."""
        while self._may_continue(reader):
            load = self._to_read.get()
            if load is None:
                break
            started = reader.since = perf_counter()
            begun = reader.begun = BegunSample()
            reader.current = load
            try:
                arrived = self._read(reader, load, begun, is_alone=False)
            except TakenOver:  # the timer has reported it to the leader
                continue
            finally:
                reader.current = None
            read = perf_counter()
            if arrived is not None and self._fetcher.takes_long(arrived):
                try:
                    self._fetcher.finish_in_thread([arrived], (load.since, load.since, started, read))
                    self._end(reader, load, arrived)
                except BaseException as exc:
                    self._give_back(reader, [load], as_exception(exc))
                arrived = None
            landing = _pop(reader.done)
            self._arrivals.put(_Arrival(load, arrived, landing, started, read, True))
            del load, arrived, landing
        self._leave(reader)

    def _read_on_loop(self) -> None:
        """Read on the loop what has been given out, as no thread can."""
        while not self._to_read.empty():
            try:
                load = self._to_read.get_nowait()
            except Empty:
                return
            if load is not None:
                self._arrivals.put(_GONE)
                self._continue(load)

    # -- in a thread that reads files

    def _work(self, reader: _Reader) -> None:
        plan = self._plan
        while True:
            calls = self._calls
            if not self._may_continue(reader):
                plan.land(_drain(reader.done))
                self._leave(reader)
                return
            run = plan.take_run(self._run_length(), _drain(reader.done))
            if not run:
                if self._park(reader, calls):
                    continue
                return
            if not self._is_watched:
                self._start_watch()
            if not plan.has_more:
                self._had_room = True
            elif self._active - self._idle < self.most:
                self.wake()
            try:
                self._do(reader, list(run))
            except BaseException as exc:  # no reader waits forever, whatever it was
                self._give_back(reader, run, as_exception(exc))
            del run

    def _give_back(self, reader: _Reader, run: list[Load], error: Exception) -> None:
        """End the loads of a run with an error, but for those that have ended."""
        reader.current = None
        reader.rest.clear()
        reader.read.clear()
        ended = {landing.load for landing in reader.done}
        reader.done.extend(Landing(load, MISS, error) for load in run if load not in ended)

    def _do(self, reader: _Reader, run: list[Load]) -> None:
        count = len(run)
        is_alone = count == 1
        since, started = run[0].since, perf_counter()
        reader.rest.extend(run)
        while (load := _pop(reader.rest)) is not None:
            reader.since = perf_counter()
            begun = reader.begun = BegunSample()
            reader.current = load
            arrived = self._read(reader, load, begun, is_alone)
            reader.current = None
            if arrived is not None:
                reader.read.append((load, arrived))
        arrivals = _drain(reader.read)
        if arrivals:
            passed = (since, since, started, perf_counter())
            self._fetcher.finish_in_thread([arrived for _, arrived in arrivals], passed)
            for load, arrived in arrivals:
                self._end(reader, load, arrived)
        seconds = min((perf_counter() - started) / count, 20 * SHORT_S)
        self._mean_s += (seconds - self._mean_s) * min(count / _AVERAGED, 1.0)
        self._loads += count

    def _read(self, reader: _Reader, load: Load, begun: BegunSample, is_alone: bool) -> Arrived | None:
        """Return what was read; None if there is nothing to make of it in this thread.

        Raises:
            TakenOver: the loop has the load.
        """
        key: Any = load.key
        share: Any = load.share
        try:
            return self._fetcher.read_in_thread(key, share, begun, is_alone=is_alone)
        except TakenOver:
            raise
        except (NeedsLoop, TakeOver):
            self._runtime.call_soon(self._continue, load, begun)
        except BaseException as exc:
            self._fail(reader, load, as_exception(exc), begun)
        return None

    def _end(self, reader: _Reader, load: Load, arrived: Arrived) -> None:
        if arrived.error is None:
            reader.done.append(Landing(load, arrived.value))
        else:
            self._fail(reader, load, arrived.error, BegunSample())

    def _fail(self, reader: _Reader, load: Load, error: Exception, begun: BegunSample) -> None:
        if self._replaces_bad and isinstance(error, BAD):
            begun.error = error
            self._runtime.call_soon(self._continue, load, begun)
        else:
            reader.done.append(Landing(load, MISS, error))

    def _run_length(self) -> int:
        return min(max(int(_RUN_S / max(self._mean_s, 1e-9)), 1), _LONGEST_RUN)

    def _may_continue(self, reader: _Reader) -> bool:
        """Whether a thread loads more; one that was given up for lost may find that it was replaced."""
        if reader.is_lost:
            with self._changed:
                reader.is_lost = False
                self._active += 1
        return self._active - self._idle <= self.most and not self._is_closed

    def _leave(self, reader: _Reader) -> None:
        with self._changed:
            self._active -= 1
            self._readers.discard(reader)

    def _park(self, reader: _Reader, calls: int) -> bool:
        """Wait for loads. False: the thread ends."""
        with self._changed:
            if self._calls != calls and not self._is_closed:
                return True
            self._idle += 1
            is_called = not self._is_closed and self._changed.wait(_IDLE_S)
            self._idle -= 1
            if not self._is_closed and (is_called or self._calls != calls):
                return True
        self._leave(reader)
        return False

    # -- on the loop

    def _continue(self, load: Load, begun: BegunSample | None = None) -> None:
        """Continue a load on the loop."""
        key: Any = load.key
        self._plan.run_on_loop(load, self._load(key, load.share, begun))

    def _load_on_loop(self) -> None:
        """Load where no thread can, because too many hang."""
        for load in self._plan.take_run(_LONGEST_RUN):
            self._continue(load)

    def _start_watch(self) -> None:
        with self._changed:
            if self._is_watched or self._is_closed:
                return
            self._is_watched = True
        self._runtime.call_soon(self._watch)

    def _watch(self) -> None:
        """Take over the reads that are late, and let no load wait for a slow one of the same thread."""
        now = perf_counter()
        again_s = self._replicas.settle()
        is_busy = False
        for reader in list(self._readers):
            begun, load = reader.begun, reader.current  # in this order: a claimed attempt is then one of this load
            if load is None or begun is None:
                continue
            is_busy = True
            attempt = begun.attempt
            if attempt is not None and attempt.is_late() and attempt.claim():
                self._continue(load, begun)
                self._give_up(reader)
            elif (
                not self._is_remote
                and now - reader.since > _STUCK_S
                and (reader.rest or reader.read or reader.done or self.most == 1)
            ):
                self._share_out(reader)
        if not self._is_remote and self._active - self._idle < self.most:
            self._had_room = True
        self._count.look(now, self._loads, not self._had_room)
        allowed = self._replicas.most_threads()
        if not self._had_room and allowed is not None and allowed <= self._count.threads:
            self._replicas.note_full()
        self._had_room = False
        self._is_watched = is_busy and not self._is_closed
        if self._is_watched:
            self._runtime.loop.call_later(min(again_s, _WATCH_S), self._watch)

    def _give_up(self, reader: _Reader) -> None:
        """Replace a thread whose read was taken over."""
        with self._changed:
            if not reader.is_lost:
                reader.is_lost = True
                self._active -= 1
        if self._is_remote:
            self._arrivals.put(_GONE)
        else:
            self._share_out(reader)

    def _share_out(self, reader: _Reader) -> None:
        """Let the loop continue what a slow thread has not done, and other threads take loads in its place."""
        self._mean_s = max(self._mean_s, 2 * SHORT_S)
        self._plan.land(_drain(reader.done))
        for load in _drain(reader.rest):
            self._continue(load)
        for load, arrived in _drain(reader.read):
            begun = BegunSample()
            begun.blobs.extend(arrived.blobs)
            self._continue(load, begun)
        self.wake()


def _pop(queue: deque[Any]) -> Any:
    """Take the next element; None if there is none, or another thread was faster."""
    try:
        return queue.popleft()
    except IndexError:
        return None


def _drain(queue: deque[Any]) -> list[Any]:
    """Take everything out of a queue that another thread may be emptying too."""
    taken = []
    while queue and (element := _pop(queue)) is not None:
        taken.append(element)
    return taken
