"""torchdata's StatefulDataLoader over a StreamingSampler, killed and resumed from what `torch.save` wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainers.jobs import BATCH, EPOCHS, SAVE_EVERY, Job, killed_twice, run, uninterrupted, write_samples

SEED = 3


@pytest.mark.parametrize(("workers", "at_end"), [(0, 0), (0, 1), (2, 0), (2, 1)])
def test_killed_twice_the_steps_are_those_of_the_run_that_was_not(workers: int, at_end: int, tmp_path: Path) -> None:
    """With and without workers ahead, saved with the last batch of an epoch or after it: the same batches."""
    data = write_samples(tmp_path / "data")

    def train(stop_at: tuple[int, int] | None) -> Job:
        settings = (BATCH, EPOCHS, SAVE_EVERY, workers, at_end)
        return run("torchdata_script.py", data, tmp_path / "run.pt", *settings, stop_at=stop_at)

    assert killed_twice(train, SEED, ranks=1) == uninterrupted(ranks=1)
