"""Tests of the helpers that end the jobs under test, and only those."""

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
    """The processes are listed in the order of their stacks, and each stack is complete."""
    processes = Processes()
    with start(processes) as process:
        descriptions = processes.abort()
        stacks = process.communicate()[1]
    assert process.returncode == -6
    assert descriptions[0].startswith(f"{process.pid}, child of ")
    assert descriptions[1].split(": ")[0].endswith(f"child of {process.pid}")
    assert stacks.index("in parent") < stacks.index("in child")
    report = Job({0: [Step(7, 1, [3])]}, descriptions, process.returncode, stacks).report()
    assert "rank 0 got step 7 last" in report
    assert all(part in report for part in (*descriptions, stacks))


@pytest.mark.parametrize("is_hung", [False, True])
def test_a_report_says_whether_a_job_hung(is_hung: bool) -> None:
    """It does so only if processes of the job were stopped."""
    report = Job({}, ["12, child of 1: python"] if is_hung else [], -9).report()
    assert report.startswith("it ended with -9\n")
    assert ("it hung" in report) == is_hung
