"""Packs become rows of tokens with the borders of their documents."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from streaming.loader.pack import PackCollate
from streaming.order.batching import SequencePacking
from streaming.order.permutation import Shuffled


def sample(*tokens: int, **more: Any) -> dict[str, Any]:
    return {"input_ids": torch.tensor(tokens, dtype=torch.int32), **more}


def test_samples_follow_each_other_in_a_row() -> None:
    """Tokens, then padding; documents are numbered from 0, positions begin anew in each."""
    batch = PackCollate(6)([[sample(7, 8), sample(9, 10, 11)], [sample(1, 2, 3, 4, 5, 6)]])
    assert batch["input_ids"].tolist() == [[7, 8, 9, 10, 11, 0], [1, 2, 3, 4, 5, 6]]
    assert batch["document_ids"].tolist() == [[0, 0, 1, 1, 1, -1], [0] * 6]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5]]
    assert [batch[key].dtype for key in batch] == [torch.int32, torch.int64, torch.int64]


def test_each_key_is_padded_with_its_own_value() -> None:
    """Labels of another type beside the tokens, as tensors or arrays; other entries are left out."""
    packs = [[sample(1, 2, labels=np.array([3.5, 4.5]), idx=8)]]
    batch = PackCollate(3, ("input_ids", "labels"), {"labels": -100})(packs)
    assert batch["input_ids"].tolist() == [[1, 2, 0]]
    assert batch["labels"].tolist() == [[3.5, 4.5, -100]]
    assert set(batch) == {"input_ids", "labels", "document_ids", "position_ids"}


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=4))
def test_documents_are_got_back_whole(packs: list[list[int]]) -> None:
    """From tokens and document ids the samples follow, also empty ones by their number."""
    many = iter(range(1, 1000))
    samples = [[sample(*(next(many) for _ in range(length))) for length in pack] for pack in packs]
    batch = PackCollate(48)(samples)
    for row, pack in enumerate(samples):
        for number, one in enumerate(pack):
            is_in = batch["document_ids"][row] == number
            assert torch.equal(batch["input_ids"][row][is_in], one["input_ids"])
            assert torch.equal(batch["position_ids"][row][is_in], torch.arange(len(one["input_ids"])))
        assert (batch["document_ids"][row] >= 0).sum() == sum(map(len, (one["input_ids"] for one in pack)))


class Documents(torch.utils.data.Dataset[Any]):
    """Packs by number: document d has `lengths[d]` tokens, each d."""

    def __init__(self, lengths: list[int], packs: list[list[int]]) -> None:
        self.lengths = lengths
        self.packs = packs

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, number: int) -> list[dict[str, Any]]:
        return [sample(*[document] * self.lengths[document]) for document in self.packs[number]]


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_it_collates_in_workers(start_method: str) -> None:
    """With DataLoader workers every token of a planned epoch comes once."""
    lengths = [at % 7 + 1 for at in range(40)]
    plan = SequencePacking(lengths, 16).plan(Shuffled(40))
    documents = Documents(lengths, [pack.tolist() for pack in plan.read(0, 0, plan.num_groups(0))])
    loader = DataLoader(
        documents, batch_size=4, num_workers=1, collate_fn=PackCollate(16), multiprocessing_context=start_method
    )
    tokens = torch.cat([batch["input_ids"][batch["document_ids"] >= 0] for batch in loader])
    assert torch.bincount(tokens).tolist() == lengths


def test_it_can_be_pickled() -> None:
    """A copy collates as the first."""
    packs = [[sample(1)]]
    pack = PackCollate(2, pad_values={"input_ids": 5})
    assert torch.equal(pickle.loads(pickle.dumps(pack))(packs)["input_ids"], pack(packs)["input_ids"])


@pytest.mark.parametrize(
    ("packs", "message"),
    [
        ([[sample(1)], [sample(1), sample(1, 2, 3)]], r"pack 1 has 4 tokens \(1 \+ 3\) for max_tokens=3"),
        ([[sample(1), {"ids": torch.ones(1)}]], "sample 1 of pack 0 has no 'input_ids'"),
        ([[{"input_ids": torch.ones(1, 2)}]], "shapes"),
        ([[{"input_ids": torch.tensor(1)}]], "shapes"),
    ],
)
def test_packs_that_do_not_fit_are_refused(packs: Any, message: str) -> None:
    """The error names the pack and the sample; nothing is cut silently."""
    with pytest.raises(ValueError, match=message):
        PackCollate(3)(packs)


def test_keys_of_different_lengths_are_refused() -> None:
    """Labels are one a token."""
    with pytest.raises(ValueError, match="one value per token"):
        PackCollate(3, ("input_ids", "labels"))([[sample(1, 2, labels=torch.ones(1))]])


def test_settings_that_cannot_be_used_are_refused() -> None:
    """No tokens, no keys, or padding of a key that is not there."""
    with pytest.raises(ValueError, match="max_tokens=0"):
        PackCollate(0)
    with pytest.raises(ValueError, match="keys is empty"):
        PackCollate(1, ())
    with pytest.raises(ValueError, match="'labels'"):
        PackCollate(1, "input_ids", {"labels": 1})
