"""A Hugging Face Trainer on two processes, killed and resumed from its checkpoints."""

from __future__ import annotations

from pathlib import Path

from tests.trainers.jobs import BATCH, EPOCHS, SAVE_EVERY, Job, killed_twice, run, uninterrupted, write_samples

SEED = 13


def test_killed_twice_the_steps_are_those_of_the_run_that_was_not(tmp_path: Path) -> None:
    """Each rank receives the same batches, which the Trainer neither skips nor repeats."""
    data = write_samples(tmp_path / "data")

    def train(stop_at: tuple[int, int] | None) -> Job:
        settings = (BATCH, EPOCHS, SAVE_EVERY)
        return run("transformers_script.py", data, tmp_path / "run", *settings, ranks=2, stop_at=stop_at)

    assert killed_twice(train, SEED) == uninterrupted()
