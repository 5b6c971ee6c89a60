"""The event-loop thread of this process, and the bridge from synchronous code to it.

All input happens on one loop in one daemon thread per process, started on first use. Synchronous code passes it a
coroutine with `Runtime.run` and blocks, which is also safe inside a running loop of the caller: that is another loop.
The loop thread does not survive a fork: a forked child starts its own runtime on first use, and never touches clients,
sockets or locks of its parent.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from streaming.core.logs import get_logger
from streaming.errors import WrongThreadError

__all__ = ["Done", "Pending", "Runtime", "current_runtime"]

T = TypeVar("T")

logger = get_logger(__name__)

CLOSE_TIMEOUT_S = 5.0
"""How long `Runtime.close` waits for cancelled tasks; they only have to reach their next await."""


_LAG_EVERY_S = 0.25  # between two measurements, of about 20 us each
_LAGS_KEPT = 40  # 10 s of measurements
_LAGS_LATER = 4  # ignored outliers: garbage collection, or a busy machine


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # Windows, where uvloop does not exist
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class Runtime:
    """One event loop in one daemon thread. Use `current_runtime()` rather than making one.

    Attributes:
        loop: the running loop; schedule on it with `call_soon` or `submit` from any thread.
    """

    def __init__(self) -> None:
        self.loop = _new_event_loop()
        self._is_over = False
        self._lags = deque([0.0] * _LAGS_KEPT, _LAGS_KEPT)
        self._thread = threading.Thread(target=self._main, name="streaming-loop", daemon=True)
        self._thread.start()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        self._watch_lag(self.loop.time())
        try:
            while not self._is_over:
                self._run()
        finally:
            self.loop.close()

    def _run(self) -> None:
        try:
            self.loop.run_forever()
        except BaseException as exc:  # SystemExit or KeyboardInterrupt in one task: its caller gets it, others continue
            logger.warning("loop_interrupted error=%s", type(exc).__name__)

    @property
    def lag_s(self) -> float:
        """90th percentile of how late the loop's timers were in the last 10 seconds.

        Reads wait about as long for their turn, for example while the trainer's Python holds the interpreter's lock.
        """
        return sorted(self._lags)[-1 - _LAGS_LATER]

    def _watch_lag(self, due: float) -> None:
        now = self.loop.time()
        self._lags.append(now - due)
        self.loop.call_at(now + _LAG_EVERY_S, self._watch_lag, now + _LAG_EVERY_S)

    def is_current_thread(self) -> bool:
        """Whether the caller runs on the loop thread."""
        return threading.get_ident() == self._thread.ident

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the loop; the future can be waited for and cancelled from any thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and block until it ends; an interrupt of the caller cancels it.

        Raises:
            WrongThreadError: called on the loop thread, which would wait for itself forever.
        """
        if self.is_current_thread():
            coroutine.close()
            raise WrongThreadError(
                "a blocking call was made on the library's own loop thread; await the async form instead"
            )
        future = self.submit(coroutine)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Schedule a plain callable on the loop thread, from any thread; nothing happens once the loop is closed."""
        try:
            self.loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            if not self.loop.is_closed():
                raise

    def close(self) -> None:
        """Cancel the tasks of the loop and end its thread. Idempotent."""
        if not self._thread.is_alive() or self.is_current_thread():
            return
        self.submit(self._cancel_all())
        self._thread.join(CLOSE_TIMEOUT_S)

    async def _cancel_all(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S / 2)
        self._is_over = True
        self.loop.stop()


_lock = threading.Lock()
_runtime: Runtime | None = None
_inherited: list[object] = []  # the parent's runtime, kept because finalising its clients in a child may hang


def current_runtime() -> Runtime:
    """Return the runtime of this process, started on first use."""
    global _runtime
    if _runtime is None:
        with _lock:
            if _runtime is None:
                _runtime = Runtime()
                atexit.register(_runtime.close)
    return _runtime


def _forget_in_child() -> None:
    global _runtime, _lock
    _lock = threading.Lock()
    if _runtime is not None:
        atexit.unregister(_runtime.close)
        _inherited.append(_runtime)
        _runtime = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


class Done(Generic[T]):
    """A result that may be awaited or not: for calls that old code makes both ways."""

    def __init__(self, value: T) -> None:
        self._value = value

    def __await__(self) -> Generator[Any, None, T]:
        return self._value
        yield

    def result(self, timeout_s: float | None = None) -> T:
        """Return the value, at once."""
        return self._value


class Pending(Generic[T]):
    """Work in progress on the runtime's loop. It may be awaited on any loop, or ignored."""

    def __init__(self, future: Future[T]) -> None:
        self._future = future

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.wrap_future(self._future).__await__()

    def result(self, timeout_s: float | None = None) -> T:
        """Block until the work ended and return its result."""
        return self._future.result(timeout_s)
