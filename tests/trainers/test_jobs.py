"""What ends the jobs under test, and only those."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.trainers.jobs import Job, Processes, Step

HANGING = """
import os, signal, sys

def parent():
    sys.stdin.readline()
    signal.pause()

def child():
    os.setsid()
    os.write(1, b"it hangs\\n")
    signal.pause()

parent() if os.fork() else child()
"""


def start(processes: Processes) -> subprocess.Popen[str]:
    """A job of two processes in sessions of their own, which hang."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING], env=processes.environment, text=True, stdin=pipe, stdout=pipe, stderr=pipe
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "it hangs\n"
    return process


def test_all_processes_of_a_job_are_killed_and_no_other() -> None:
    """Also those that have left its session; a second time there is nothing to kill."""
    processes, others = Processes(), Processes()
    with start(processes) as process, start(others) as other:
        assert (len(processes.alive()), len(others.alive())) == (2, 2)
        processes.kill()
        assert process.communicate() == ("", "")
        processes.kill()
        assert (process.wait(), processes.alive(), len(others.alive())) == (-9, [], 2)
        others.kill()
        assert other.wait() == -9


def test_what_hangs_says_where() -> None:
    """Its processes in the order of their stacks, each of which is whole."""
    processes = Processes()
    with start(processes) as process:
        told = processes.abort()
        stacks = process.communicate()[1]
    assert process.returncode == -6
    assert told[0].startswith(f"{process.pid}, child of ")
    assert told[1].split(": ")[0].endswith(f"child of {process.pid}")
    assert stacks.index("in parent") < stacks.index("in child")
    report = Job({0: [Step(7, 1, [3])]}, told, process.returncode, stacks).report()
    assert "rank 0 got step 7 last" in report
    assert all(part in report for part in (*told, stacks))


@pytest.mark.parametrize("is_hung", [False, True])
def test_a_report_tells_a_job_that_hung_from_another(is_hung: bool) -> None:
    """It was stopped here only in one of the two."""
    report = Job({}, ["12, child of 1: python"] if is_hung else [], -9).report()
    assert report.startswith("it ended with -9\n")
    assert ("it hung" in report) == is_hung
