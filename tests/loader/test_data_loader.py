"""`StreamingDataLoader`: torch's batches, in a known order, with a state that counts what the trainer received."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from streaming.adapter import StreamingDatasetAdapter
from streaming.errors import ConfigError, DecodeError, StateError
from streaming.loader.data_loader import StreamingDataLoader
from streaming.loader.mixed_dataset import MixedDataset
from streaming.loader.sampler import StreamingSampler
from streaming.order.batching import SequencePacking, TokenBudgetBatching
from streaming.order.permutation import Shuffled
from streaming.testing import MemorySource

COUNT = 50
METHODS = ["fork", "spawn", "forkserver"]


def source_of(count: int = COUNT) -> MemorySource:
    return MemorySource("data", {f"{number:04d}.bin": bytes([number % 256]) * 100 for number in range(count)})


def adapter_of(count: int = COUNT, **options: Any) -> StreamingDatasetAdapter:
    return StreamingDatasetAdapter(source_of(count), **options)


def loader_of(dataset: Any, batch_size: int | None = 4, **options: Any) -> StreamingDataLoader:
    return StreamingDataLoader(dataset, batch_size, **{"shuffle": True, "rank": 0, "world_size": 1, **options})


def numbers(batches: Any) -> list[list[int]]:
    return [batch["idx"].tolist() for batch in batches]


def test_batches_are_those_of_torchs_loader() -> None:
    """Over the same order both give equal batches, with the same length, whatever is dropped at the end."""
    with adapter_of() as adapter:
        order = Shuffled(COUNT, 9).samples(0, 0, COUNT).tolist()
        for drop_last in (False, True):
            ours = loader_of(adapter, 8, seed=9, drop_last=drop_last)
            theirs = DataLoader(adapter, 8, sampler=order, drop_last=drop_last)
            assert len(ours) == len(theirs)
            for left, right in zip(ours, theirs, strict=True):
                assert left.keys() == right.keys()
                assert torch.equal(left["idx"], right["idx"])
                assert left["data"] == right["data"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("is_persistent", [True, False])
def test_workers_give_the_same_order_and_share_the_fetches(method: str, is_persistent: bool) -> None:
    """Over two epochs, with workers of each kind: the order of none, and each object is read once."""
    source = source_of()
    with StreamingDatasetAdapter(source) as adapter, adapter_of() as alone:
        loader = loader_of(
            adapter, num_workers=2, multiprocessing_context=method, persistent_workers=is_persistent, prefetch_factor=4
        )
        expected = loader_of(alone)
        for _ in range(2):
            assert numbers(loader) == numbers(expected)
    assert set(source.reads.values()) == {1}


def test_each_epoch_has_an_order_of_its_own_and_set_epoch_gives_it_back() -> None:
    """Without `set_epoch` epochs follow each other; every sample comes once in each."""
    loader = loader_of(torch.arange(COUNT))
    epochs = [torch.cat(list(loader)).tolist() for _ in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    loader.set_epoch(1)
    assert torch.cat(list(loader)).tolist() == epochs[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_state_counts_what_the_trainer_received(workers: int) -> None:
    """However far workers are ahead: after the third batch the state goes on with the fourth, through JSON."""
    data = torch.arange(COUNT)
    whole = [batch.tolist() for batch in loader_of(data)]
    options: dict[str, Any] = {"num_workers": workers, "prefetch_factor": 4} if workers else {}
    loader = loader_of(data, **options)
    assert [batch.tolist() for batch in islice(loader, 3)] == whole[:3]
    text = json.dumps(loader.state_dict())
    assert len(text) < 1000
    resumed = loader_of(data, **options)
    resumed.load_state_dict(text)
    assert resumed.state_dict() == loader.state_dict()
    resumed.set_epoch(0)
    assert [batch.tolist() for batch in resumed] == whole[3:]


def test_after_the_last_batch_the_state_is_the_next_epoch() -> None:
    """Also if the trainer never asks for one more; loading it begins that epoch."""
    data = torch.arange(10)
    loader = loader_of(data)
    iterator = iter(loader)
    for _ in range(len(loader)):
        next(iterator)
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (1, 0)
    resumed = loader_of(data)
    resumed.load_state_dict(state)
    second = [batch.tolist() for batch in resumed]
    assert second == [batch.tolist() for batch in loader]
    assert sum(map(len, second)) == 10


def test_a_state_goes_on_with_other_ranks_batches_and_workers() -> None:
    """The global order continues where it was: 3 ranks of 4, then 2 of 5 with workers, then 1 of 7."""
    data = torch.arange(200)
    order = Shuffled(200).samples(0, 0, 200).tolist()
    seen: list[int] = []
    state = None
    for world, size, steps, options in ((3, 4, 5, {}), (2, 5, 4, {"num_workers": 1}), (1, 7, 6, {})):
        loaders = [loader_of(data, size, rank=rank, world_size=world, **options) for rank in range(world)]
        if state is not None:
            for loader in loaders:
                loader.load_state_dict(state)
        for batches in islice(zip(*loaders, strict=True), steps):
            seen.extend(torch.stack(batches, 1).flatten().tolist())
        state = loaders[0].state_dict()
        assert all(loader.state_dict() == state for loader in loaders)
    assert seen == order[: len(seen)]
    assert len(seen) == 60 + 40 + 42


def test_ranks_get_equally_many_batches_of_one_size() -> None:
    """At the end the first samples of the epoch fill up, or the last are dropped."""
    data = torch.arange(23)
    for drop_last, expected in ((False, 24), (True, 20)):
        parts = [list(loader_of(data, 5, rank=rank, world_size=2, drop_last=drop_last)) for rank in range(2)]
        assert [len(batch) for batch in parts[0]] == [len(batch) for batch in parts[1]]
        assert sum(len(batch) for part in parts for batch in part) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_each_pass_is_an_epoch_of_its_own_also_one_that_was_left(workers: int) -> None:
    """Three passes of two batches are the beginnings of three epochs; the state is where the last one was left."""
    data = torch.arange(COUNT)
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    whole = [[batch.tolist() for batch in loader] for loader in 3 * [loader_of(data)]]
    loader = loader_of(data, **options)
    passes: list[list[list[int]]] = []
    for _ in range(3):
        passes.append([])
        for batch in loader:
            passes[-1].append(batch.tolist())
            if len(passes[-1]) == 2:
                break
    assert passes == [epoch[:2] for epoch in whole]
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (2, 8)
    resumed = loader_of(data, **options)
    resumed.load_state_dict(state)
    assert [batch.tolist() for batch in resumed] == whole[2][2:]


def test_a_trainer_that_limits_its_passes_resumes_like_one_that_was_not_stopped() -> None:
    """It calls `set_epoch` before each pass: after the checkpoint at the end of a pass the next epoch begins."""
    data = torch.arange(COUNT)

    def train(loader: StreamingDataLoader, epochs: range) -> list[list[int]]:
        seen = []
        for epoch in epochs:
            loader.set_epoch(epoch)
            seen += [batch.tolist() for batch in islice(loader, 3)]
        return seen

    whole = train(loader_of(data), range(4))
    first = loader_of(data)
    head = train(first, range(2))
    resumed = loader_of(data)
    resumed.load_state_dict(first.state_dict())
    assert head + train(resumed, range(2, 4)) == whole


def test_ranks_that_cannot_be_compared_have_to_set_the_epoch() -> None:
    """One rank that peeked would be an epoch ahead of the others without a word."""
    loader = loader_of(torch.arange(COUNT), rank=0, world_size=2)
    next(iter(loader))
    with pytest.raises(ConfigError, match=r"rank 0 of 2 left its last pass at position 8 of epoch 0.*set_epoch"):
        next(iter(loader))
    loader.set_epoch(0)
    assert len(list(loader)) == len(loader)
    assert len(list(loader)) == len(loader)  # after a whole pass nothing is in doubt


def test_a_pass_begins_with_its_first_batch() -> None:
    """An iterator that nothing was asked of takes no epoch, which may still be set for it, as Lightning does."""
    data = torch.arange(COUNT)
    whole = [batch.tolist() for batch in loader_of(data)]
    loader = loader_of(data)
    iter(loader), iter(loader)
    assert [batch.tolist() for batch in loader] == whole
    batches = iter(loader)
    loader.set_epoch(0)
    assert [batch.tolist() for batch in batches] == whole


def test_the_loaders_sampler_has_its_epoch_and_state() -> None:
    """Frameworks call `set_epoch` on the sampler of a loader."""
    data = torch.arange(COUNT)
    loader, other = loader_of(data), loader_of(data)
    sampler = loader.sampler
    assert isinstance(sampler, StreamingSampler)
    for call in (sampler.set_epoch, other.set_epoch):
        call(3)
    assert loader.state_dict() == sampler.state_dict() == other.state_dict()
    assert torch.equal(torch.cat(list(loader)), torch.cat(list(other)))


def test_of_two_iterations_the_newer_one_counts() -> None:
    """An old one that goes on does not move the state."""
    loader = loader_of(torch.arange(COUNT))
    old, new = iter(loader), iter(loader)
    next(old)
    next(new)
    next(old)
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (1, 4)


def test_two_iterations_of_one_loader_do_not_mix_their_samples() -> None:
    """Interleaved over more samples than are computed at once, each gives its own epoch."""
    data = torch.arange(5000)
    whole = [torch.cat(list(loader)).tolist() for loader in 2 * [loader_of(data, 50)]]
    loader = loader_of(data, 50)
    pairs = list(zip(loader, loader, strict=True))
    assert [torch.cat(batches).tolist() for batches in zip(*pairs, strict=True)] == whole


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_that_failed_is_not_counted(workers: int) -> None:
    """The state after an error is that before its batch; once the object is repaired, it goes on with that."""
    source = MemorySource("data", {f"{number}.npy": b"no array" for number in range(4)})
    with StreamingDatasetAdapter(source) as adapter:
        loader = loader_of(adapter, 2, num_workers=workers)
        with pytest.raises(DecodeError, match="npy"):
            list(loader)
        assert loader.state_dict()["position"] == 0


def test_state_of_another_run_is_refused() -> None:
    """Another seed, order, data set or way of batching is named; nothing is changed."""
    data = torch.arange(COUNT)
    state = loader_of(data, seed=1).state_dict()
    lengths = torch.full((COUNT,), 10).numpy()
    others = {
        "seed was 1 and is 2": loader_of(data, seed=2),
        "order was 'shuffled' and is 'sequential'": loader_of(data, shuffle=False),
        "n was 50 and is 49": loader_of(data[:49], seed=1),
        "max_tokens": loader_of(data, None, seed=1, batching=TokenBudgetBatching(lengths, 40)),
    }
    for told, loader in others.items():
        before = loader.state_dict()
        with pytest.raises(StateError, match=told):
            loader.load_state_dict(state)
        assert loader.state_dict() == before


@pytest.mark.parametrize("batching", [None, TokenBudgetBatching([5] * 40, 20, window=8)])
def test_weights_may_change_ahead_of_a_state_and_not_behind(batching: Any) -> None:
    """A run goes on with other weights from a later position; what was given before stays what it was."""

    def loader(changes: Any = None) -> StreamingDataLoader:
        streams = {"a": torch.arange(20), "b": torch.arange(100, 120)}
        mixed = MixedDataset(streams, weights={"a": 1, "b": 1}, weight_schedule=changes)
        return StreamingDataLoader(mixed, None if batching else 4, batching=batching, rank=0, world_size=1)

    first = loader()
    head = [batch.tolist() for batch in islice(first, 5)]
    state = first.state_dict()
    later = {60: {"a": 1, "b": 0}}
    changed = loader(later)
    changed.load_state_dict(state)
    tail = [batch.tolist() for batch in changed]
    assert head + tail == [batch.tolist() for batch in loader(later)] == [batch.tolist() for batch in loader()]
    second = torch.cat(list(changed))
    assert (second[-16:] < 100).all()
    assert (second >= 100).any()
    with pytest.raises(StateError, match="changes"):
        loader({10: {"a": 1, "b": 0}}).load_state_dict(state)


def test_a_changed_index_is_refused() -> None:
    """A state belongs to the samples it was made with; a copy elsewhere has the same."""
    with adapter_of() as adapter, adapter_of() as copy:
        state = loader_of(adapter).state_dict()
        loader_of(copy).load_state_dict(state)
    source = source_of()
    source.put("0007.bin", b"another size")
    with StreamingDatasetAdapter(source) as changed, pytest.raises(StateError, match="objects changed since"):
        loader_of(changed).load_state_dict(state)


def test_batches_by_tokens() -> None:
    """Each batch holds at most so many tokens, padded; each sample comes once; ranks get equally many; it resumes."""
    lengths = (torch.arange(COUNT) % 7 + 1).numpy()
    data = torch.arange(COUNT)
    loaders = [
        loader_of(data, None, batching=TokenBudgetBatching(lengths, 24), rank=rank, world_size=2, drop_last=True)
        for rank in range(2)
    ]
    batches = [list(loader) for loader in loaders]
    assert len(batches[0]) == len(batches[1]) == len(loaders[0])
    assert all(len(batch) * lengths[batch].max() <= 24 for part in batches for batch in part)
    seen = torch.cat([batch for part in batches for batch in part]).tolist()
    assert len(seen) == len(set(seen)) >= COUNT - 24
    whole = [batch.tolist() for batch in loader_of(data, None, batching=TokenBudgetBatching(lengths, 24))]
    loader = loader_of(data, None, batching=TokenBudgetBatching(lengths, 24))
    assert [batch.tolist() for batch in islice(loader, 4)] == whole[:4]
    resumed = loader_of(data, None, batching=TokenBudgetBatching(lengths, 24))
    resumed.load_state_dict(loader.state_dict())
    assert [batch.tolist() for batch in resumed] == whole[4:]


def as_lists(packs: list[list[dict[str, Any]]]) -> list[list[int]]:
    return [[sample["idx"] for sample in pack] for pack in packs]


@pytest.mark.parametrize("workers", [0, 2])
def test_packs(workers: int) -> None:
    """`batch_size` packs make a batch; a pack's samples come together, and all samples once."""
    lengths = (torch.arange(COUNT) % 7 + 1).numpy()
    with adapter_of() as adapter:
        loader = loader_of(adapter, 3, batching=SequencePacking(lengths, 16), collate_fn=as_lists, num_workers=workers)
        batches = list(loader)
        assert loader.plan is not None
        assert 0 <= loader.plan.padding(0) < 0.3
    assert all(sum(lengths[pack]) <= 16 for batch in batches for pack in batch)
    assert {len(batch) for batch in batches[:-1]} == {3}
    assert sorted(sample for batch in batches for pack in batch for sample in pack) == list(range(COUNT))


def test_settings_that_cannot_be_used() -> None:
    """Each refusal names the setting and the next step."""
    data = torch.arange(8)
    lengths = torch.ones(8, dtype=torch.int64).numpy()
    refused: list[tuple[str, dict[str, Any]]] = [
        (r"sampler \(list\) is passed", {"sampler": [1, 2]}),
        (r"batch_sampler \(list\) is passed", {"batch_sampler": [[1, 2]]}),
        ("batch_size=0", {"batch_size": 0}),
        ("batch_size=None", {"batch_size": None}),
        ("batch_size=4 with TokenBudgetBatching", {"batching": TokenBudgetBatching(lengths, 4)}),
        ("too few for 9 ranks", {"rank": 0, "world_size": 9}),
    ]
    for told, options in refused:
        with pytest.raises(ConfigError, match=told):
            loader_of(data, **options)
