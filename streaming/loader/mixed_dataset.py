"""`MixedDataset`: several map-style data sets as one, in the order of a `Mixture`."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, SupportsIndex

import numpy as np
import xxhash
from torch.utils.data import Dataset

from streaming.core.epoch_index import epoch_of, reading_in
from streaming.order.mixture import Mixture
from streaming.prefetch import torch_datasets

__all__ = ["MixedDataset"]


class MixedDataset(Dataset[Any]):
    """Concatenation of data sets, with the order in which a run mixes them.

    Indices count through the first data set, then through the second, and so on. A `StreamingDataLoader` reads in the
    order of the mixture. Announcements are passed on to the data sets, so each reads ahead from its own sources into
    its own cache. Works in DataLoader workers if its data sets do.

    Args:
        datasets: `{stream: data set}`: a `StreamingDatasetAdapter`, or any map-style data set.
        weights, repeats, temperature, epoch_size, seed, shuffle, weight_schedule: see `order.mixture.Mixture`.

    Attributes:
        name: label of the batches in metrics; each data set has its own name.
        order: the mixture.
        fingerprint: changes with the contents of the data sets.

    Raises:
        ConfigError: a setting cannot be used; the message names the stream and the value.
    """

    def __init__(
        self,
        datasets: Mapping[str, Any],
        weights: Mapping[str, float] | None = None,
        *,
        repeats: Mapping[str, float] | None = None,
        temperature: float | None = None,
        epoch_size: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        weight_schedule: Mapping[int, Mapping[str, float]] | None = None,
    ) -> None:
        self.datasets = dict(datasets)
        self.order = Mixture(
            {name: len(dataset) for name, dataset in self.datasets.items()},
            weights,
            repeats=repeats,
            temperature=temperature,
            epoch_size=epoch_size,
            seed=seed,
            shuffle=shuffle,
            weight_schedule=weight_schedule,
        )
        self.name = "mixed"
        self.fingerprint = _fingerprint(self.datasets)

    def __len__(self) -> int:
        """Return the number of samples in all data sets; `order.epoch_size` is the number in an epoch."""
        return self.order.num_samples

    def __getitem__(self, index: SupportsIndex) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> list[Any]:
        """Return several samples; each data set is called once for its part."""
        found: list[Any] = [None] * len(indices)
        with reading_in(epoch_of(indices[0]) if indices else None):
            for dataset, places, numbers in self._parts(indices):
                read = getattr(dataset, "__getitems__", None)
                samples = read(numbers) if read is not None else [dataset[number] for number in numbers]
                for place, sample in zip(places, samples, strict=True):
                    found[place] = sample
        return found

    def announce(self, indices: Iterable[SupportsIndex], order: object) -> None:
        """Announce which samples will be read next, in order, to the data sets that can read ahead."""
        for dataset, _, numbers in self._parts(indices):
            torch_datasets.announce(dataset, numbers, order)

    def forget(self, order: object) -> None:
        """Withdraw the announcements under this `order` that were not read yet."""
        for dataset in self.datasets.values():
            torch_datasets.forget(dataset, order)

    @property
    def reads(self) -> int:
        """Number of samples read so far from the data sets that count them."""
        return sum(torch_datasets.reads(each) for each in self.datasets.values() if torch_datasets.counts_reads(each))

    @property
    def draws(self) -> bool:
        """Whether the samples of a data set may differ from one epoch to the next."""
        return any(map(torch_datasets.draws, self.datasets.values()))

    def get_cache_stats(self) -> dict[str, dict[str, Any]]:
        """Return `{stream: statistics}` of the data sets that have a cache."""
        return {
            name: dataset.get_cache_stats()
            for name, dataset in self.datasets.items()
            if hasattr(dataset, "get_cache_stats")
        }

    def close(self) -> None:
        """Close the data sets that can be closed, all of them even if one fails. Idempotent if they are."""
        errors = []
        for dataset in self.datasets.values():
            try:
                getattr(dataset, "close", _nothing)()
            except Exception as exc:
                errors.append(exc)
        if errors:
            raise errors[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _parts(self, indices: Iterable[SupportsIndex]) -> list[tuple[Any, list[int], list[int]]]:
        """Return `(data set, places among the indices, indices in it)` for each data set concerned."""
        numbers = np.array([self._number(index) for index in indices], dtype=np.int64)
        streams, inside = self.order.stream_of(numbers)
        found = []
        for stream in np.unique(streams):
            places = np.flatnonzero(streams == stream)
            dataset = self.datasets[self.order.names[stream]]
            found.append((dataset, places.tolist(), inside[places].tolist()))
        return found

    def _number(self, index: SupportsIndex) -> int:
        number = operator.index(index)
        if number < 0:
            number += self.order.num_samples
        if not 0 <= number < self.order.num_samples:
            raise IndexError(f"index {index} is out of range: the data sets have {self.order.num_samples} samples")
        return number


def _nothing(*_: object) -> None:
    """Stand in for a method that a plain data set lacks."""


def _fingerprint(datasets: Mapping[str, Any]) -> str:
    """Hash the names and the data sets' fingerprints, or lengths for data sets without one."""
    digest = xxhash.xxh3_64()
    for name, dataset in datasets.items():
        digest.update(repr((name, torch_datasets.fingerprint_of(dataset) or len(dataset))).encode())
    return str(digest.hexdigest())
