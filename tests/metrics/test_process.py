"""The numbers of a process: memory, its limit, and what runs."""

from __future__ import annotations

import platform

import torch

import streaming
from streaming.metrics.process import ProcessReader


def test_the_process_tells_what_runs() -> None:
    """Versions of the library, Python and torch; memory in use is below its limit on a machine like this."""
    reading = ProcessReader(lambda: 12.5).readings()
    [(library, python, torch_version)] = reading["build_info"]
    assert (library, python) == (streaming.__version__, platform.python_version())
    assert torch_version == torch.__version__
    assert reading["start_time_seconds"] == {(): 12.5}
    assert 0 < reading["process_resident_memory_bytes"][("trainer",)] < reading["process_memory_limit_bytes"][()]
