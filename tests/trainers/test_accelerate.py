"""A trainer on Accelerate, killed and resumed by `save_state` and `load_state`, with either kind of loader."""

from __future__ import annotations

from pathlib import Path

from tests.trainers.jobs import (
    BATCH,
    EPOCHS,
    SAVE_EVERY,
    Job,
    finished,
    global_order,
    killed_twice,
    run,
    uninterrupted,
    write_samples,
)

SEED = 7


def train(kind: str, folder: Path, stop_at: tuple[int, int] | None, workers: int = 0) -> Job:
    """Run the trainer, from its last checkpoint where there is one.

    It checks at each step that gradients are accumulated to the end of the epoch and not beyond.
    """
    settings = (kind, folder / "data" / "x", folder / "run", BATCH, EPOCHS, SAVE_EVERY, workers)
    return run("accelerate_script.py", *settings, ranks=2, stop_at=stop_at)


def test_killed_twice_the_steps_are_those_of_the_run_that_was_not(tmp_path: Path) -> None:
    """A loader that was given to `prepare`: each rank receives the same batches, also with two workers ahead."""
    write_samples(tmp_path / "data")
    assert killed_twice(lambda stop_at: train("ours", tmp_path, stop_at, workers=2), SEED) == uninterrupted()


def test_a_stateful_loader_that_accelerate_divides(tmp_path: Path) -> None:
    """Over a StreamingSampler of one rank, the ranks take batches in turn and the run resumes where it was."""
    write_samples(tmp_path / "data")
    whole = finished(train("theirs", tmp_path, None))
    (tmp_path / "run").rename(tmp_path / "other")
    assert killed_twice(lambda stop_at: train("theirs", tmp_path, stop_at), SEED) == whole.steps
    order = [sample for step in range(30) for rank in range(2) for sample in whole.steps[rank][step].samples]
    assert order == [sample for _, sample in global_order(Job(uninterrupted(ranks=1)))]


def test_what_other_ranks_read_is_not_fetched(tmp_path: Path) -> None:
    """Accelerate divides the batches of a sampler that reads ahead: it stops after a few batches, and says so once."""
    data = write_samples(tmp_path / "data", 400)
    job = finished(run("divided_script.py", data, 4, ranks=2))
    read = [sample for steps in job.steps.values() for step in steps for sample in step.samples]
    assert sorted(read) == list(range(400))
    fetched = [int(line.removeprefix("fetched ")) for line in job.stderr.splitlines() if line.startswith("fetched ")]
    assert len(fetched) == 2
    assert all(200 <= count <= 270 for count in fetched)
    assert job.stderr.count("look_ahead_stopped") == 2
