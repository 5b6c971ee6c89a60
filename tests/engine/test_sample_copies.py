"""Samples that the cache cannot hold: each reader gets its own copy, or an error that names what cannot be copied."""

import copy
import dataclasses
import pickle
import threading
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, WeightedRandomSampler

from streaming.adapter import StreamingDatasetAdapter
from streaming.engine.sample_copies import Uncopyable, copy_sample, pickle_sample
from streaming.errors import PrepareError
from streaming.testing import MemorySource

COUNT = 8
LAYER = torch.nn.Linear(3, 3)


def _with_history(sample):
    return {**sample, "x": LAYER(torch.full((3,), float(sample["idx"])))}


def _sparse(sample):
    return {**sample, "x": torch.diag(torch.arange(3.0) + sample["idx"]).to_sparse_csr()}


def _nested(sample):
    return {**sample, "x": torch.nested.nested_tensor([torch.arange(2.0), torch.arange(3.0) + sample["idx"]])}


@dataclasses.dataclass
class _Features:
    values: Any


def _in_an_object(sample):
    return {**sample, "x": _Features(_with_history(sample)["x"])}


def _generator(sample):
    return {**sample, "deep": [0, {"lines": (line for line in "ab")}]}


def _values(sample):
    x = sample["x"]
    x = x.values if isinstance(x, _Features) else x
    return x.detach().to_padded_tensor(0) if x.is_nested else x.detach().to_dense()


def _open(prepare):
    source = MemorySource("data", {f"{i}.bin": bytes([i]) for i in range(COUNT)})
    return StreamingDatasetAdapter(source, prepare=prepare)


def _read(adapter, indices, workers=0):
    loader = DataLoader(
        adapter, 4, sampler=indices, num_workers=workers, collate_fn=list, multiprocessing_context=_method(workers)
    )
    return [sample for batch in loader for sample in batch]


def _method(workers):
    return "fork" if workers else None


@pytest.mark.filterwarnings("ignore:.*cannot be cached")
@pytest.mark.filterwarnings("ignore:.*beta state")
@pytest.mark.filterwarnings("ignore:.*prototype stage")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("prepare", [_with_history, _sparse, _nested, _in_an_object])
@pytest.mark.parametrize("workers", [0, 2])
def test_concurrent_reads_of_a_sample_get_a_copy_each(prepare, workers):
    """Each of several reads gets the values of a single read in its own memory, uncached and counted."""
    with _open(prepare) as adapter:
        expected = [_values(prepare({"idx": i})) for i in range(COUNT)]
        samples = _read(adapter, [3, 3, 3, 5, 1, 3, 1, 1], workers)
        assert [sample["idx"] for sample in samples] == [3, 3, 3, 5, 1, 3, 1, 1]
        if prepare is not _nested:  # its memory is not accessible
            for sample in samples:
                assert torch.equal(_values(sample), expected[sample["idx"]])
            dense = [sample["x"] for sample in samples if prepare is _with_history]
            assert len({x.untyped_storage().data_ptr() for x in dense}) == len(dense)
        stats = adapter.get_cache_stats()
        assert stats["num_items"] == 0
        assert stats["uncacheable"] == stats["fetched_samples"] > 0
        assert (stats["in_flight"], stats["in_flight_gb"]) == (0, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_weighted_sampler_over_samples_with_a_history_ends(workers):
    """A missing `torch.no_grad` in `prepare` only prevents caching; no reader waits forever."""
    with _open(_with_history) as adapter:
        loader = DataLoader(
            adapter,
            4,
            sampler=WeightedRandomSampler([1.0] * COUNT, 32),
            num_workers=workers,
            multiprocessing_context=_method(workers),
        )
        for batch in loader:
            for idx, x in zip(batch["idx"].tolist(), batch["x"], strict=True):
                assert torch.equal(x, _with_history({"idx": idx})["x"])


def test_every_reader_gets_the_name_of_what_cannot_be_copied():
    """A single reader gets the generator; each of several gets the name of the sample and of the leaf."""
    with _open(_generator) as adapter:
        assert list(adapter[2]["deep"][1]["lines"]) == ["a", "b"]
        with pytest.raises(PrepareError, match=r"sample 2 \('2'\).*\['deep'\]\[1\]\['lines'\] is a generator") as error:
            adapter.__getitems__([2, 2, 1])
        assert error.value.path == "2"
        cause = error.value.__cause__
        assert cause is not None
        assert "generator" in str(cause.__cause__)
        assert adapter[1]["idx"] == 1
        stats = adapter.get_cache_stats()
        assert (stats["in_flight"], stats["in_flight_gb"]) == (0, 0)


def test_a_worker_gets_the_name_of_what_cannot_be_sent():
    """The worker gets the same error instead of `EngineGoneError`, and continues to read."""
    with _open(_generator) as adapter:
        with pytest.raises(PrepareError, match=r"sample 2 \('2'\).*\['deep'\]\[1\]\['lines'\] is a generator"):
            _read(adapter, [2], 1)
        assert adapter[2]["idx"] == 2


def test_a_copy_keeps_types_and_shared_parts():
    """Named tuples, sets and the identity of parts survive the slow path too."""
    tensor = LAYER(torch.ones(3))
    sample = {"a": tensor, "b": (tensor, {1, 2}), "c": _Features(tensor), "lock": None}
    copied = copy_sample(sample)
    assert copied["a"] is copied["b"][0] is copied["c"].values is not tensor
    assert copied["a"].is_leaf
    assert copied["a"].requires_grad
    assert copied["b"][1] == {1, 2}
    received = pickle.loads(pickle_sample(sample))
    assert not received["a"].requires_grad
    assert torch.equal(received["c"].values, tensor)


@pytest.mark.parametrize("do", [copy_sample, pickle_sample])
def test_a_leaf_that_cannot_be_copied_is_named_by_its_path(do):
    """The leaf may be in an attribute, at the top, or in a container that contains itself."""
    loop: dict[str, Any] = {"features": _Features(threading.Lock())}
    loop["self"] = loop
    with pytest.raises(Uncopyable, match=r"\['features'\]\.values is a lock"):
        do(loop)
    with pytest.raises(Uncopyable, match="it is a generator"):
        do(x for x in "")


def _exit(sample):
    raise SystemExit("enough")


def test_a_prepare_that_ends_the_process_is_an_error_of_its_sample():
    """The library's threads continue."""
    with _open(_exit) as adapter:
        for _ in range(2):
            with pytest.raises(PrepareError, match=r"sample 4 \('4'\): SystemExit: enough"):
                adapter[4]
        assert copy.copy(adapter.get_cache_stats())["in_flight"] == 0
