"""Collate samples that were read together, without copying their tensors again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.data._utils.collate import collate

from streaming.cache.batch import Sample, entries

__all__ = ["batch_of_rows", "collate_rows"]


def collate_rows(samples: Sequence[Any], *, collate_fn_map: Any = None) -> Any:
    """Return the batch that `default_collate` would make of samples read together."""
    first = samples[0]
    if type(first) in (dict, Sample):
        return {key: collate_rows(entries(samples, key), collate_fn_map=collate_fn_map) for key in first}
    batch = batch_of_rows(samples)
    return collate(samples, collate_fn_map=collate_fn_map) if batch is None else batch


def batch_of_rows(tensors: Sequence[Any]) -> Tensor | None:
    """Return the tensor `[batch, ...]` whose rows these are, all and in order; None if there is no such tensor."""
    first = tensors[0]
    batch = first._base if isinstance(first, Tensor) else None
    if batch is None or batch.shape != (len(tensors), *first.shape):
        return None
    shape, size = first.shape, first.numel()
    for row, tensor in enumerate(tensors):
        if tensor._base is not batch or tensor.storage_offset() != row * size or tensor.shape != shape:
            return None
    return batch if batch.is_contiguous() else None
