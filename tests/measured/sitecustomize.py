"""Lets a process that coverage measures fork at any moment; Python imports it where PYTHONPATH has this folder.

Coverage's tracer holds a lock for an instant at each call of a measured function, in every thread. What is forked at
such an instant of another thread, as a DataLoader worker may be while the loop thread answers others, would wait for
that lock forever, silently, in the first hook after the fork. https://github.com/coveragepy/coveragepy/pull/1313
is about a related lock.
"""

from __future__ import annotations

import os
import sys
import threading


def _free_locks() -> None:
    """In a forked child, before any function in it that is measured: the threads that may hold a lock are not here."""
    module = sys.modules.get("coverage.collector")
    for collector in () if module is None else module.Collector._collectors:
        if collector.data_lock is not None:
            collector.data_lock = threading.Lock()


os.register_at_fork(after_in_child=_free_locks)
