"""Exports the metrics every few seconds in the background; a failure is logged once, and tried again."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from streaming.core.logs import get_logger
from streaming.errors import ConfigError

__all__ = ["Periodic"]

logger = get_logger(__name__)


class Periodic:
    """Exports at once, then every `every_s`, and a last time at `close()` or when the interpreter ends.

    A context manager. Does nothing in a child forked from this process.

    Args:
        way: what the log calls this export.
        export: exports once.
        every_s: seconds from the end of one export to the next.

    Raises:
        ConfigError: if `every_s` is not above 0.
    """

    def __init__(self, way: str, export: Callable[[], None], every_s: float) -> None:
        if not every_s > 0:
            raise ConfigError(f"every_s={every_s!r} must be seconds between two exports ({way}), above 0, such as 15")
        self._export = export
        self._way = way
        self._every_s = every_s
        self._pid = os.getpid()
        self._failures = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"streaming-{way}", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @property
    def failures(self) -> int:
        """Number of failures in a row; 0 after a success."""
        return self._failures

    def close(self) -> None:
        """Export a last time and stop. Idempotent."""
        atexit.unregister(self.close)
        if os.getpid() == self._pid:
            self._closing.set()
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        self._try()
        while not self._closing.wait(self._every_s):
            self._try()
        self._try()

    def _try(self) -> None:
        try:
            self._export()
        except Exception as exc:
            self._failures += 1
            if self._failures == 1:
                logger.warning(
                    "metrics_export_failed way=%s error=%s retry_seconds=%.0f", self._way, exc, self._every_s
                )
        else:
            if self._failures:
                logger.info("metrics_export_recovered way=%s failures=%d", self._way, self._failures)
            self._failures = 0
