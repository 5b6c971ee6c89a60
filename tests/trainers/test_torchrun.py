"""A plain DistributedDataParallel trainer under torchrun: killed and resumed, also with another number of ranks."""

from __future__ import annotations

import random
from pathlib import Path

from tests.trainers.jobs import (
    BATCH,
    EPOCHS,
    SAVE_EVERY,
    Job,
    finished,
    global_order,
    killed,
    killed_twice,
    run,
    uninterrupted,
    write_samples,
)

SEED = 5


def train(folder: Path, stop_at: tuple[int, int] | None, ranks: int = 2, workers: int = 0) -> Job:
    """Run the trainer, from its checkpoint if there is one."""
    settings = (BATCH, EPOCHS, SAVE_EVERY, workers)
    return run("torchrun_script.py", folder / "data" / "x", folder / "run.pt", *settings, ranks=ranks, stop_at=stop_at)


def test_killed_twice_the_steps_are_those_of_the_run_that_was_not(tmp_path: Path) -> None:
    """Resumed between two epochs, then in the middle of one, each rank receives the same batches."""
    write_samples(tmp_path / "data")
    assert killed_twice(lambda stop_at: train(tmp_path, stop_at), SEED) == uninterrupted()


def test_two_ranks_then_one_then_two(tmp_path: Path) -> None:
    """Another number of ranks and workers continues in the same global order."""
    write_samples(tmp_path / "data")
    draw = random.Random(SEED)
    two = killed(train(tmp_path, (draw.randrange(5, 10), draw.randrange(2)), workers=2))
    one = killed(train(tmp_path, (draw.randrange(10, 15), 0), ranks=1))
    rest = finished(train(tmp_path, None))
    assert (one.first, rest.first) == (5, 10)
    assert global_order(two, one, rest) == global_order(Job(uninterrupted()))
