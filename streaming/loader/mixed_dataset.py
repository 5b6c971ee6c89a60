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
    """Data sets one after the other, and the order in which a run mixes them.

    Samples come as their data set gives them; number i is that of the first data set, then of the second. A
    `StreamingDataLoader` takes them in the order of the mixture. What is announced is passed on to the data sets, so
    each reads ahead from its own sources into its own cache. Works in DataLoader workers as its data sets do.

    Args:
        datasets: `{stream: data set}`: a `StreamingDatasetAdapter`, or any map-style data set.
        weights, repeats, temperature, epoch_size, seed, shuffle, weight_schedule: see `order.mixture.Mixture`.

    Attributes:
        name: what metrics call the batches; each data set has a name of its own.
        order: the mixture.
        fingerprint: changes with what the data sets hold.

    Raises:
        ConfigError: a setting that cannot be used; the message names the stream and the value.
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
        """Samples in all data sets; `order.epoch_size` is how many an epoch has."""
        return self.order.num_samples

    def __getitem__(self, index: SupportsIndex) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> list[Any]:
        """Several samples at once: each data set is asked once for its part."""
        found: list[Any] = [None] * len(indices)
        with reading_in(epoch_of(indices[0]) if indices else None):
            for dataset, places, numbers in self._parts(indices):
                read = getattr(dataset, "__getitems__", None)
                samples = read(numbers) if read is not None else [dataset[number] for number in numbers]
                for place, sample in zip(places, samples, strict=True):
                    found[place] = sample
        return found

    def announce(self, indices: Iterable[SupportsIndex], order: object) -> None:
        """Say which samples will be read next, in order; each data set that can read ahead is told its part."""
        for dataset, _, numbers in self._parts(indices):
            torch_datasets.announce(dataset, numbers, order)

    def forget(self, order: object) -> None:
        """Say that what was announced under this `order` and was not read yet will not be read."""
        for dataset in self.datasets.values():
            torch_datasets.forget(dataset, order)

    @property
    def reads(self) -> int:
        """Samples that were read so far from the data sets that count them."""
        return sum(torch_datasets.reads(each) for each in self.datasets.values() if torch_datasets.counts_reads(each))

    @property
    def draws(self) -> bool:
        """Whether the samples of a data set may differ from one epoch to the next."""
        return any(map(torch_datasets.draws, self.datasets.values()))

    def get_cache_stats(self) -> dict[str, dict[str, Any]]:
        """`{stream: its statistics}` of the data sets that have a cache."""
        return {
            name: dataset.get_cache_stats()
            for name, dataset in self.datasets.items()
            if hasattr(dataset, "get_cache_stats")
        }

    def close(self) -> None:
        """Close the data sets that can be closed, all of them also where one fails. Idempotent as they are."""
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
        """For each data set concerned: places among the indices, and numbers in it, both in the order given."""
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
    """In place of a method that a plain data set lacks."""


def _fingerprint(datasets: Mapping[str, Any]) -> str:
    """Over the names and the data sets' own fingerprints; of a data set without one its length."""
    digest = xxhash.xxh3_64()
    for name, dataset in datasets.items():
        digest.update(repr((name, torch_datasets.fingerprint_of(dataset) or len(dataset))).encode())
    return str(digest.hexdigest())
