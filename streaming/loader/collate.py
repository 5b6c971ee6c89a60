"""Collate samples into a batch: nested dicts, lists and tuples whose leaves are tensors, arrays, numbers or text.

`StackCollate` requires equal shapes; `PadCollate` pads. Both follow the structure of the first sample:

- tensors and numpy arrays become one tensor `[batch, ...]`; numbers and bools a tensor `[batch]`;
- str, bytes and None become a list `[batch]`;
- a dict becomes a dict, a tuple (named or not) a tuple, a list a list of collated entries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import default_collate

from streaming.cache.batch import entries
from streaming.cache.rows import batch_of_rows

__all__ = ["PadCollate", "StackCollate"]


Stack = Callable[[list[Tensor], str], "Tensor | _Padded"]


class _Padded(NamedTuple):
    values: Tensor
    lengths: Tensor


class StackCollate:
    """Collate samples whose leaves have equal shapes."""

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Collate one batch.

        Raises:
            ValueError: shapes, keys or lengths differ between samples; the message names the entry and the difference.
        """
        return _collate(samples, "sample", _stack_equal)


class PadCollate:
    """Collate samples whose tensors differ in size: each differing dimension is padded at its end to the largest.

    If the tensors of a dict entry were padded, the batch also holds `<key>_lengths`, an int64 tensor `[batch]`: the
    sizes of their first dimension before padding.

    Args:
        padding_value: a number, or `{key: number}` by the innermost dict key, 0 for other keys.
        max_length: cut the first dimension of tensors that differ to this size; None does not cut.
    """

    def __init__(self, padding_value: float | Mapping[str, float] = 0, max_length: int | None = None) -> None:
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length={max_length} must be at least 1, or None to keep everything")
        self.padding_value = padding_value
        self.max_length = max_length

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Collate one batch.

        Raises:
            ValueError: keys, lengths or numbers of dimensions differ between samples.
        """
        return _unwrap(_collate(samples, "sample", self._stack_padded))

    def _stack_padded(self, tensors: list[Tensor], name: str) -> Tensor | _Padded:
        shapes = [tensor.shape for tensor in tensors]
        if len(set(shapes)) == 1:
            return _stack(tensors)
        if len({len(shape) for shape in shapes}) > 1:
            raise ValueError(
                f"{name} has different numbers of dimensions: {_shapes(tensors)}; make them equal in prepare"
            )
        tensors = [tensor[: self.max_length] for tensor in tensors]
        target = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
        value = self._value_for(name)
        padded = _stack([pad(tensor, _widths(tensor.shape, target), value=value) for tensor in tensors])
        return _Padded(padded, torch.tensor([tensor.shape[0] for tensor in tensors]))

    def _value_for(self, name: str) -> float:
        if isinstance(self.padding_value, Mapping):
            return self.padding_value.get(name.rpartition("[")[2].strip("]'"), 0)
        return self.padding_value


def _widths(shape: Sequence[int], target: Sequence[int]) -> list[int]:
    """Return the padding in the order of `torch.nn.functional.pad`: last dimension first, each before and after."""
    pairs = zip(reversed(shape), reversed(target), strict=True)
    return [width for size, wanted in pairs for width in (0, wanted - size)]


def _stack(tensors: list[Tensor]) -> Tensor:
    """Stack to `[batch, ...]`; in a DataLoader worker directly into shared memory, as `default_collate` does."""
    batch = batch_of_rows(tensors)
    return default_collate(tensors) if batch is None else batch


def _stack_equal(tensors: list[Tensor], name: str) -> Tensor:
    if any(tensor.shape != tensors[0].shape for tensor in tensors):
        raise ValueError(f"{name} has different shapes in one batch: {_shapes(tensors)}; use PadCollate to pad them")
    return _stack(tensors)


def _shapes(tensors: list[Tensor]) -> str:
    return ", ".join(sorted({str(list(tensor.shape)) for tensor in tensors}))


def _collate(samples: Sequence[Any], name: str, stack: Stack) -> Any:
    first = samples[0]
    if isinstance(first, Tensor | np.ndarray | np.generic):
        return stack([torch.as_tensor(sample) for sample in samples], name)
    if isinstance(first, int | float):
        return default_collate(list(samples))
    if isinstance(first, Mapping):
        return _collate_mapping(samples, name, stack)
    if isinstance(first, list | tuple):
        return _collate_sequence(samples, name, stack)
    return list(samples)


def _collate_mapping(samples: Sequence[Any], name: str, stack: Stack) -> dict[str, Any]:
    keys = list(samples[0])
    for sample in samples:
        if not isinstance(sample, Mapping) or sample.keys() != samples[0].keys():
            found = list(sample) if isinstance(sample, Mapping) else type(sample).__name__
            raise ValueError(f"{name} has different keys in one batch: {keys} and {found}")
    batch: dict[str, Any] = {}
    for key in keys:
        column = _collate(entries(samples, key), f"{name}[{key!r}]", stack)
        batch[key] = _unwrap(column)
        if isinstance(column, _Padded):
            batch[f"{key}_lengths"] = column.lengths
    return batch


def _collate_sequence(samples: Sequence[Any], name: str, stack: Stack) -> Any:
    lengths = sorted({len(sample) for sample in samples})
    if len(lengths) > 1:
        raise ValueError(f"{name} has different lengths in one batch: {lengths}; store it as a tensor to pad it")
    columns = zip(*samples, strict=True)
    batch = [_unwrap(_collate(column, f"{name}[{at}]", stack)) for at, column in enumerate(columns)]
    if isinstance(samples[0], list):
        return batch
    return getattr(type(samples[0]), "_make", tuple)(batch)  # a named tuple keeps its type


def _unwrap(column: Any) -> Any:
    return column.values if isinstance(column, _Padded) else column
