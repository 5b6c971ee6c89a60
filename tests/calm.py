"""Measurements on a machine that may pause everything for a moment, as a busy host does with its guests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["calmly"]

T = TypeVar("T")

_LOOK_EVERY_S = 0.01
_CALM_S = 0.1  # a look that comes this late was delayed; what is measured here takes longer
_ATTEMPTS = 6


def calmly(measure: Callable[[], T]) -> T:
    """Return the first measurement during which this process was not paused for long, or else the last of six.

    A thread with its own clock detects pauses; the measured value plays no part.
    """
    for _ in range(_ATTEMPTS):
        ended, pauses = threading.Event(), [0.0]
        watcher = threading.Thread(target=_watch, args=(ended, pauses))
        watcher.start()
        try:
            measured = measure()
        finally:
            ended.set()
            watcher.join()
        if max(pauses) < _CALM_S:
            break
    return measured


def _watch(ended: threading.Event, pauses: list[float]) -> None:
    looked = time.perf_counter()
    while not ended.wait(_LOOK_EVERY_S):
        now = time.perf_counter()
        pauses.append(now - looked)
        looked = now
