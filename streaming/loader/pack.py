"""Collate packs: several samples in a row, with the borders between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from streaming.cache.batch import entries, entry

__all__ = ["PackCollate"]


class PackCollate:
    """Collate the packs of `SequencePacking`; samples are never split.

    A batch is a dict of tensors `[packs, max_tokens]`: one per key, with the dtype of the samples; `document_ids`
    (int64: 0 for the first sample of a row, 1 for the next, -1 for padding), from which an attention mask follows; and
    `position_ids` (int64, from 0 in each sample, 0 for padding).

    Args:
        max_tokens: length of a row; equal to that of `SequencePacking`.
        keys: the entries of a sample with one value per token: tensors or arrays `[tokens]`.
        pad_values: `{key: number}` after the last sample of a row; 0 for other keys. Use -100 for labels.
    """

    def __init__(
        self,
        max_tokens: int,
        keys: Sequence[str] = ("input_ids",),
        pad_values: Mapping[str, float] | None = None,
    ) -> None:
        if max_tokens < 1:
            raise ValueError(f"max_tokens={max_tokens} must be at least 1, as in SequencePacking")
        keys = (keys,) if isinstance(keys, str) else tuple(keys)
        if not keys:
            raise ValueError("keys is empty; name the entries of a sample that hold its tokens")
        for key in pad_values or {}:
            if key not in keys:
                raise ValueError(f"pad_values name {key!r}, which is not one of the keys {list(keys)}")
        self.max_tokens = max_tokens
        self.keys = keys
        self.pad_values = dict(pad_values or {})

    def __call__(self, packs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Tensor]:
        """Collate one batch.

        Raises:
            ValueError: a sample lacks a key, its tensors are not `[tokens]` of equal length, or a pack is too long.
        """
        lengths = [
            [self._length(sample, f"sample {at} of pack {row}") for at, sample in enumerate(pack)]
            for row, pack in enumerate(packs)
        ]
        self._check(lengths)
        batch = {key: self._rows([entries(pack, key) for pack in packs], key) for key in self.keys}
        documents = torch.full((len(packs), self.max_tokens), -1)
        positions = torch.zeros((len(packs), self.max_tokens), dtype=torch.int64)
        for row, many in enumerate(lengths):
            used, counts = sum(many), torch.tensor(many, dtype=torch.int64)
            documents[row, :used] = torch.repeat_interleave(counts)
            starts = torch.cumsum(counts, 0) - counts
            positions[row, :used] = torch.arange(used) - torch.repeat_interleave(starts, counts)
        return {**batch, "document_ids": documents, "position_ids": positions}

    def _length(self, sample: Mapping[str, Any], name: str) -> int:
        shapes = {}
        for key in self.keys:
            if key not in sample:
                raise ValueError(f"{name} has no {key!r}, only {list(sample)}; name its entries in keys")
            shapes[key] = list(entry(sample, key).shape)
        first = shapes[self.keys[0]]
        if len(first) != 1 or any(shape != first for shape in shapes.values()):
            raise ValueError(f"{name} has shapes {shapes}; give one value per token, [tokens], for all keys")
        return int(first[0])

    def _check(self, lengths: Sequence[Sequence[int]]) -> None:
        for row, many in enumerate(lengths):
            if sum(many) > self.max_tokens:
                raise ValueError(
                    f"pack {row} has {sum(many)} tokens ({' + '.join(map(str, many))}) for "
                    f"max_tokens={self.max_tokens}; give SequencePacking the same, and the lengths of these samples"
                )

    def _rows(self, packs: Sequence[Sequence[Any]], key: str) -> Tensor:
        """Return `[packs, max_tokens]`, with the dtype of the first sample."""
        rows = [[torch.as_tensor(values) for values in pack] for pack in packs]
        dtype = next((values.dtype for row in rows for values in row), torch.int64)
        batch = torch.full((len(rows), self.max_tokens), self.pad_values.get(key, 0), dtype=dtype)
        for row, values in zip(batch, rows, strict=True):
            if values:
                joined = torch.cat(values)
                row[: len(joined)] = joined
        return batch
