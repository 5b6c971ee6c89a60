"""A LightningModule on two processes: killed and resumed from `ModelCheckpoint`'s files, and spawned or forked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainers.jobs import (
    BATCH,
    EPOCHS,
    SAVE_EVERY,
    Job,
    finished,
    killed,
    killed_twice,
    run,
    together,
    uninterrupted,
    write_samples,
)

SEED = 11


def test_killed_twice_the_steps_are_those_of_the_run_that_was_not(tmp_path: Path) -> None:
    """Each rank receives the same batches, whether Lightning starts the second process or torchrun both."""
    data = write_samples(tmp_path / "data")
    starts = iter([None, 2, 2])

    def train(stop_at: tuple[int, int] | None) -> Job:
        settings = (BATCH, EPOCHS, SAVE_EVERY)
        return run("lightning_script.py", data, tmp_path / "run", *settings, ranks=next(starts), stop_at=stop_at)

    assert killed_twice(train, SEED) == uninterrupted()


def test_limited_epochs_continue_with_the_next_epoch(tmp_path: Path) -> None:
    """`limit_train_batches` takes the beginning of each epoch, also after a kill, from its last checkpoint."""
    data = write_samples(tmp_path / "data")
    steps = SAVE_EVERY  # batches of an epoch: the checkpoints are written at its end

    def train(stop_at: tuple[int, int] | None) -> Job:
        settings = (BATCH, EPOCHS, SAVE_EVERY, steps)
        return run("lightning_script.py", data, tmp_path / "run", *settings, ranks=2, stop_at=stop_at)

    first, rest = killed(train((steps + 2, 0))), finished(train(None))
    assert rest.first == steps
    found = together(first, rest)
    for rank, whole in uninterrupted().items():
        expected = [(step.epoch, step.samples) for step in whole if step.number % 10 < steps]
        assert [(step.epoch, step.samples) for step in found[rank]] == expected


@pytest.mark.parametrize(("strategy", "workers"), [("ddp_spawn", 0), ("ddp_fork", 2), ("ddp_notebook", 0)])
def test_ranks_that_share_an_adapter_read_each_sample_once(tmp_path: Path, strategy: str, workers: int) -> None:
    """Ranks that share an adapter from before Lightning started them read each sample once per epoch."""
    data = write_samples(tmp_path / "data")
    job = run("lightning_spawn_script.py", data, strategy, BATCH, EPOCHS, workers)
    assert finished(job).steps == uninterrupted()  # the script checks that each sample came once
