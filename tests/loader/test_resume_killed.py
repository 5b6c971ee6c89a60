"""A job that is killed at any moment resumes from the state it saved last, and leaves nothing behind.

Jobs are forked from one process that has imported everything, so that fifty of them take seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streaming.order.permutation import Shuffled

COUNT = 400
BATCH = 4
SAVES_EVERY = 3

NURSERY = """
import json, os, sys
from pathlib import Path
from streaming.adapter import StreamingDatasetAdapter
from streaming.loader.data_loader import StreamingDataLoader

folder, workers = Path(sys.argv[1]), int(sys.argv[2])

def train():
    state = folder / "state.json"
    with StreamingDatasetAdapter(str(folder / "data"), cache_size_gb=0.01) as adapter, open(3, "w") as output:
        loader = StreamingDataLoader(
            adapter, 4, shuffle=True, seed=5, num_workers=workers, collate_fn=lambda batch: [s["idx"] for s in batch]
        )
        if state.exists():
            loader.load_state_dict(state.read_text())
        steps = 0
        while True:
            for batch in loader:
                print(json.dumps(batch), file=output, flush=True)
                steps += 1
                if steps % 3 == 0:
                    (folder / "state.new").write_text(json.dumps(loader.state_dict()))
                    os.replace(folder / "state.new", state)

for line in sys.stdin:
    job = os.fork()
    if not job:
        os.setsid()
        train()
        os._exit(0)
    print(job, flush=True)
    os.waitpid(job, 0)
    print("over", flush=True)
"""


class Nursery:
    """A process that forks jobs; what they were given to train on comes through a pipe."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._read, write = os.pipe()
        os.set_inheritable(write, True)
        self._output = b""
        command = f"exec {sys.executable} -c '{NURSERY}' {folder} {workers} 3>&{write}"
        self._process = subprocess.Popen(
            ["bash", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[write]
        )
        os.close(write)

    def run_and_kill(self, steps: int) -> list[list[int]]:
        """Return what a job received until it was killed with all its processes, some time after `steps` steps."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        job = int(self._process.stdout.readline())
        while self._output.count(b"\n") < steps:
            self._output += os.read(self._read, 1 << 16)
        pids = {job, *processes_of(job)}
        os.killpg(job, signal.SIGKILL)
        assert self._process.stdout.readline() == "over\n"
        lines = self._rest_of_output().splitlines()
        wait_until(lambda: not processes_of(job))
        wait_until(lambda: not left_by(pids))
        return [json.loads(line) for line in lines]

    def _rest_of_output(self) -> bytes:
        """Return the content of the pipe; the nursery keeps its other end open."""
        os.set_blocking(self._read, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._output += os.read(self._read, 1 << 16)
        os.set_blocking(self._read, True)
        output, self._output = self._output, b""
        return output

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()
        os.close(self._read)


def processes_of(session: int) -> list[int]:
    """The processes of a session that run; those that only wait to be reaped do not."""
    shown = subprocess.run(["ps", "-o", "pid=,stat=", "-s", str(session)], capture_output=True, text=True).stdout
    fields = [line.split() for line in shown.splitlines()]
    return [int(pid) for pid, stat in fields if not stat.startswith("Z")]


def left_by(pids: set[int]) -> list[str]:
    """Return the names in shared memory of one of these processes, and semaphores that no process has open.

    Those of a process that runs, such as another test's, stay while it needs them.
    """
    names = os.listdir("/dev/shm")
    semaphores = [name for name in names if name.startswith("sem.")]
    held = inodes_mapped() if semaphores else {None}
    left = [name for name in semaphores if inode_of(name) not in held]
    return left + [name for name in names if any(f"_{pid}_" in name for pid in pids)]


def inode_of(name: str) -> int | None:
    """Return the number of a file in shared memory; None if it is no longer there."""
    with contextlib.suppress(FileNotFoundError):
        return os.stat(f"/dev/shm/{name}").st_ino
    return None


def inodes_mapped() -> set[int | None]:
    """Return the numbers of the semaphores that processes have open, and None."""
    found: set[int | None] = {None}
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # the process has ended
            found |= {int(line.split()[4]) for line in maps.read_text().splitlines() if "/dev/shm/sem." in line}
    return found


def wait_until(is_so: Callable[[], bool]) -> None:
    """A process that is killed has its memory for a moment longer, and a test may just make a semaphore."""
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline


@pytest.fixture(params=[0, 2])
def nursery(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Nursery]:
    (tmp_path / "data").mkdir()
    for number in range(COUNT):
        (tmp_path / "data" / f"{number:03d}.json").write_text(f"[{number}]")
    nursery = Nursery(tmp_path, request.param)
    yield nursery
    nursery.close()


def expected(begin: int, count: int) -> list[list[int]]:
    """Batches of a run that was not killed."""
    order = Shuffled(COUNT, 5)
    each = COUNT // BATCH
    return [
        order.samples(number // each, number % each * BATCH, number % each * BATCH + BATCH).tolist()
        for number in range(begin, begin + count)
    ]


def saved(folder: Path) -> int:
    """How many batches the last saved state has behind it."""
    path = folder / "state.json"
    if not path.exists():
        return 0
    state = json.loads(path.read_text())
    return (int(state["epoch"]) * COUNT + int(state["position"])) // BATCH


@pytest.mark.parametrize("part", range(5))
def test_killed_at_random_moments(part: int, nursery: Nursery, tmp_path: Path) -> None:
    """Five jobs, fifty in all, each resume from the state that the one before saved last; nothing is left behind."""
    chance = random.Random(f"{os.environ['STREAMING_CUTS_SEED']} killed {part}")
    for _ in range(5):
        begin = saved(tmp_path)
        found = nursery.run_and_kill(chance.randint(1, 60))
        assert found == expected(begin, len(found))
        after = saved(tmp_path)
        assert after <= begin + len(found) + 1  # the last step may have been saved and not printed completely
        assert (after - begin) % SAVES_EVERY == 0
    files = {path.name for path in tmp_path.iterdir()} - {"state.new"}  # the trainer's own, killed while writing it
    assert files <= {"data", "state.json"}
    assert len(list((tmp_path / "data").iterdir())) == COUNT
