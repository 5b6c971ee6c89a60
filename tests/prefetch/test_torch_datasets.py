"""Torch's own wrappers around adapters: read ahead, compared and resumed as the adapters themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, StackDataset, Subset

from streaming.adapter import StreamingDatasetAdapter
from streaming.errors import StateError
from streaming.loader.data_loader import StreamingDataLoader
from streaming.prefetch import torch_datasets
from streaming.testing import MemorySource


class Listener(Dataset[Any]):
    """A data set that records what is announced to it."""

    draws = False

    def __init__(self, fingerprint: str | None = "f") -> None:
        self.fingerprint = fingerprint
        self.heard: list[int] = []
        self.forgotten: list[object] = []

    def __len__(self) -> int:
        return 10

    def announce(self, indices: list[int], order: object) -> None:
        self.heard.extend(indices)

    def forget(self, order: object) -> None:
        self.forgotten.append(order)


class Reversed(Subset[Any]):
    """A wrapper that overrides how samples are read."""

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(len(self) - 1 - index)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


def test_announcements_reach_the_data_sets_inside() -> None:
    """Each receives its own indices in read order, and one call to forget them."""
    a, b = Listener(), Listener()
    nested: ConcatDataset[Any] = ConcatDataset(
        [Subset(a, [9, 8, 7]), StackDataset(b, Subset(a, range(10))), Subset(b, [4])]
    )
    order = object()
    torch_datasets.announce(nested, [0, 3, 2, 13, 12], order)
    assert a.heard == [9, 0, 7, 9]
    assert b.heard == [0, 4, 9]
    torch_datasets.forget(nested, order)
    assert a.forgotten == b.forgotten == [order]


def test_a_wrapper_that_overrides_reading_is_a_data_set_of_its_own() -> None:
    """Its reads are unknown, and so is whether they depend on the epoch."""
    a = Listener()
    torch_datasets.announce(Reversed(a, [1, 2]), [0], object())
    assert a.heard == []
    assert torch_datasets.fingerprint_of(Reversed(a, [1, 2])) is None
    assert torch_datasets.draws(Reversed(a, [1, 2]))
    assert not torch_datasets.draws(Subset(a, [1, 2]))
    assert not torch_datasets.draws(torch.arange(3))


def test_fingerprints_change_with_the_samples_and_the_wrappers() -> None:
    """Equal nests have equal fingerprints; plain data sets have none."""
    a, b = Listener("a"), Listener("b")
    nests: list[Callable[[], Any]] = [
        lambda: a,
        lambda: Subset(a, [1, 2]),
        lambda: Subset(a, [2, 1]),
        lambda: Subset(b, [1, 2]),
        lambda: ConcatDataset([a, b]),
        lambda: ConcatDataset([b, a]),
        lambda: StackDataset(a, b),
        lambda: StackDataset(x=a, y=b),
        lambda: StackDataset(x=a, z=b),
        lambda: ConcatDataset([a, [1, 2]]),  # type: ignore[list-item]
        lambda: ConcatDataset([a, [1, 2, 3]]),  # type: ignore[list-item]
    ]
    found = [torch_datasets.fingerprint_of(nest()) for nest in nests]
    assert len(set(found)) == len(nests)
    assert found == [torch_datasets.fingerprint_of(nest()) for nest in nests]
    assert torch_datasets.fingerprint_of(Subset([1, 2], [0])) is None  # type: ignore[arg-type]


def source_of(count: int = 60) -> MemorySource:
    return MemorySource("data", {f"{number:02d}.bin": bytes([number]) * 10 for number in range(count)})


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "Subset": lambda adapter: Subset(adapter, range(1, 41)),
    "ConcatDataset": lambda adapter: ConcatDataset([Subset(adapter, range(20)), Subset(adapter, range(40, 60))]),
    "StackDataset": lambda adapter: Subset(StackDataset(a=adapter, b=adapter), range(40)),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_streaming_loader_reads_ahead_through_torchs_wrappers(wrap: Callable[[Any], Any], workers: int) -> None:
    """Exactly the samples that are read are read ahead, each object once."""
    source = source_of()
    with StreamingDatasetAdapter(source) as adapter:
        loader = StreamingDataLoader(
            wrap(adapter), 4, shuffle=True, rank=0, world_size=1, num_workers=workers, collate_fn=list
        )
        for _ in range(2):
            assert sum(map(len, loader)) == 40
        stats = adapter.get_cache_stats()
    assert set(source.reads.values()) == {1}
    assert len(source.reads) == 40
    assert stats["prefetch_hits"] > 0


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_state_is_refused_where_objects_inside_a_wrapper_changed(wrap: Callable[[Any], Any]) -> None:
    """As for an adapter without a wrapper; a replica of the data counts as the same."""

    def loader(adapter: StreamingDatasetAdapter) -> StreamingDataLoader:
        return StreamingDataLoader(wrap(adapter), 4, shuffle=True, rank=0, world_size=1)

    changed = source_of()
    changed.put("07.bin", b"another size")
    with (
        StreamingDatasetAdapter(source_of()) as adapter,
        StreamingDatasetAdapter(source_of()) as copy,
        StreamingDatasetAdapter(changed) as other,
    ):
        state = loader(adapter).state_dict()
        assert state["fingerprint"]
        loader(copy).load_state_dict(state)
        with pytest.raises(StateError, match="objects changed since"):
            loader(other).load_state_dict(state)


def test_the_seed_of_the_data_set_inside_is_that_of_the_order() -> None:
    """A wrapper passes the seed on."""
    with StreamingDatasetAdapter(source_of(), seed=9) as adapter:
        whole = Subset(adapter, range(60))
        orders = [
            [batch["idx"].tolist() for batch in StreamingDataLoader(data, 4, shuffle=True, rank=0, world_size=1)]
            for data in (adapter, whole)
        ]
    assert orders[0] == orders[1]
