"""Training jobs of real processes: run to the end, or killed at a step, with what their steps received."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from streaming.loader.data_loader import StreamingDataLoader

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]

SAMPLES = 40
BATCH = 2
EPOCHS = 3
SAVE_EVERY = 5
"""Steps. Two ranks take ten steps an epoch: every second checkpoint is at the border of two epochs."""

LIMIT_S = 200.0
"""A job that takes longer hangs: it takes 20 s on two cores that are busy twice over, and its test may take 300 s."""

ABORT_S = 5.0
"""How long a process has to print its stacks."""

POLL_S = 0.01


@dataclass(frozen=True)
class Step:
    """The batch that one rank received at a step of the run."""

    number: int
    epoch: int
    samples: list[int]


@dataclass
class Job:
    """Steps that the processes of a job reported, by rank, and the exit code of the first process.

    Attributes:
        hung: processes of a job that was stopped because it did not end.
    """

    steps: dict[int, list[Step]] = field(default_factory=lambda: defaultdict(list))
    hung: list[str] = field(default_factory=list)
    returncode: int = 0
    stderr: str = ""

    @property
    def first(self) -> int:
        """Number of the first step."""
        [number] = {steps[0].number for steps in self.steps.values()}
        return number

    def report(self) -> str:
        """Describe how the job ended, for the message of a test that failed."""
        lines = [f"it ended with {self.returncode}"]
        lines += [f"rank {rank} got step {steps[-1].number} last" for rank, steps in sorted(self.steps.items())]
        if self.hung:
            lines += [f"it hung for {LIMIT_S} s, and these were stopped; their stacks are in this order:", *self.hung]
        return "\n".join([*lines, self.stderr])

    def note(self, line: str) -> Step | None:
        """Take in a line of output, if it is one of `received`."""
        if not line.startswith("received "):
            return None
        received: dict[str, Any] = json.loads(line.removeprefix("received "))
        step = Step(received["step"], received["epoch"], received["samples"])
        self.steps[received["rank"]].append(step)
        return step


Train = Callable[[tuple[int, int] | None], Job]


def write_samples(folder: Path, count: int = SAMPLES) -> Path:
    """A data set of small tensors, the part `x` of sample `i` filled with `i`."""
    folder = folder / "x"
    folder.mkdir(parents=True)
    for number in range(count):
        torch.save(torch.full((4,), float(number)), folder / f"{number:03d}.pt")
    return folder


def run(script: str, *arguments: object, ranks: int | None = None, stop_at: tuple[int, int] | None = None) -> Job:
    """Run a script of this folder; all its processes have ended then.

    Args:
        script: its name.
        arguments: for its command line.
        ranks: processes that torchrun starts; None starts the script itself.
        stop_at: a step and a rank: when that rank got its batch, every process is killed (SIGKILL).
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [sys.executable, *(torchrun if ranks else ()), str(HERE / script), *map(str, arguments)]
    return _watched(command, stop_at)


def _watched(command: list[str], stop_at: tuple[int, int] | None) -> Job:
    """Run a command and read its reports until its last process has ended."""
    processes = Processes()
    environment = {**os.environ, **processes.environment, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    if stop_at is not None:
        environment["STOP_AT_STEP"], environment["STOP_RANK"] = map(str, stop_at)
    job = Job()
    with subprocess.Popen(
        command,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()))
        reader.start()
        bound = threading.Timer(LIMIT_S, lambda: job.hung.extend(processes.abort()))
        bound.start()
        is_killed = False
        for line in process.stdout or ():  # ends when no process is left that could write
            step = job.note(line)
            if step is not None and stop_at is not None and step.number == stop_at[0] and not is_killed:
                if job.steps[stop_at[1]] and job.steps[stop_at[1]][-1].number == stop_at[0]:
                    processes.kill()
                    is_killed = True
        bound.cancel()
        bound.join()
        reader.join()
    job.returncode, job.stderr = process.returncode, "".join(errors)
    return job


