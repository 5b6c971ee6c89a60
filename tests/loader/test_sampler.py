"""One rank's part of the order: together the ranks make the whole, equally long, from any place on."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader

from streaming.errors import ConfigError, StateError
from streaming.loader.sampler import StreamingSampler
from streaming.order.permutation import Sequential, Shuffled
from streaming.prefetch.announce_window import HORIZON


class Listener:
    """A data set that records what is announced to it."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.heard: list[int] = []
        self.forgotten = 0

    def __len__(self) -> int:
        return self.n

    def announce(self, indices: list[int], order: object) -> None:
        self.heard.extend(indices)

    def forget(self, order: object) -> None:
        self.forgotten += 1


def ranks(n: int, world: int, **options: Any) -> list[StreamingSampler]:
    return [StreamingSampler(n, rank=rank, world_size=world, **options) for rank in range(world)]


@given(st.integers(1, 300), st.integers(1, 8), st.booleans(), st.booleans(), st.integers(0, 400))
def test_ranks_make_the_order_together(n: int, world: int, drop_last: bool, shuffle: bool, begin: int) -> None:
    """Interleaved they yield the order from a position on; all have the same length, by dropping or by repeating."""
    if n < world:
        return
    position = min(begin, n)
    parts = []
    for sampler in ranks(n, world, drop_last=drop_last, shuffle=shuffle, seed=3):
        sampler.load_state_dict({**sampler.state_dict(), "epoch": 2, "position": position})
        parts.append(list(sampler))
    assert len({len(part) for part in parts}) == 1
    found = [part[number] for number in range(len(parts[0])) for part in parts]
    order = Shuffled(n, 3) if shuffle else Sequential(n)
    whole = order.samples(2, 0, n).tolist()
    rest = whole[position:]
    expected = rest[: len(rest) // world * world] if drop_last else rest + whole[: -len(rest) % world]
    assert found == expected


def test_long_orders_cross_chunks() -> None:
    """What is computed at once does not show."""
    found = [list(sampler) for sampler in ranks(5000, 3, seed=1)]
    assert [found[number % 3][number // 3] for number in range(5000)] == Shuffled(5000, 1).samples(0, 0, 5000).tolist()


def test_what_comes_is_announced_over_the_end_of_the_epoch() -> None:
    """Before the first sample is drawn this epoch and the next are announced; the next one forgets nothing."""
    data = Listener(100)
    sampler = StreamingSampler(data, rank=0, world_size=1)
    iterator = iter(sampler)
    first = [next(iterator)]
    order = Shuffled(100)
    assert data.heard == [*order.samples(0, 0, 100), *order.samples(1, 0, 100)]
    assert [*first, *iterator] == data.heard[:100]
    before = data.forgotten
    assert list(sampler) == data.heard[100:200]
    assert data.forgotten == before
    assert len(data.heard) == 300


def test_the_horizon_bounds_what_is_announced() -> None:
    """A few thousand of a billion samples are announced, at least half the horizon ahead of what is drawn."""
    data = Listener(10**9)
    drawn = list(islice(StreamingSampler(data, rank=3, world_size=8), 3000))
    assert data.heard[:3000] == drawn
    assert HORIZON // 2 <= len(data.heard) - 3000 <= HORIZON


def test_leaving_in_the_middle_forgets_what_was_announced() -> None:
    """The next epoch follows, unless another is set; the state is the position that was left."""
    data = Listener(50)
    sampler = StreamingSampler(data, rank=0, world_size=1)
    for epoch, taken in enumerate((1, 49)):
        iterator = iter(sampler)
        assert list(islice(iterator, taken)) == Shuffled(50).samples(epoch, 0, taken).tolist()
        before = data.forgotten
        iterator.close()  # type: ignore[attr-defined]
        assert data.forgotten == before + 1
        assert (sampler.state_dict()["epoch"], sampler.state_dict()["position"]) == (epoch, taken)
    sampler.set_epoch(0)
    assert list(sampler) == Shuffled(50).samples(0, 0, 50).tolist()


def test_set_epoch_and_state() -> None:
    """An epoch is drawn again by its number; a state resumes after what was drawn, for other ranks too."""
    sampler = StreamingSampler(60, seed=5, rank=0, world_size=1)
    sampler.set_epoch(4)
    whole = list(sampler)
    assert sampler.state_dict()["epoch"] == 5
    sampler.set_epoch(4)
    iterator = iter(sampler)
    assert list(islice(iterator, 20)) == whole[:20]
    state = sampler.state_dict()
    assert (state["epoch"], state["position"]) == (4, 20)
    parts = ranks(60, 2, seed=5)
    for part in parts:
        part.load_state_dict(state)
        part.set_epoch(4)
    left, right = parts
    assert [sample for pair in zip(left, right, strict=True) for sample in pair] == whole[20:]
    again = ranks(60, 2, seed=5)
    assert [next(part) for part in map(iter, again)] == [left.order.samples(0, at, at + 1)[0] for at in range(2)]
    assert [part.state_dict()["position"] for part in again] == [2, 2]
    with pytest.raises(StateError, match="seed was 5 and is 6"):
        StreamingSampler(60, seed=6, rank=0, world_size=1).load_state_dict(state)


def test_length_is_that_of_a_whole_epoch() -> None:
    """Also after a state was loaded; with and without the last units."""
    assert [len(sampler) for sampler in ranks(10, 3)] == [4, 4, 4]
    dropping = ranks(10, 3, drop_last=True)[0]
    assert len(dropping) == 3
    dropping.load_state_dict({**dropping.state_dict(), "position": 6})
    assert len(dropping) == 3
    assert len(list(dropping)) == 1


def test_in_torch_loaders() -> None:
    """As `sampler` and below torch's BatchSampler; in one epoch after the other the orders differ."""
    data = torch.arange(20)
    sampler = StreamingSampler(data, seed=2, rank=0, world_size=1)
    loader: DataLoader[Any] = DataLoader(data, batch_size=6, sampler=sampler)  # type: ignore[arg-type]
    first, second = torch.cat(list(loader)).tolist(), torch.cat(list(loader)).tolist()
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    batches = BatchSampler(StreamingSampler(data, seed=2, rank=0, world_size=1), 6, False)
    assert [sample for batch in batches for sample in batch] == first


def test_what_cannot_be_used() -> None:
    """Fewer samples than ranks, no samples, and an order of another data set."""
    with pytest.raises(ConfigError, match="too few for 2 ranks"):
        StreamingSampler(1, rank=0, world_size=2)
    with pytest.raises(ConfigError, match="the data set is empty"):
        StreamingSampler(0, rank=0, world_size=1)
    with pytest.raises(ConfigError, match="order has 5 samples and the data set 6"):
        StreamingSampler(6, order=Sequential(5), rank=0, world_size=1)
