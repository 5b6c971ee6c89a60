"""Samples read together are the reader's own, equal to those read one by one, and collate without another copy."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.utils.data import default_collate

from streaming.adapter import StreamingDatasetAdapter  # registers rows with torch's default_collate
from streaming.cache.arena import ArenaReader, Place
from streaming.cache.batch import read_batch
from streaming.cache.reading import STALE, PlaceTuple
from streaming.cache.sample import SmartLRUCache
from streaming.core.miss import MISS
from streaming.loader.collate import PadCollate, StackCollate
from streaming.testing import MemorySource

DTYPES = [torch.float32, torch.bfloat16, torch.bool, torch.int64, torch.uint8, torch.complex64]


def _cache(samples: list[Any], **options: Any) -> SmartLRUCache:
    cache = SmartLRUCache(max_size_bytes=50_000_000, **options)
    for key, sample in enumerate(samples):
        assert cache.put_nowait(key, sample)
    return cache


def _places(cache: SmartLRUCache, keys: list[int]) -> list[PlaceTuple]:
    places = cache.places(keys)
    assert None not in places
    return [place for place in places if place]


def _sample(i: int) -> dict[str, Any]:
    tensors = {str(dtype): torch.full((3, 2), i).to(dtype) for dtype in DTYPES}
    return {
        "part": {"x": torch.full((40, 50), float(i)), **tensors},
        "scalar": torch.tensor(i),
        "idx": i,
        "name": f"n{i}",
    }


def _assert_same(left: Any, right: Any) -> None:
    assert isinstance(left, dict) == isinstance(right, dict)
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            _assert_same(left[key], right[key])
    elif isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    else:
        assert left == right


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("collate", [default_collate, StackCollate(), PadCollate()], ids=["torch", "stack", "pad"])
def test_a_batch_equals_its_samples(compression, collate):
    """With each compression and collate function, the batch is that of samples read one by one."""
    cache = _cache([_sample(i) for i in range(6)], compression_type=compression)
    keys = [4, 0, 5, 0]
    samples = cache.get_many(keys)
    for key, sample in zip(keys, samples, strict=True):
        _assert_same(sample, cache.get_nowait(key))
    _assert_same(collate(samples), collate([cache.get_nowait(key) for key in keys]))


@pytest.mark.parametrize("collate", [default_collate, StackCollate()])
def test_collating_takes_the_tensor_whose_rows_the_samples_are(collate):
    """There is no second copy if no sample was accessed; one that was changed in place is collated as it is."""
    cache = _cache([_sample(i) for i in range(4)])
    samples = cache.get_many([3, 1, 2])
    row = dict.__getitem__(samples[0], "part")["x"]
    batch = collate(samples)
    assert batch["part"]["x"].data_ptr() == row.data_ptr()
    assert batch["part"]["x"][:, 0, 0].tolist() == [3, 1, 2]
    samples = cache.get_many([3, 1, 2])
    samples[1]["part"]["x"].fill_(-1)
    assert collate(samples)["part"]["x"][:, 0, 0].tolist() == [3, -1, 2]


@pytest.mark.parametrize("collate", [default_collate, StackCollate()])
def test_samples_that_were_changed_or_reordered_are_collated_as_they_are(collate):
    """With a tensor instead of a row, another order or a part of the batch, nothing is taken from the old rows."""
    cache = _cache([_sample(i) for i in range(4)])
    samples = cache.get_many([0, 1, 2, 3])
    assert collate(samples[::-1])["part"]["x"][:, 0, 0].tolist() == [3, 2, 1, 0]
    assert collate(samples[1:3])["part"]["x"][:, 0, 0].tolist() == [1, 2]
    samples[2]["part"]["x"] = torch.zeros(40, 50)
    assert collate(samples)["part"]["x"][:, 0, 0].tolist() == [0, 1, 0, 3]
    for sample in samples:
        sample["part"]["x"] = sample["part"]["x"].T
    assert collate(samples)["part"]["x"].shape == (4, 50, 40)


def test_default_collate_refuses_missing_keys():
    """A sample without a key of the first is a KeyError, as with plain dicts."""
    samples = _cache([_sample(0), _sample(1)]).get_many([0, 1])
    del samples[1]["idx"]
    with pytest.raises(KeyError, match="idx"):
        default_collate(samples)


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param([{"x": torch.ones(2)}, {"x": torch.ones(3)}], id="shapes"),
        pytest.param([{"x": torch.ones(2)}, {"y": torch.ones(2)}], id="keys"),
        pytest.param([{"x": torch.ones(2)}, {"x": torch.ones(2).double()}], id="dtypes"),
        pytest.param([{"x": torch.ones(2).numpy()}, {"x": torch.ones(2).numpy()}], id="arrays"),
        pytest.param([{"x": (torch.ones(2), 1)}, {"x": (torch.ones(2), 1)}], id="tuples"),
        pytest.param([{"x": 1}, {"x": "text"}], id="no tensors"),
        pytest.param([torch.ones(2), torch.ones(2)], id="bare tensors"),
        pytest.param([{"x": torch.ones(2)}, ["x" * 5000]], id="kinds"),
        pytest.param([{f"{i:030d}": torch.ones(2) for i in range(50)}] * 2, id="a long header"),
        pytest.param([{"x": torch.ones(0, 3)}, {"x": torch.ones(0, 3)}], id="empty tensors"),
    ],
)
def test_samples_that_differ_are_read_one_by_one(samples):
    """Samples that are read together may differ in shapes and structure."""
    read = _cache(samples).get_many([0, 1])
    for ours, stored in zip(read, samples, strict=True):
        assert type(stored) is dict or type(ours) is type(stored)
        _assert_equal_nests(ours, stored)


def _assert_equal_nests(left: Any, right: Any) -> None:
    if isinstance(right, dict):
        assert list(left) == list(right)
        for key in right:
            _assert_equal_nests(left[key], right[key])
    elif isinstance(right, list | tuple):
        assert type(left) is type(right)
        assert len(left) == len(right)
        for ours, stored in zip(left, right, strict=True):
            _assert_equal_nests(ours, stored)
    else:
        assert type(left) is type(right)
        assert (torch.as_tensor(left) == torch.as_tensor(right)).all() if hasattr(right, "shape") else left == right


def test_copies_and_pickles_are_plain_dicts():
    """A copied or unpickled sample is a plain dict with the same tensors."""
    sample = _cache([_sample(0), _sample(1)]).get_many([0, 1])[1]
    for other in (pickle.loads(pickle.dumps(sample)), copy.copy(sample), copy.deepcopy(sample)):
        assert type(other) is dict
        _assert_same(other, sample)


def test_missing_keys_give_the_default():
    """Absent keys get the default and count as misses."""
    cache = _cache([_sample(0)])
    assert cache.get_many([7, 8], None) == [None, None]
    found, absent = cache.get_many([0, 9])
    assert found["idx"] == 0
    assert absent is MISS
    assert cache.get_metrics().hits == 1
    assert cache.get_metrics().misses == 3


@pytest.mark.parametrize("shared", [False, True])
def test_an_evicted_sample_is_stale_and_its_neighbours_are_not(shared):
    """A place that was freed, and perhaps written again, never gives bytes of another sample."""
    cache = _cache([_sample(i) for i in range(3)])
    reader = ArenaReader(cache.arena)
    places = _places(cache, [0, 1, 2])
    cache.put_nowait(1, _sample(9))
    first, stale, last = read_batch(reader.memory, reader.generations, places, shared=shared)
    assert stale is STALE
    _assert_same(first, _sample(0))
    _assert_same(last, _sample(2))


class FreedMeanwhile(Sequence[int]):
    """A table of generations in which one slot is freed after some reads."""

    def __init__(self, table: Sequence[int], slot: int, reads: int) -> None:
        self._table = table
        self._slot = slot
        self._reads = reads

    def __getitem__(self, slot: Any) -> Any:
        self._reads -= 1
        return self._table[slot] + (slot == self._slot and self._reads < 0)

    def __len__(self) -> int:
        return len(self._table)


def test_a_sample_that_is_evicted_while_it_is_copied_is_stale() -> None:
    """A generation that was current before the copy is checked again after it."""
    cache = _cache([_sample(i) for i in range(3)])
    reader = ArenaReader(cache.arena)
    places = _places(cache, [0, 1, 2])
    table = FreedMeanwhile(reader.generations, Place(*places[1][:4]).slot, reads=3)
    first, stale, last = read_batch(reader.memory, table, places)
    assert stale is STALE
    _assert_same(first, _sample(0))
    _assert_same(last, _sample(2))


@pytest.mark.parametrize("strategy", sorted(torch.multiprocessing.get_all_sharing_strategies()))
def test_shared_batches_are_in_shared_memory(strategy):
    """A worker passes its batch on without a copy, with each sharing strategy of torch."""
    cache = _cache([_sample(i) for i in range(3)])
    before = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy(strategy)
    try:
        reader = ArenaReader(cache.arena)
        samples = read_batch(reader.memory, reader.generations, _places(cache, [2, 0]), shared=True)
        batch = default_collate(samples)
    finally:
        torch.multiprocessing.set_sharing_strategy(before)
    assert batch["part"]["x"].is_shared()
    _assert_same(samples[0], _sample(2))
    _assert_same(samples[1], _sample(0))


# -- ownership of memory


def _stored(value: Any) -> int:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return len(torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)["x"].untyped_storage())


ACCESSES: dict[str, Callable[[Any], torch.Tensor]] = {
    "item": lambda sample: sample["x"],
    "get": lambda sample: sample.get("x"),
    "items": lambda sample: dict(sample.items())["x"],
    "values": lambda sample: next(iter(sample.values())),
    "pop": lambda sample: sample.pop("x"),
    "popitem": lambda sample: dict([sample.popitem() for _ in range(3)])["x"],
    "setdefault": lambda sample: sample.setdefault("x"),
    "dict": lambda sample: dict(sample)["x"],
    "unpacked": lambda sample: {**sample}["x"],
    "arguments": lambda sample: (lambda x, **rest: x)(**sample),
    "joined": lambda sample: (sample | {"z": 1})["x"],
    "joined to": lambda sample: ({"z": 1} | sample)["x"],
    "updated": lambda sample: _updated(sample)["x"],
    "copy": lambda sample: sample.copy()["x"],
    "copied": lambda sample: copy.copy(sample)["x"],
    "deep": lambda sample: copy.deepcopy(sample)["x"],
    "pickled": lambda sample: pickle.loads(pickle.dumps(sample))["x"],
    "changed": lambda sample: (sample.__setitem__("z", 1), sample["x"])[1],
    "matched": lambda sample: _matched(sample),
    "nested": lambda sample: sample["inner"]["y"],
}


def _updated(sample: Any) -> Any:
    target: dict[str, Any] = {}
    target.update(sample)
    return target


def _matched(sample: Any) -> Any:
    match sample:
        case {"x": x}:
            return x
    raise AssertionError


@pytest.mark.parametrize("access", ACCESSES.values(), ids=ACCESSES)
def test_an_accessed_sample_has_memory_of_its_own(access: Callable[[Any], torch.Tensor]) -> None:
    """With each way to access it, a row that is kept does not keep its batch in memory, and has the right values."""
    samples = _samples_of_rows()
    row = access(samples[3])
    assert len(row.untyped_storage()) == 48
    assert torch.equal(row, torch.full((12,), 3.0))
    assert torch.equal(samples[2]["x"], torch.full((12,), 2.0))


def test_a_sample_that_was_not_accessed_is_saved_alone() -> None:
    """A saved sample does not contain the rows of others."""
    assert _stored(_samples_of_rows()[5]) == 48


def _samples_of_rows() -> list[Any]:
    source = MemorySource("data", {})
    for i in range(16):
        buffer = io.BytesIO()
        torch.save({"x": torch.full((12,), float(i)), "inner": {"y": torch.full((12,), float(i))}}, buffer)
        source.put(f"{i:02d}.pt", buffer.getvalue())
    with StreamingDatasetAdapter(source, prepare=_unwrapped) as adapter:
        adapter.prefetch_batch(range(16)).result(30)
        samples = adapter.__getitems__(range(16))
        assert len(dict.__getitem__(samples[0], "x").untyped_storage()) == 16 * 48  # read in one piece
        return samples


def _unwrapped(sample: Any) -> Any:
    return {**sample["data"], "idx": sample["idx"]}