class Processes:
    """All processes that a command starts, in any session and at any depth, found by a variable that they inherit.

    Process IDs alone are not enough: the ID of a process that has ended may have been reused.

    Attributes:
        environment: variables for the command.
    """

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex
        self.environment = {"STREAMING_TEST_JOB": self._mark, "PYTHONFAULTHANDLER": "1"}

    def alive(self) -> list[psutil.Process]:
        """List the processes that have not ended, oldest first, so that a parent comes before its children."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("STREAMING_TEST_JOB") == self._mark:
                    found.append((process.create_time(), process.pid, process))
        return [process for _, _, process in sorted(found)]

    def kill(self) -> None:
        """End them all at once (SIGKILL)."""
        while processes := self.alive():  # one that was being forked is found the next time
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(POLL_S)

    def abort(self) -> list[str]:
        """End them all, and say which there were; each writes the stacks of its threads to standard error.

        One after the other, in the order that is returned, while the rest stands still: none reacts to the end of
        another, and stacks do not mix.
        """
        descriptions = []
        processes = self.alive()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                descriptions.append(f"{process.pid}, child of {process.ppid()}: {' '.join(process.cmdline())}")
                process.suspend()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGABRT)
                process.resume()
                until = time.monotonic() + ABORT_S
                while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
                    time.sleep(POLL_S)  # its parent waits for it
        self.kill()
        return descriptions


def finished(job: Job) -> Job:
    """Return the job after checking that it succeeded."""
    assert job.returncode == 0, job.report()
    return job


def killed(job: Job) -> Job:
    """Return the job after checking that it was killed."""
    assert job.returncode == -signal.SIGKILL, job.report()
    return job


def together(*parts: Job) -> dict[int, list[Step]]:
    """Join the steps of each rank, without those that the next part repeated from its checkpoint."""
    joined: dict[int, list[Step]] = {rank: [] for rank in parts[0].steps}
    for part in parts:
        for rank, steps in part.steps.items():
            joined[rank] = joined[rank][: part.first] + steps
    return joined


def global_order(*parts: Job) -> list[tuple[int, int]]:
    """Return the (epoch, sample) pairs of all ranks in the order of the run; the number of ranks may change."""
    rounds: list[list[tuple[int, int]]] = []
    for part in parts:
        del rounds[part.first :]
        ranks = [part.steps[rank] for rank in sorted(part.steps)]
        for steps in zip(*ranks, strict=False):  # a killed rank may be one step behind
            turns = zip(*(step.samples for step in steps), strict=True)
            rounds.append([(steps[0].epoch, sample) for turn in turns for sample in turn])
    return [pair for pairs in rounds for pair in pairs]


def uninterrupted(ranks: int = 2) -> dict[int, list[Step]]:
    """Return the steps that each rank receives from a StreamingDataLoader without an interruption."""
    received = {}
    for rank in range(ranks):
        samples: Any = torch.arange(SAMPLES)
        loader = StreamingDataLoader(samples, BATCH, shuffle=True, rank=rank, world_size=ranks)
        batches = [(epoch, batch.tolist()) for epoch in range(EPOCHS) for batch in loader]
        received[rank] = [Step(number, *batch) for number, batch in enumerate(batches)]
    pairs = sorted((step.epoch, sample) for steps in received.values() for step in steps for sample in step.samples)
    assert pairs == [(epoch, sample) for epoch in range(EPOCHS) for sample in range(SAMPLES)]
    return received


def killed_twice(train: Train, seed: int, ranks: int = 2) -> dict[int, list[Step]]:
    """Return the steps of each rank in a run resumed at the border of two epochs, then in the middle of one.

    Args:
        train: runs the job from its last checkpoint, and kills it at the given step and rank, if any.
        seed: chooses the steps and the ranks.
    """
    draw = random.Random(seed)
    steps = SAMPLES // (BATCH * ranks)
    on_border = killed(train((draw.randrange(steps, steps + SAVE_EVERY), draw.randrange(ranks))))
    in_epoch = killed(train((draw.randrange(steps + SAVE_EVERY, steps + 2 * SAVE_EVERY), draw.randrange(ranks))))
    rest = finished(train(None))
    assert (in_epoch.first, rest.first) == (steps, steps + SAVE_EVERY)
    return together(on_border, in_epoch, rest)
