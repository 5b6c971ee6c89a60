"""Random transforms: what a sample becomes depends on seed, epoch and sample, through every loader and wrapper."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    StackDataset,
    Subset,
    random_split,
)

from streaming.adapter import StreamingDatasetAdapter
from streaming.core.epoch_index import EpochIndex, epoch_of, reading_in
from streaming.loader.data_loader import StreamingDataLoader
from streaming.loader.mixed_dataset import MixedDataset
from streaming.loader.sampler import StreamingSampler
from streaming.testing import MemorySource

COUNT = 12
EPOCHS = 3


def draw(sample: dict[str, Any], generator: torch.Generator) -> tuple[int, int]:
    return sample["idx"], int(torch.randint(2**40, (), generator=generator))


def adapter_of(**options: Any) -> StreamingDatasetAdapter:
    source = MemorySource("data", {f"{number:02d}.bin": bytes([number]) for number in range(COUNT)})
    return StreamingDatasetAdapter(source, transform=draw, **options)


class Own(Dataset[Any]):
    """A user's data set around an adapter, which knows nothing of epochs."""

    def __init__(self, adapter: StreamingDatasetAdapter) -> None:
        self.adapter = adapter

    def __len__(self) -> int:
        return len(self.adapter)

    def __getitem__(self, index: int) -> Any:
        return self.adapter[COUNT - 1 - int(index)]


def split(adapter: StreamingDatasetAdapter) -> Any:
    return random_split(adapter, [8, 4], torch.Generator().manual_seed(1))[0]


WRAPPERS: dict[str, Callable[[StreamingDatasetAdapter], Any]] = {
    "none": lambda adapter: adapter,
    "Subset": lambda adapter: Subset(adapter, [7, 2, 5, 11]),
    "random_split": split,
    "ConcatDataset": lambda adapter: ConcatDataset([Subset(adapter, [1, 2]), Subset(adapter, range(5, 9))]),
    "StackDataset": lambda adapter: StackDataset(first=adapter, second=torch.arange(COUNT)),  # type: ignore[arg-type]
    "a user's own": Own,
}


def pairs(batches: Iterable[Any]) -> dict[int, int]:
    """Return the draw of each sample in a pass."""
    found: dict[int, int] = {}
    for batch in batches:
        for item in batch:
            index, value = item["first"] if isinstance(item, dict) else item
            assert index not in found
            found[index] = value
    return found


def generated(seed: int, epoch: int) -> dict[int, int]:
    """Return the draw of each sample in an epoch, by definition."""
    with adapter_of(seed=seed) as adapter:
        return dict(adapter[EpochIndex(index, epoch)] for index in range(COUNT))


@pytest.mark.parametrize("workers", [(0, False), (2, False), (2, True)], ids=["none", "new", "persistent"])
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_torchs_loader_draws_again_in_each_pass(wrap: Callable[..., Any], workers: tuple[int, bool]) -> None:
    """The two changed lines: the n-th read of a sample has the n-th draw, however many workers read."""
    count, persistent = workers
    with adapter_of(seed=5) as adapter:
        loader = DataLoader(
            wrap(adapter), 4, shuffle=True, num_workers=count, persistent_workers=persistent, collate_fn=list
        )
        passes = [pairs(loader) for _ in range(EPOCHS)]
    for epoch, found in enumerate(passes):
        expected = generated(5, epoch)
        assert found == {index: expected[index] for index in found}
    assert len(passes[0]) >= 4


@pytest.mark.parametrize("workers", [(0, False), (2, False), (2, True)], ids=["none", "new", "persistent"])
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_streaming_loaders_draw_by_the_epoch(wrap: Callable[..., Any], workers: tuple[int, bool]) -> None:
    """Also after reads by others, and where the run begins in the middle: the draw is that of (seed, epoch, sample)."""
    count, persistent = workers
    with adapter_of(seed=5) as adapter:
        adapter[0], adapter[1]
        options: dict[str, Any] = {"num_workers": count, "persistent_workers": persistent, "collate_fn": list}
        data = wrap(adapter)
        loader = StreamingDataLoader(data, 2, shuffle=True, rank=0, world_size=1, **options)
        loader.set_epoch(4)
        for epoch in (4, 5):
            expected = generated(5, epoch)
            found = pairs(loader)
            assert found == {index: expected[index] for index in found}
        first = pairs(islice(loader, 1))
        resumed = StreamingDataLoader(data, 2, shuffle=True, rank=0, world_size=1, **options)
        resumed.load_state_dict(loader.state_dict())
        expected, found = generated(5, 6), pairs(resumed) | first
        assert found == {index: expected[index] for index in found}
        assert loader.dataset is data


@pytest.mark.parametrize("workers", [0, 2])
def test_samplers_that_know_the_epoch_tell_it(workers: int) -> None:
    """`look_ahead` and `StreamingSampler` in torch's loader: the epoch goes along with each index."""
    with adapter_of(seed=5) as data:
        samplers: list[Any] = [data.look_ahead(RandomSampler(data)), StreamingSampler(data, rank=0, world_size=1)]
        for sampler in samplers:
            loader = DataLoader(data, 4, sampler=sampler, num_workers=workers, collate_fn=list)
            sampler.set_epoch(7)
            for epoch in (7, 8):
                assert pairs(loader) == generated(5, epoch)
        batches = data.look_ahead(BatchSampler(RandomSampler(data), 5, drop_last=False))
        loader = DataLoader(data, batch_sampler=batches, num_workers=workers, collate_fn=list)
        assert [pairs(loader) for _ in range(2)] == [generated(5, epoch) for epoch in range(2)]


def test_a_mixture_draws_by_its_epoch() -> None:
    """Under a loader, in all its streams, some of them wrapped; alone by the number of reads."""
    with adapter_of(seed=1) as first, adapter_of(seed=2) as second:
        mixed = MixedDataset({"a": first, "b": Subset(second, range(COUNT))}, seed=3)
        loader = StreamingDataLoader(mixed, 4, rank=0, world_size=1, collate_fn=list)
        for epoch in range(2):
            drawn = sorted(value for batch in loader for _, value in batch)
            assert drawn == sorted([*generated(1, epoch).values(), *generated(2, epoch).values()])
        assert [mixed[3][1] for _ in range(2)] == [generated(1, n)[3] for n in range(2)]


def test_a_sample_that_is_read_twice_in_a_pass_is_drawn_twice() -> None:
    """By a sampler with replacement, also within one batch; the same in a repeated run."""

    def run() -> list[int]:
        with adapter_of() as adapter:
            return [
                value for batch in DataLoader(adapter, 4, sampler=[3, 3, 1, 3], collate_fn=list) for _, value in batch
            ]

    drawn = run()
    assert drawn == [generated(0, n)[index] for n, index in ((0, 3), (1, 3), (0, 1), (2, 3))]
    assert drawn == run()


def test_the_epoch_of_a_read() -> None:
    """The epoch is that of the index, else of the loader around it; such an index pickles and works like any other."""
    index = EpochIndex(3, 7)
    copy = pickle.loads(pickle.dumps(index))
    assert (copy, copy.epoch, [0, 1, 2, "x"][copy]) == (3, 7, "x")
    assert (epoch_of(index), epoch_of(3)) == (7, None)
    with reading_in(5):
        assert (epoch_of(index), epoch_of(3)) == (7, 5)
    assert epoch_of(3) is None
