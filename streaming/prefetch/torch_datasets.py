"""The data sets inside torch's wrappers: Subset, ConcatDataset, StackDataset, and nests of them.

A sampler knows the indices of the outermost data set. Reading ahead, fingerprints and epochs concern the data sets
inside. A subclass that overrides how samples are read counts as a data set of its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xxhash
from torch.utils.data import ConcatDataset, Dataset, StackDataset, Subset

__all__ = [
    "announce",
    "counts_reads",
    "draws",
    "fingerprint_of",
    "forget",
    "leaves",
    "reads",
    "reads_of",
    "seed_of",
]


def leaves(dataset: Any) -> list[Any]:
    """Return the innermost data sets, each once; a data set that is not a wrapper is its own."""
    found: dict[int, Any] = {}
    for child in _children(dataset) or ():
        found.update((id(leaf), leaf) for leaf in leaves(child))
    return list(found.values()) or [dataset]


def reads_of(dataset: Any, indices: Iterable[int]) -> list[tuple[Any, list[int]]]:
    """Return what these indices read: each data set inside with its own indices, in the order of the reads."""
    found: dict[int, tuple[Any, list[int]]] = {}
    for index in indices:
        for leaf, inside in _leaf_reads(dataset, index):
            found.setdefault(id(leaf), (leaf, []))[1].append(inside)
    return list(found.values())


def announce(dataset: Any, indices: Iterable[int], order: object) -> None:
    """Announce to each data set inside that has `announce` which of its samples are read next, in order."""
    own = getattr(dataset, "announce", None)
    if own is not None:
        own(indices, order)
        return
    for leaf, inside in reads_of(dataset, indices) if _children(dataset) else ():
        announce(leaf, inside, order)


def forget(dataset: Any, order: object) -> None:
    """Call `forget` of each data set inside that has it: what was announced under this order is not read."""
    for leaf in leaves(dataset):
        own = getattr(leaf, "forget", None)
        if own is not None:
            own(order)


def draws(dataset: Any) -> bool:
    """Return whether samples may differ between epochs: a data set says so, or does not say."""
    for leaf in leaves(dataset):
        own = getattr(leaf, "draws", None)
        is_foreign = isinstance(leaf, Dataset) and not type(leaf).__module__.startswith("torch.")
        if is_foreign if own is None else own:
            return True
    return False


def counts_reads(dataset: Any) -> bool:
    """Return whether all data sets inside count their reads."""
    return all(hasattr(leaf, "reads") for leaf in leaves(dataset))


def reads(dataset: Any) -> int:
    """Return the number of samples read from the data sets inside so far."""
    return sum(leaf.reads for leaf in leaves(dataset))


def seed_of(dataset: Any) -> int:
    """Return the seed of the first data set inside that has one, else 0."""
    return next((leaf.seed for leaf in leaves(dataset) if isinstance(getattr(leaf, "seed", None), int)), 0)


def fingerprint_of(dataset: Any) -> str | None:
    """Return a fingerprint of the samples, their order and choice; None if no data set inside has one."""
    own: str | None = getattr(dataset, "fingerprint", None)
    children = _children(dataset)
    if own is not None or children is None:
        return own
    parts = [fingerprint_of(child) for child in children]
    if not any(parts):
        return None
    digest = xxhash.xxh3_64(type(dataset).__name__.encode())
    for part, child in zip(parts, children, strict=True):
        digest.update(repr(part or len(child)).encode())
    if isinstance(dataset, Subset):
        digest.update(np.asarray(dataset.indices, dtype=np.int64).tobytes())
    if isinstance(dataset, StackDataset) and isinstance(dataset.datasets, Mapping):
        digest.update(repr(list(dataset.datasets)).encode())
    return str(digest.hexdigest())


def _children(dataset: Any) -> list[Any] | None:
    """Return the data sets that one of torch's wrappers holds; None for any other object."""
    for wrapper in (Subset, ConcatDataset, StackDataset):
        if isinstance(dataset, wrapper) and type(dataset).__getitem__ is wrapper.__getitem__:
            break
    else:
        return None
    if isinstance(dataset, Subset):
        return [dataset.dataset]
    inside: Any = dataset.datasets
    return list(inside.values()) if isinstance(inside, Mapping) else list(inside)


def _leaf_reads(dataset: Any, index: int) -> Iterable[tuple[Any, int]]:
    children = _children(dataset)
    if children is None:
        return [(dataset, index)]
    if isinstance(dataset, Subset):
        return _leaf_reads(children[0], dataset.indices[index])
    if isinstance(dataset, ConcatDataset):
        number = bisect_right(dataset.cumulative_sizes, index)
        return _leaf_reads(children[number], index - (dataset.cumulative_sizes[number - 1] if number else 0))
    return [read for child in children for read in _leaf_reads(child, index)]
