"""Training jobs of real processes: run to the end, or killed at a step, with what their steps received."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from streaming.loader.data_loader import StreamingDataLoader

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]

SAMPLES = 40
BATCH = 2
EPOCHS = 3
SAVE_EVERY = 5
"""Steps. Two ranks take ten steps an epoch: every second checkpoint lies on the border of two epochs."""


@dataclass(frozen=True)
class Step:
    """The batch that one rank received at a step of the run."""

    number: int
    epoch: int
    samples: list[int]


@dataclass
class Job:
    """What the processes of a job told, by rank, and how the first of them ended."""

    steps: dict[int, list[Step]] = field(default_factory=lambda: defaultdict(list))
    pids: set[int] = field(default_factory=set)
    returncode: int = 0
    stderr: str = ""

    @property
    def first(self) -> int:
        """The step it began with."""
        [number] = {steps[0].number for steps in self.steps.values()}
        return number

    def note(self, line: str) -> Step | None:
        """Take in a line of output, if it is one of `received`."""
        if not line.startswith("received "):
            return None
        told: dict[str, Any] = json.loads(line.removeprefix("received "))
        self.pids.add(told["pid"])
        step = Step(told["step"], told["epoch"], told["samples"])
        self.steps[told["rank"]].append(step)
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
    """Run a command and read what it tells until its last process has ended."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
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
        job.pids.add(process.pid)
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()))
        reader.start()
        bound = threading.Timer(240, lambda: _kill(job.pids))  # a job that hangs
        bound.start()
        for line in process.stdout or ():  # ends when no process is left that could write
            step = job.note(line)
            if step is not None and stop_at is not None and step.number == stop_at[0]:
                if job.steps[stop_at[1]] and job.steps[stop_at[1]][-1].number == stop_at[0]:
                    _kill(job.pids)
        bound.cancel()
        reader.join()
    job.returncode, job.stderr = process.returncode, "".join(errors)
    return job


def _kill(pids: set[int]) -> None:
    """Kill the process groups of some processes: their workers too."""
    for pid in pids:
        try:
            os.killpg(os.getpgid(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue


def finished(job: Job) -> Job:
    """The job, which ended well."""
    assert job.returncode == 0, job.stderr
    return job


def killed(job: Job) -> Job:
    """The job, which was killed."""
    assert job.returncode == -signal.SIGKILL, job.stderr
    return job


def together(*parts: Job) -> dict[int, list[Step]]:
    """What each rank received, without the steps of a part that the next one did again from its checkpoint."""
    told: dict[int, list[Step]] = {rank: [] for rank in parts[0].steps}
    for part in parts:
        for rank, steps in part.steps.items():
            told[rank] = told[rank][: part.first] + steps
    return told


def global_order(*parts: Job) -> list[tuple[int, int]]:
    """The (epoch, sample) pairs of all ranks in the order of the run, for parts of any number of ranks."""
    rounds: list[list[tuple[int, int]]] = []
    for part in parts:
        del rounds[part.first :]
        ranks = [part.steps[rank] for rank in sorted(part.steps)]
        for steps in zip(*ranks, strict=False):  # a killed rank may be one step behind
            turns = zip(*(step.samples for step in steps), strict=True)
            rounds.append([(steps[0].epoch, sample) for turn in turns for sample in turn])
    return [pair for pairs in rounds for pair in pairs]


def uninterrupted(ranks: int = 2) -> dict[int, list[Step]]:
    """What each rank would receive of a StreamingDataLoader that nothing stops."""
    told = {}
    for rank in range(ranks):
        samples: Any = torch.arange(SAMPLES)
        loader = StreamingDataLoader(samples, BATCH, shuffle=True, rank=rank, world_size=ranks)
        batches = [(epoch, batch.tolist()) for epoch in range(EPOCHS) for batch in loader]
        told[rank] = [Step(number, *batch) for number, batch in enumerate(batches)]
    pairs = sorted((step.epoch, sample) for steps in told.values() for step in steps for sample in step.samples)
    assert pairs == [(epoch, sample) for epoch in range(EPOCHS) for sample in range(SAMPLES)]
    return told


def killed_twice(train: Train, seed: int, ranks: int = 2) -> dict[int, list[Step]]:
    """What each rank received in a run that was resumed on the border of two epochs, then in the middle of one.

    Args:
        train: runs the job from its last checkpoint, and has it killed at a step and rank if that is given.
        seed: chooses them.
    """
    draw = random.Random(seed)
    steps = SAMPLES // (BATCH * ranks)
    on_border = killed(train((draw.randrange(steps, steps + SAVE_EVERY), draw.randrange(ranks))))
    amid = killed(train((draw.randrange(steps + SAVE_EVERY, steps + 2 * SAVE_EVERY), draw.randrange(ranks))))
    rest = finished(train(None))
    assert (amid.first, rest.first) == (steps, steps + SAVE_EVERY)
    return together(on_border, amid, rest)
