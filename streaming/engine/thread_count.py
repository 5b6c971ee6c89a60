"""How many threads read: twice as many while that is faster, no more where the processor or the server is the limit."""

from __future__ import annotations

__all__ = ["MOST_THREADS", "ThreadCount"]

START_THREADS = 16
"""Over loopback, 8 to 32 threads read 100 kB objects equally fast (9,300 to 9,650 a second on two cores)."""

MOST_THREADS = 256
"""Most threads that read at once: at 30 ms, 8,500 reads a second."""

_WINDOW_S = 0.1  # shortest measurement of a rate
_ROUNDS = 3  # loads of each thread in a measurement, at least
_GAIN = 1.15  # twice the threads have to read this much faster
_FIRST_PAUSE_S = 1.0  # until the next trial after one that did not pay; doubles
_LONGEST_PAUSE_S = 30.0


class ThreadCount:
    """Finds the number of threads by trial: the rate of loads is measured, then that with twice the threads.

    Only moments count in which all threads are busy and more would be: with less to do, the rate says nothing.

    Attributes:
        threads: number of threads that may read now.
    """

    def __init__(self) -> None:
        self.threads = START_THREADS
        self._is_trial = False
        self._rate = 0.0
        self._since: float | None = None
        self._loads = 0
        self._pause_s = _FIRST_PAUSE_S
        self._next_trial = 0.0

    def look(self, now: float, loads: int, is_limit: bool) -> None:
        """Take note of the progress so far.

        Args:
            now: in seconds.
            loads: number of loads that have ended.
            is_limit: whether at each moment since the last call more threads would have found something to read.
        """
        if not is_limit:
            self._since = None
            return
        if self._since is None:
            self._since, self._loads = now, loads
            return
        elapsed_s, done = now - self._since, loads - self._loads
        if elapsed_s < _WINDOW_S or done < _ROUNDS * self.threads:
            return
        self._judge(now, done / elapsed_s)
        self._since, self._loads = now, loads

    def _judge(self, now: float, rate: float) -> None:
        if not self._is_trial:
            self._rate = rate
            if now >= self._next_trial and self.threads < MOST_THREADS:
                self._is_trial = True
                self.threads *= 2
            return
        self._is_trial = False
        if rate >= _GAIN * self._rate:
            self._rate = rate
            self._pause_s = _FIRST_PAUSE_S
            if self.threads < MOST_THREADS:
                self._is_trial = True
                self.threads *= 2
            return
        self.threads //= 2
        self._next_trial = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
