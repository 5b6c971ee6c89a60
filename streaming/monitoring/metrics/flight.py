"""Asks a data set for its numbers without waiting for ever."""

from __future__ import annotations

import threading
import weakref
from time import monotonic

from streaming.monitoring.metrics.live import Readable
from streaming.monitoring.metrics.totals import MetricsSnapshot

__all__ = ["READ_TIMEOUT_S", "Flight"]

READ_TIMEOUT_S = 0.5
"""How long a scrape waits for a data set: half of the shortest usual limit of a scrape, 1 s. Reading an owner in this
process takes some 0.1 ms; one in a child answers over a line, and not while it is stopped."""


class Flight:
    """Reads one data set in a thread of its own, at most one at a time.

    A thread is started for each reading (60 us, every 15 s) rather than kept: so none is left over when the data set
    closes, and one that never answers holds up nobody but itself.
    """

    def __init__(self, reader: Readable) -> None:
        self._reader = weakref.ref(reader)
        self._attempt: _Attempt | None = None

    def begin(self) -> None:
        """Ask, unless the last question is still open."""
        if self._attempt is None:
            reader = self._reader()
            if reader is None:
                raise LookupError("it is gone")
            attempt = _Attempt(reader)
            attempt.start()
            self._attempt = attempt

    def end(self) -> MetricsSnapshot:
        """The answer.

        Raises:
            TimeoutError: it was asked for `READ_TIMEOUT_S` ago, and has not come.
            Exception: what the data set raised.
        """
        attempt = self._attempt
        if attempt is None:
            raise LookupError("it was not asked")
        attempt.join(max(attempt.began + READ_TIMEOUT_S - monotonic(), 0.0))
        if attempt.is_alive():
            raise TimeoutError(f"no answer within {READ_TIMEOUT_S} s")
        self._attempt = None
        if attempt.error is not None:
            raise attempt.error
        return attempt.reading


class _Attempt(threading.Thread):
    def __init__(self, reader: Readable) -> None:
        super().__init__(name="streaming-reading", daemon=True)
        self.began = monotonic()
        self.reading: MetricsSnapshot = {}
        self.error: Exception | None = None
        self._reader: Readable | None = reader

    def run(self) -> None:
        reader, self._reader = self._reader, None
        assert reader is not None
        try:
            self.reading = reader.metrics_snapshot()
        except Exception as exc:
            self.error = exc.with_traceback(None)  # which would hold the data set
