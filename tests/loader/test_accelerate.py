"""A loader that Accelerate takes as it is: registered, saved, and asked for the end of the epoch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from streaming.loader.data_loader import StreamingDataLoader


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    """One on the processor, that accumulates gradients over four batches."""
    yield Accelerator(cpu=True, gradient_accumulation_steps=4)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()


def loader_of(
    count: int, batch_size: int = 2, rank: int = 0, world_size: int = 1, **options: object
) -> StreamingDataLoader:
    return StreamingDataLoader(torch.arange(count), batch_size, rank=rank, world_size=world_size, **options)  # type: ignore[arg-type]


def test_prepare_leaves_the_loader_and_saves_its_state(accelerator: Accelerator, tmp_path: Path) -> None:
    """`prepare` returns the same object, and `load_state` resumes it after the batch that was saved last."""
    loader = accelerator.prepare(loader_of(12, shuffle=True))
    assert type(loader) is StreamingDataLoader
    batches = iter(loader)
    next(batches)
    accelerator.save_state(str(tmp_path))
    rest = [batch.tolist() for batch in batches]
    accelerator.load_state(str(tmp_path))
    assert [batch.tolist() for batch in loader] == rest


def test_the_last_batch_of_an_epoch_ends_the_accumulation(accelerator: Accelerator) -> None:
    """The fourth and the last of six batches take a step, in each epoch; between epochs no loader is being read."""
    loader = accelerator.prepare(loader_of(12))
    for _ in range(2):
        ends = []
        for _ in loader:
            accelerator._do_sync()
            ends.append((accelerator.sync_gradients, accelerator.gradient_state.end_of_dataloader))
        assert ends == [(False, False)] * 3 + [(True, False), (False, False), (True, True)]
        assert not accelerator.gradient_state.in_dataloader


def test_an_iteration_that_was_left_is_not_being_read(accelerator: Accelerator) -> None:
    """After `break` Accelerate does not wait for the end of that loader."""
    for _ in loader_of(12):
        break
    assert not accelerator.gradient_state.in_dataloader


@pytest.mark.parametrize(
    ("count", "world_size", "batch_size"), [(12, 2, 2), (11, 2, 2), (13, 2, 3), (7, 3, 2), (8, 3, 3), (10, 3, 2)]
)
def test_the_gathered_last_batch_is_cut_where_samples_repeat(
    accelerator: Accelerator, count: int, world_size: int, batch_size: int
) -> None:
    """`remainder` leaves each sample of the last batch once, or says -1 where no cut could."""
    loaders = [loader_of(count, batch_size, rank, world_size) for rank in range(world_size)]
    *_, last = zip(*loaders, strict=True)
    gathered = torch.cat(last).tolist()
    wanted = set(range(count - (count - 1) % (world_size * batch_size) - 1, count))
    for loader in loaders:
        if loader.remainder == -1:
            assert world_size > 2
        else:
            assert sorted(gathered[: loader.remainder or None]) == sorted(wanted)
