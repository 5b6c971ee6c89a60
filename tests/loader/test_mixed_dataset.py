"""Several data sets as one: numbers, batches, reading ahead, and workers."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from streaming.adapter import StreamingDatasetAdapter
from streaming.errors import ConfigError
from streaming.loader.mixed_dataset import MixedDataset

Stores = dict[str, StreamingDatasetAdapter]


class Plain(Dataset[Any]):
    """A map-style data set of the numbers from `first` on, without batched reads."""

    def __init__(self, first: int, many: int) -> None:
        self.first = first
        self.many = many

    def __len__(self) -> int:
        return self.many

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.many:
            raise IndexError(index)
        return self.first + index


class Listening(Plain):
    """Records its reads and announcements."""

    def __init__(self, first: int, many: int) -> None:
        super().__init__(first, many)
        self.heard: list[Any] = []

    def __getitems__(self, indices: list[int]) -> list[int]:
        self.heard.append(("read", list(indices)))
        return [self[index] for index in indices]

    def announce(self, indices: list[int], order: object) -> None:
        self.heard.append(("announce", list(indices), order))

    def forget(self, order: object) -> None:
        self.heard.append(("forget", order))

    def close(self) -> None:
        self.heard.append(("close",))


def write(folder: Path, first: int, many: int) -> str:
    """Files `x/0000.npy` and so on, each with one number."""
    (folder / "x").mkdir(parents=True)
    for at in range(many):
        np.save(folder / "x" / f"{at:04}.npy", np.array([first + at]))
    return str(folder)


@pytest.fixture
def stores(tmp_path: Path) -> Any:
    """Two adapters over local files: web with 20 numbers from 0, code with 12 from 100."""
    made = {
        "web": StreamingDatasetAdapter(write(tmp_path / "web", 0, 20), ["x"], 0.01),
        "code": StreamingDatasetAdapter(write(tmp_path / "code", 100, 12), ["x"], 0.01),
    }
    yield made
    for adapter in made.values():
        adapter.close()


def numbers(samples: list[Any]) -> list[int]:
    return [int(sample["x"][0]) for sample in samples]


def values(batch: dict[str, Any]) -> torch.Tensor:
    """The numbers of a batch; a function of a module, so that spawned workers find it."""
    return batch["x"].flatten()


def test_samples_are_numbered_over_the_data_sets() -> None:
    """Indices count through the first, then the second; negative ones count from the end; others are refused."""
    mixed = MixedDataset({"a": Plain(0, 3), "b": Plain(10, 2)})
    assert [mixed[at] for at in range(len(mixed))] == [0, 1, 2, 10, 11]
    assert mixed[-1] == 11
    assert mixed.__getitems__([4, 0, 3, -3]) == [11, 0, 10, 2]
    for index in (5, -6):
        with pytest.raises(IndexError, match="5 samples"):
            mixed[index]


def test_each_data_set_is_read_once_for_a_batch() -> None:
    """With its part of the batch in order; the answers are put back in their places."""
    first, second = Listening(0, 5), Listening(10, 5)
    mixed = MixedDataset({"a": first, "b": second, "c": Plain(20, 2)})
    assert mixed.__getitems__([7, 1, 11, 5, 0, 10]) == [12, 1, 21, 10, 0, 20]
    assert first.heard == [("read", [1, 0])]
    assert second.heard == [("read", [2, 0])]


def test_what_is_said_is_passed_on() -> None:
    """Announcements in parts, in order, under the same object; the rest to all; plain data sets need not listen."""
    first, second, order = Listening(0, 5), Listening(10, 5), object()
    with MixedDataset({"a": first, "b": second, "c": Plain(20, 2)}) as mixed:
        mixed.announce(iter([9, 3, 10, 5, 4]), order)
        mixed.forget(order)
    assert first.heard == [("announce", [3, 4], order), ("forget", order), ("close",)]
    assert second.heard == [("announce", [4, 0], order), ("forget", order), ("close",)]
    assert mixed.get_cache_stats() == {}


def test_all_data_sets_are_closed_where_one_fails() -> None:
    """The failure is raised after the others were closed."""

    class Failing(Listening):
        def close(self) -> None:
            raise OSError("cannot close")

    last = Listening(10, 5)
    with pytest.raises(OSError, match="cannot close"):
        MixedDataset({"a": Failing(0, 5), "b": last}).close()
    assert last.heard == [("close",)]


def test_adapters_are_read_ahead_of(stores: Stores) -> None:
    """Each adapter fetches its announced part before it is read; statistics are per stream."""
    mixed = MixedDataset(stores, {"web": 0.5, "code": 0.5}, seed=3)
    order = mixed.order.samples(0, 0, 24).tolist()
    mixed.announce(order, mixed)
    expected = [at if at < 20 else 80 + at for at in order]
    assert numbers(mixed.__getitems__(order)) == expected
    stats = mixed.get_cache_stats()
    assert set(stats) == {"web", "code"}
    assert sum(each["num_items"] for each in stats.values()) == len(set(order))
    mixed.forget(mixed)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_read_through_the_adapters(stores: Stores, start_method: str) -> None:
    """DataLoader workers get every sample of the epoch, in the order of the mixture."""
    mixed = MixedDataset(stores)
    order = mixed.order.samples(0, 0, mixed.order.epoch_size).tolist()
    loader = DataLoader(
        mixed,
        batch_size=8,
        sampler=order,
        num_workers=2,
        multiprocessing_context=start_method,
        persistent_workers=False,
    )
    found = torch.cat([values(batch) for batch in loader]).tolist()
    assert found == [at if at < 20 else 80 + at for at in order]


def test_a_pickled_one_has_the_same_order_and_fingerprint(stores: Stores) -> None:
    """It opens its sources again."""
    mixed = MixedDataset(stores, temperature=2, seed=9)
    with pickle.loads(pickle.dumps(mixed)) as copy:
        assert copy.fingerprint == mixed.fingerprint
        assert copy.order.samples(1, 0, 30).tolist() == mixed.order.samples(1, 0, 30).tolist()
        assert numbers([copy[0], copy[20]]) == [0, 100]


def test_the_fingerprint_changes_with_the_data(stores: Stores, tmp_path: Path) -> None:
    """Another data set under a name, another name, or another length of a plain one."""
    with StreamingDatasetAdapter(write(tmp_path / "other", 500, 12), ["x"], 0.01) as other:
        named = {**stores}
        found = [
            MixedDataset(named).fingerprint,
            MixedDataset({**named, "code": other}).fingerprint,
            MixedDataset({"web": stores["web"], "books": stores["code"]}).fingerprint,
            MixedDataset({"web": Plain(0, 3)}).fingerprint,
            MixedDataset({"web": Plain(0, 4)}).fingerprint,
        ]
    assert len(set(found)) == len(found)
    assert MixedDataset(named, temperature=3).fingerprint == found[0]


def test_settings_are_those_of_a_mixture() -> None:
    """Every choice reaches the order, and a bad one is refused."""
    parts = {"a": Plain(0, 10), "b": Plain(10, 10)}
    assert MixedDataset(parts, repeats={"b": 2}).order.epoch_size == 30
    assert MixedDataset(parts, epoch_size=7, seed=4).order.settings()["seed"] == 4
    changed = MixedDataset(parts, shuffle=False, weight_schedule={20: {"a": 0, "b": 1}}).order
    assert changed.counts(2, 0) == {"a": 10, "b": 30}
    with pytest.raises(ConfigError, match="'b' is nan"):
        MixedDataset(parts, {"a": 1, "b": float("nan")})
    with pytest.raises(ConfigError, match="'empty' has no samples"):
        MixedDataset({**parts, "empty": Plain(0, 0)})
