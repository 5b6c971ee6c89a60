"""Batches on a device: the same values in the same order, errors where their batch would have come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch

from streaming.errors import ConfigError
from streaming.loader.data_loader import StreamingDataLoader
from streaming.loader.device import to_device

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


class Pair(NamedTuple):
    left: torch.Tensor
    right: list[Any]


class Encoding:
    """Has `to`, as the batches of tokenizers do."""

    def __init__(self, ids: torch.Tensor) -> None:
        self.ids = ids

    def to(self, device: torch.device, non_blocking: bool = False) -> Encoding:
        return Encoding(self.ids.to(device, non_blocking=non_blocking))


def batches(count: int, fails_at: int | None = None) -> Iterator[Any]:
    for number in range(count):
        if number == fails_at:
            raise OSError(f"batch {number}")
        yield {"x": torch.full((3,), number), "name": f"n{number}", "pair": Pair(torch.ones(1), [number])}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ahead", [0, 1, 3, 10])
def test_same_batches_in_the_same_order(device: str, ahead: int) -> None:
    """Values, nesting and other leaves are kept; tensors are on the device."""
    found = list(to_device(batches(5), torch.device(device), ahead))
    assert [batch["x"].tolist() for batch in found] == [[number] * 3 for number in range(5)]
    assert [batch["name"] for batch in found] == [f"n{number}" for number in range(5)]
    assert all(isinstance(batch["pair"], Pair) and batch["pair"].left.device.type == device for batch in found)


@pytest.mark.parametrize("device", DEVICES)
def test_an_error_comes_where_its_batch_would_have_come(device: str) -> None:
    """The batches before it are given out first."""
    found = to_device(batches(5, fails_at=2), torch.device(device), 4)
    assert [next(found)["name"], next(found)["name"]] == ["n0", "n1"]
    with pytest.raises(OSError, match="batch 2"):
        next(found)


def test_objects_with_their_own_way_to_a_device() -> None:
    """What has `to` is moved by it."""
    (found,) = to_device(iter([Encoding(torch.arange(3))]), torch.device("cpu"))
    assert found.ids.tolist() == [0, 1, 2]


def test_settings_that_cannot_be_used() -> None:
    """A negative number of batches, and a missing device, are refused by name."""
    with pytest.raises(ConfigError, match="prefetch_to_device=-1"):
        to_device(batches(1), torch.device("cpu"), -1)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            to_device(batches(1), torch.device("cuda"))


@pytest.mark.parametrize("device", DEVICES)
def test_state_counts_what_was_given_to_the_trainer(device: str) -> None:
    """Batches copied ahead are not counted: a state saved after the second batch resumes with the third."""
    data: Any = [torch.tensor(number) for number in range(40)]
    loader = StreamingDataLoader(data, 4, shuffle=True, device=device, prefetch_to_device=3, rank=0, world_size=1)
    whole = [batch.tolist() for batch in StreamingDataLoader(data, 4, shuffle=True, rank=0, world_size=1)]
    iterator = iter(loader)
    assert [next(iterator).tolist(), next(iterator).tolist()] == whole[:2]
    resumed = StreamingDataLoader(data, 4, shuffle=True, device=device, rank=0, world_size=1)
    resumed.load_state_dict(loader.state_dict())
    assert [batch.tolist() for batch in resumed] == whole[2:]
