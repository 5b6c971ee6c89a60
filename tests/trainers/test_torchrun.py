"""A plain DistributedDataParallel trainer under torchrun: killed, resumed, also with another number of ranks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.trainers.jobs import BATCH, EPOCHS, SAVE_EVERY, assert_each_once, finished, global_order, killed, run, together
from tests.trainers.jobs import write_samples

SCRIPT = "torchrun_script.py"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of small tensors."""
    return write_samples(tmp_path / "data")


@pytest.mark.parametrize(("workers", "seed"), [(0, 1), (2, 2)])
def test_killed_twice_the_steps_are_those_of_the_run_that_was_not(
    data: Path, tmp_path: Path, workers: int, seed: int
) -> None:
    """Resumed on the border of two epochs and in the middle of one, each rank receives the same batches."""
    draw = random.Random(seed)
    settings = (BATCH, EPOCHS, SAVE_EVERY, workers)
    whole = finished(run(SCRIPT, data, tmp_path / "whole.pt", *settings, ranks=2))
    assert_each_once(whole)
    on_border = killed(run(SCRIPT, data, tmp_path / "a.pt", *settings, ranks=2, stop_at=(draw.randrange(10, 15), draw.randrange(2))))
    amid = killed(run(SCRIPT, data, tmp_path / "a.pt", *settings, ranks=2, stop_at=(draw.randrange(15, 20), draw.randrange(2))))
    rest = finished(run(SCRIPT, data, tmp_path / "a.pt", *settings, ranks=2))
    assert (amid.first, rest.first) == (10, 15)
    assert together(on_border, amid, rest) == whole.steps
