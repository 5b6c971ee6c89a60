"""The numbers of this process: its memory and memory limit, its versions and its start time."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from streaming.core.process_memory import memory_limit, resident_memory

__all__ = ["ProcessReader"]


def _torch_version() -> str:
    """Return the version of torch with its build, which the metadata may lack: `2.13.0+cu130`."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return str(vars(torch).get("__version__"))
    try:
        return version("torch")
    except PackageNotFoundError:
        return "unknown"


class ProcessReader:
    """Reads the numbers of this process.

    Args:
        clock: seconds since 1970; read once in each process.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._begin()
        package = sys.modules[__name__.partition(".")[0]]  # imported whenever one of its modules is
        self._build = (str(vars(package).get("__version__")), platform.python_version())

    def _begin(self) -> None:
        self._pid, self._started = os.getpid(), self._clock()

    def metrics_snapshot(self) -> dict[str, dict[tuple[str, ...], Any]]:
        """Return the numbers of this moment; None for those that are not known on this system."""
        if self._pid != os.getpid():  # in a forked child
            self._begin()
        return {
            "process_resident_memory_bytes": {("trainer",): resident_memory()},
            "process_memory_limit_bytes": {(): memory_limit()},
            "start_time_seconds": {(): self._started},
            "build_info": {(*self._build, _torch_version()): 1},
        }
