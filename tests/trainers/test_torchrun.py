"""A plain DistributedDataParallel trainer under torchrun: killed and resumed, also with another number of ranks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.trainers.jobs import (
    BATCH,
    EPOCHS,
    SAVE_EVERY,
    Job,
    assert_each_once,
    finished,
    global_order,
    killed,
    run,
    together,
    write_samples,
)

SEED = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of small tensors."""
    return write_samples(tmp_path_factory.mktemp("torchrun"))


@pytest.fixture(scope="module")
def whole(data: Path) -> Job:
    """A run of two ranks that nothing disturbs."""
    return finished(train(data, data.with_name("whole.pt")))


def train(
    data: Path, checkpoint: Path, ranks: int = 2, workers: int = 0, stop_at: tuple[int, int] | None = None
) -> Job:
    """Run the trainer, from its checkpoint where there is one."""
    settings = (BATCH, EPOCHS, SAVE_EVERY, workers)
    return run("torchrun_script.py", data, checkpoint, *settings, ranks=ranks, stop_at=stop_at)


def test_killed_twice_the_steps_are_those_of_the_run_that_was_not(data: Path, whole: Job, tmp_path: Path) -> None:
    """Resumed on the border of two epochs, then in the middle of one, each rank receives the same batches."""
    draw = random.Random(SEED)
    on_border = killed(train(data, tmp_path / "run.pt", stop_at=(draw.randrange(10, 15), draw.randrange(2))))
    amid = killed(train(data, tmp_path / "run.pt", stop_at=(draw.randrange(15, 20), draw.randrange(2))))
    rest = finished(train(data, tmp_path / "run.pt"))
    assert (amid.first, rest.first) == (10, 15)
    assert together(on_border, amid, rest) == whole.steps
    assert_each_once(whole)


def test_two_ranks_then_one_then_two(data: Path, whole: Job, tmp_path: Path) -> None:
    """Another number of ranks, and of workers, goes on with the same order of all samples."""
    draw = random.Random(SEED)
    two = killed(train(data, tmp_path / "run.pt", workers=2, stop_at=(draw.randrange(5, 10), draw.randrange(2))))
    one = killed(train(data, tmp_path / "run.pt", ranks=1, stop_at=(draw.randrange(10, 15), 0)))
    rest = finished(train(data, tmp_path / "run.pt"))
    assert (one.first, rest.first) == (5, 10)
    assert global_order(two, one, rest) == global_order(whole)
