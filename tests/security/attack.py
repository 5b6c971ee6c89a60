"""Runs what may exhaust the machine where it cannot: in a child with a limit on its memory and its time.

One process imports torch, NumPy and the library, and is forked for each attack: an attack costs milliseconds, and one
that kills its process says so. Linux only, as the limits are.
"""

from __future__ import annotations

import atexit
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import process_time
from typing import IO, Any

ROOT = Path(__file__).parent.parent.parent
PRELOADED = ("numpy", "torch", "safetensors.torch", "zstandard", "aiohttp", "obstore", "streaming.codecs")
_WALL_PER_CPU = 5  # a busy machine gives a process a fifth of a processor


class Killed(Exception):
    """The attack ended its process: by the limit on time (SIGXCPU, SIGALRM), or by a crash (SIGSEGV)."""


@dataclass(frozen=True)
class Outcome:
    """Result of an attack.

    Attributes:
        error: what was raised, `MemoryError` at the limit on memory, `Killed` if the process did not survive; or None.
        value: what was returned; None if it cannot be pickled.
        peak_bytes: resident memory at its highest, above that before the attack; 0 if the process did not survive.
        cpu_s: seconds of processor time; 0 if the process did not survive.
    """

    error: BaseException | None
    value: Any
    peak_bytes: int
    cpu_s: float


def attack(call: Callable[[], Any] | str, memory_bytes: int, seconds: float) -> Outcome:
    """Run `call`, which pickles by reference (a function of a module, a `partial` of one), or a text of Python.

    Args:
        call: what to run; its arguments are made before anything is measured.
        memory_bytes: how much address space it may take above what its process has.
        seconds: of processor time, rounded up; five times as much on the clock.
    """
    stage = _stage()
    assert stage.stdin is not None
    assert stage.stdout is not None
    _send(stage.stdin, pickle.dumps((call, memory_bytes, seconds)))
    return pickle.loads(_receive(stage.stdout))


def environment() -> dict[str, str]:
    """In which a child finds this tree's modules, those of the tests too."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def address_space() -> int:
    """Bytes that this process has mapped."""
    return _status("VmSize")


@cache
def _stage() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.security.attack"],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    atexit.register(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _send(file: IO[bytes], content: bytes) -> None:
    file.write(struct.pack("<Q", len(content)) + content)
    file.flush()


def _receive(file: IO[bytes]) -> bytes:
    size = file.read(8)
    return file.read(*struct.unpack("<Q", size)) if size else b""


def _serve() -> None:
    """Fork for each attack that comes in, until the input ends."""
    for name in PRELOADED:
        __import__(name)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what an attack prints is not an answer
    while request := _receive(sys.stdin.buffer):
        call, memory_bytes, seconds = pickle.loads(request)
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(ours)
            _perform(call, memory_bytes, seconds, theirs)
        os.close(theirs)
        with os.fdopen(ours, "rb") as file:
            report = file.read()
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) or not report:
            name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit status {status}"
            report = pickle.dumps(Outcome(Killed(f"{name}, {seconds} s allowed"), None, 0, 0.0))
        _send(answers, report)


def _perform(call: Callable[[], Any] | str, memory_bytes: int, seconds: float, report: int) -> None:
    cpu_s = max(1, -int(-seconds // 1))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    signal.setitimer(signal.ITIMER_REAL, cpu_s * _WALL_PER_CPU)
    before = _status("VmRSS")
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + memory_bytes, hard))
    error, value, started = None, None, process_time()
    try:
        if isinstance(call, str):
            exec(call, {})
        else:
            value = call()
    except BaseException as exc:
        error = exc.with_traceback(None)
    spent, peak = process_time() - started, _status("VmHWM") - before
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    try:
        content = pickle.dumps(Outcome(error, value, peak, spent))
    except Exception:
        content = pickle.dumps(Outcome(error and Exception(repr(error)), None, peak, spent))
    with os.fdopen(report, "wb") as file:
        file.write(content)
    os._exit(0)


def _status(name: str) -> int:
    """A number of bytes from /proc/self/status."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{name}:"))


if __name__ == "__main__":
    # Under its own name, so that what it pickles is found there.
    from tests.security import attack as module

    module._serve()
