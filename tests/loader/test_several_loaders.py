"""Loaders over one adapter, interleaved in any order, each give exactly what they give alone."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, Subset

from streaming.adapter import StreamingDatasetAdapter
from streaming.loader.data_loader import StreamingDataLoader
from streaming.telemetry.stalls import monitor_stalls
from streaming.testing import MemorySource

COUNT = 40
SEED = os.environ["STREAMING_CUTS_SEED"]


def noisy(sample: dict[str, Any], generator: torch.Generator) -> tuple[int, int]:
    return sample["idx"], int(torch.randint(2**40, (), generator=generator))


def adapter_of() -> StreamingDatasetAdapter:
    objects = {f"{number:02d}.bin": bytes([number]) * 1000 for number in range(COUNT)}
    return StreamingDatasetAdapter(MemorySource("data", objects), cache_size_gb=20_000 / 1e9, transform=noisy)


def streaming(adapter: StreamingDatasetAdapter, workers: int, **options: Any) -> StreamingDataLoader:
    return StreamingDataLoader(adapter, 3, rank=0, world_size=1, num_workers=workers, collate_fn=list, **options)


def with_look_ahead(adapter: StreamingDatasetAdapter, workers: int) -> Any:
    generator = torch.Generator().manual_seed(4)
    sampler = adapter.look_ahead(RandomSampler(adapter, generator=generator))
    return monitor_stalls(DataLoader(adapter, 5, sampler=sampler, num_workers=workers, collate_fn=list))


KINDS: dict[str, Callable[[StreamingDatasetAdapter, int], Any]] = {
    "shuffled": lambda adapter, workers: streaming(adapter, workers, shuffle=True, seed=1),
    "another seed": lambda adapter, workers: streaming(adapter, workers, shuffle=True, seed=2),
    "in order": lambda adapter, workers: streaming(adapter, workers),
    "a subset": lambda adapter, workers: streaming(Subset(adapter, range(10, 20)), workers, shuffle=True),  # type: ignore[arg-type]
    "look_ahead": with_look_ahead,
}


def run_of(loader: Any) -> Iterator[Any]:
    """An epoch, one that is left, one from `set_epoch`: each batch, with the state and the counts after it."""

    def noted(batch: Any) -> Any:
        state = loader.state_dict() if isinstance(loader, StreamingDataLoader) else None
        return batch, state, loader.stalls.steps, loader.stalls.samples

    for batch in loader:
        yield noted(batch)
    for number, batch in enumerate(loader):
        yield noted(batch)
        if number == 2:
            break
    if isinstance(loader, StreamingDataLoader):
        loader.set_epoch(6)
    for batch in loader:
        yield noted(batch)


@pytest.mark.parametrize("workers", [0, 2])
def test_interleaved_loaders_give_what_they_give_alone(workers: int) -> None:
    """Samples, order, draws, states and counts do not depend on the turns in which they are read."""
    alone = {}
    for name, make in KINDS.items():
        with adapter_of() as adapter:
            alone[name] = list(run_of(make(adapter, workers)))
    chance = random.Random(SEED)
    with adapter_of() as adapter:
        runs = {name: run_of(make(adapter, workers)) for name, make in KINDS.items()}
        together: dict[str, list[Any]] = {name: [] for name in runs}
        while runs:
            name = chance.choice(list(runs))
            step = next(runs[name], None)
            if step is None:
                del runs[name]
            else:
                together[name].append(step)
    assert together == alone


def test_waits_go_to_the_loader_that_waited() -> None:
    """The account of an unread loader stays empty, and a wait is in only one account."""
    with adapter_of() as adapter:
        first, second = streaming(adapter, 0), streaming(adapter, 0)
        batches = iter(first)
        next(batches)
        assert sum(first.stalls.wait_seconds.values()) > 0
        assert sum(second.stalls.wait_seconds.values()) == 0
        before = dict(first.stalls.wait_seconds)
        list(second)
        assert dict(first.stalls.wait_seconds) == before
