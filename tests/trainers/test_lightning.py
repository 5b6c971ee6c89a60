"""A LightningModule on two processes, killed and resumed from `ModelCheckpoint`'s files."""

from __future__ import annotations

from pathlib import Path

from tests.trainers.jobs import BATCH, EPOCHS, SAVE_EVERY, Job, killed_twice, run, uninterrupted, write_samples

SEED = 11


def test_killed_twice_the_steps_are_those_of_the_run_that_was_not(tmp_path: Path) -> None:
    """Each rank receives the same batches, whether Lightning starts the second process or torchrun both."""
    data = write_samples(tmp_path / "data")
    starts = iter([None, 2, 2])

    def train(stop_at: tuple[int, int] | None) -> Job:
        settings = (BATCH, EPOCHS, SAVE_EVERY)
        return run("lightning_script.py", data, tmp_path / "run", *settings, ranks=next(starts), stop_at=stop_at)

    assert killed_twice(train, SEED) == uninterrupted()
