"""A test that hangs fails at its time limit, says where it hangs, and the run continues."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

HANGING = {
    "lock": """
import signal, threading

def test_hanging():
    lock = threading.Lock()
    lock.acquire()
    signal.setitimer(signal.ITIMER_REAL, 1)
    lock.acquire()  # here
""",
    "await": """
import asyncio, signal

async def read():
    signal.setitimer(signal.ITIMER_REAL, 1)
    await asyncio.Event().wait()  # here

async def test_hanging():
    await asyncio.gather(read())
""",
    "child": """
import subprocess, sys

CODE = '''
import os, signal

def read():
    os.kill(os.getppid(), signal.SIGALRM)
    input()

read()  # here
'''

def test_hanging():
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", CODE], stdin=pipe, stdout=pipe, stderr=pipe) as child:
        child.stdout.readline()
""",
    "clean-up": """
import signal, threading
from concurrent.futures import ThreadPoolExecutor

def read():
    threading.Event().wait()  # here

def test_hanging():
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        signal.setitimer(signal.ITIMER_REAL, 1)
        reading.result()
""",
    "C code": """
import ctypes, signal

def test_hanging():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    ctypes.PyDLL(None).pause()  # here
""",
}
"""Tests that hang, each in its own way, and report that they do, so that the usual limit need not pass."""


def run(folder: Path, name: str, *options: str) -> str:
    """Run this hanging test and then one that passes, and return the output."""
    (folder / "test_it.py").write_text(f"{HANGING[name]}\n\ndef test_after(): pass\n")
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "-c", "pyproject.toml"]
    done = subprocess.run(
        [*command, f"--rootdir={folder}", *options, str(folder / "test_it.py")],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 1, done.stdout
    return done.stdout


def place(name: str) -> int:
    """Return the number of the line at which the test hangs."""
    text = HANGING[name].split("'''")[1] if "'''" in HANGING[name] else HANGING[name]
    return next(number for number, line in enumerate(text.splitlines(), 1) if line.endswith("# here"))


@pytest.mark.parametrize(("name", "workers"), [("lock", 0), ("await", 1), ("child", 0), ("child", 1)])
def test_a_hanging_test_fails_and_the_run_continues(tmp_path: Path, name: str, workers: int) -> None:
    """In the same process; the report names the line at which the test, its task or its child process hangs."""
    printed = run(tmp_path, name, "-n", str(workers))
    assert "1 failed, 1 passed" in printed
    assert "test_it.py::test_hanging reached its time limit" in printed
    assert f", line {place(name)} in" in printed or f"test_it.py:{place(name)}: Failed" in printed, printed


@pytest.mark.parametrize("name", ["clean-up", "C code"])
def test_a_test_that_cannot_be_interrupted_ends_its_process(tmp_path: Path, name: str) -> None:
    """The stacks of all threads are printed; xdist names the test and continues in another process."""
    printed = run(tmp_path, name, "-n", "1", "-o", "faulthandler_timeout=5")
    assert "crashed while running 'test_it.py::test_hanging'" in printed, printed
    assert "1 failed, 1 passed" in printed
    assert f'test_it.py", line {place(name)} in' in printed, printed
