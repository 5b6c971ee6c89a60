"""Batches from nests of tensors, numbers and text."""

from collections import namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from streaming.loader.collate import PadCollate, StackCollate

Pair = namedtuple("Pair", "left right")


def test_equal_shapes_give_what_torch_gives():
    """On samples that torch's own collate takes, the batch is the same."""
    samples = [
        {"x": torch.full((2, 3), i), "n": i, "f": i / 2, "flag": bool(i), "a": np.arange(3) + i, "idx": np.int64(i)}
        for i in range(4)
    ]
    ours, theirs = StackCollate()(samples), default_collate(samples)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key].dtype == value.dtype
        assert torch.equal(ours[key], value)


def test_nests_keep_their_structure():
    """Dicts, lists, tuples and named tuples come back as such; text, bytes and None as lists."""
    samples = [{"a": {"b": [torch.ones(1), "s"]}, "t": (i, b"x"), "p": Pair(i, None)} for i in range(2)]
    batch = StackCollate()(samples)
    assert batch["a"]["b"][0].shape == (2, 1)
    assert batch["a"]["b"][1] == ["s", "s"]
    assert batch["t"][1] == [b"x", b"x"]
    assert isinstance(batch["p"], Pair)
    assert batch["p"].right == [None, None]
    assert batch["p"].left.tolist() == [0, 1]


def test_different_shapes_are_refused_by_name():
    """The error says which entry differs and how, and what to use."""
    samples = [{"a": {"b": torch.ones(2)}}, {"a": {"b": torch.ones(3)}}]
    with pytest.raises(ValueError, match=r"sample\['a'\]\['b'\].*\[2\], \[3\].*PadCollate"):
        StackCollate()(samples)


@pytest.mark.parametrize("other", [{"a": 1, "b": 2}, 5])
def test_different_keys_are_refused(other):
    """Samples of one batch have the same keys."""
    with pytest.raises(ValueError, match="different keys"):
        StackCollate()([{"a": 1}, other])


def test_lists_of_different_lengths_are_refused():
    """Nothing is cut silently."""
    with pytest.raises(ValueError, match="different lengths"):
        StackCollate()([{"a": [1, 2]}, {"a": [1]}])


def test_padding_fills_to_the_longest_and_adds_the_lengths():
    """Values stay, the rest is the padding value of that key, lengths are added."""
    samples = [{"tokens": torch.arange(1, n + 1), "mask": torch.ones(n, dtype=torch.bool), "idx": n} for n in (2, 4)]
    batch = PadCollate({"tokens": -100})(samples)
    assert batch["tokens"].tolist() == [[1, 2, -100, -100], [1, 2, 3, 4]]
    assert batch["tokens_lengths"].tolist() == [2, 4]
    assert batch["mask"].tolist() == [[True, True, False, False], [True] * 4]
    assert batch["idx"].tolist() == [2, 4]


def test_padding_covers_every_differing_dimension():
    """Two dimensions that differ are both padded at their end."""
    batch = PadCollate(9.0)([torch.zeros(1, 3), torch.zeros(2, 1)])
    assert batch.tolist() == [[[0, 0, 0], [9, 9, 9]], [[0, 9, 9], [0, 9, 9]]]


def test_padding_leaves_equal_shapes_alone():
    """No lengths appear where nothing was padded."""
    batch = PadCollate()([{"x": torch.ones(2)}, {"x": torch.ones(2)}])
    assert list(batch) == ["x"]


def test_max_length_cuts_what_differs():
    """The first dimension is cut, and the lengths are those after the cut."""
    batch = PadCollate(max_length=3)([{"x": torch.arange(5)}, {"x": torch.arange(2)}])
    assert batch["x"].tolist() == [[0, 1, 2], [0, 1, 0]]
    assert batch["x_lengths"].tolist() == [3, 2]


def test_padding_inside_sequences_keeps_the_values():
    """Lengths have no place in a list, the padded tensor has."""
    batch = PadCollate()([[torch.ones(1)], [torch.ones(2)]])
    assert batch[0].tolist() == [[1, 0], [1, 1]]


def test_padding_refuses_different_ranks():
    """A matrix and a vector do not pad to one shape."""
    with pytest.raises(ValueError, match="numbers of dimensions"):
        PadCollate()([torch.ones(1), torch.ones(1, 1)])


def test_a_useless_max_length_is_refused():
    """Cutting to nothing is a mistake."""
    with pytest.raises(ValueError, match="max_length=0"):
        PadCollate(max_length=0)
