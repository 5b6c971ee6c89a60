"""Processes under coverage fork like others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "tests" / "measured"

FORKED = """
import os, signal, threading

from coverage.collector import Collector

[collector] = Collector._collectors
is_held, is_forked = threading.Event(), threading.Event()

def call():  # as the tracer does around each call of a measured function
    collector.lock_data()
    is_held.set()
    is_forked.wait()
    collector.unlock_data()

def before():
    threading.Thread(target=call).start()
    is_held.wait()

def limit():
    signal.alarm(30)  # for a child that waits for the lock

# What is registered first comes last before a fork, and first after it.
os.register_at_fork(before=before, after_in_parent=is_forked.set, after_in_child=limit)

import streaming.{module}  # its own hook is measured

child = os.fork()
if not child:
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("module", ["telemetry.stages", "engine.forks"])
def test_a_fork_while_another_thread_calls_a_measured_function(tmp_path: Path, module: str) -> None:
    """The child goes on, and saves what it measured."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    environment["COVERAGE_PROCESS_START"] = str(ROOT / "pyproject.toml")
    environment["COVERAGE_FILE"] = str(tmp_path / "data")
    environment["PYTHONPATH"] = os.pathsep.join([str(MEASURED), str(ROOT)])
    command = [sys.executable, "-c", FORKED.format(module=module)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("0\n", 0), (done.stdout, done.stderr)
    assert len(list(tmp_path.glob("data.*"))) == 2


def test_measured_processes_have_the_hook() -> None:
    """So do the ones that tests start; processes that are not measured do without."""
    code = "import sys; print(getattr(sys.modules.get('sitecustomize'), '__file__', ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    has_hook = Path(done.stdout.strip()) == MEASURED / "sitecustomize.py"
    assert has_hook is ("COVERAGE_PROCESS_CONFIG" in os.environ)
