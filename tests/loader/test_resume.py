"""A run that is cut anywhere, and resumed with other ranks, batches and workers, equals the run that was not cut.

Each cut goes through 1, 2, 3 and 1 ranks, from one state to the next, and resumes a second time right after the first.
The seed of the cuts stands in the first lines that pytest prints; `STREAMING_CUTS_SEED` gives it back.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest

from streaming.adapter import StreamingDatasetAdapter
from streaming.loader.data_loader import StreamingDataLoader
from streaming.loader.mixed_dataset import MixedDataset
from streaming.order.batching import SequencePacking, TokenBudgetBatching
from streaming.testing import MemorySource

SEED = os.environ["STREAMING_CUTS_SEED"]
WORLDS = (1, 2, 3, 1)
CUTS_EACH = 25
KINDS = ("shuffle", "sequence", "mixture", "packs", "tokens")
COUNT = 97
LENGTHS = np.random.default_rng(0).integers(1, 30, COUNT)


def as_units(items: list[Any]) -> list[list[int]]:
    """The samples of each unit of a batch: of a sample itself, of a pack its own."""
    return [[sample["idx"] for sample in item] if isinstance(item, list) else [item["idx"]] for item in items]


def as_one_unit(items: list[Any]) -> list[list[int]]:
    return [[item["idx"] for item in items]]


def dataset_of(kind: str) -> Any:
    """Some samples of which are damaged and replaced, except in the mixture's first stream."""
    if kind == "mixture":
        streams = {name: adapter_of(name, count) for name, count in (("a", 41), ("b", 23), ("c", 7))}
        return MixedDataset(streams, weights={"a": 0.5, "b": 0.2, "c": 0.3}, seed=3)
    return adapter_of("data", COUNT)


def adapter_of(name: str, count: int) -> StreamingDatasetAdapter:
    damaged = set(range(5, count, 11)) if name != "a" else set()
    objects = {f"{number:03d}.json": b"{" if number in damaged else b"[1]" for number in range(count)}
    return StreamingDatasetAdapter(MemorySource(name, objects), on_error="replace", max_bad_share=0.5)


def loader_of(kind: str, dataset: Any, batch_size: int, rank: int, world: int, **options: Any) -> StreamingDataLoader:
    if kind == "tokens":
        options |= {"batching": TokenBudgetBatching(LENGTHS, 90, window=40)}
    elif kind == "packs":
        options |= {"batching": SequencePacking(LENGTHS, 40, window=40), "batch_size": batch_size}
    else:
        options |= {"batch_size": batch_size}
    collate = as_one_unit if kind == "tokens" else as_units
    seeded: dict[str, Any] = {} if kind == "mixture" else {"seed": 3, "shuffle": kind != "sequence"}
    return StreamingDataLoader(dataset, rank=rank, world_size=world, collate_fn=collate, **seeded, **options)


def endless(loaders: list[StreamingDataLoader]) -> Iterator[tuple[int, list[list[list[int]]]]]:
    """Step by step what each rank gets, epoch after epoch, with the epoch."""
    while True:
        epoch = loaders[0].state_dict()["epoch"]
        for batches in zip(*loaders, strict=True):
            yield epoch, list(batches)


def interleaved(batches: Sequence[list[list[int]]]) -> list[list[int]]:
    """The units of a step in the global order."""
    return [unit for units in zip(*batches, strict=True) for unit in units]


class Uncut:
    """The same run by one rank, unit by unit, without an interruption."""

    def __init__(self, kind: str, dataset: Any) -> None:
        self._steps = endless([loader_of(kind, dataset, 1, 0, 1)])
        self._epochs: dict[int, list[list[int]]] = {}

    def epoch(self, number: int) -> list[list[int]]:
        while number + 1 not in self._epochs:
            epoch, batches = next(self._steps)
            self._epochs.setdefault(epoch, []).extend(interleaved(batches))
        return self._epochs[number]


def cut_run(kind: str, dataset: Any, chance: random.Random, most: int, **options: Any) -> dict[int, list[list[int]]]:
    """Return by epoch what the trainers received in a run cut after at most `most` steps of each world size."""
    found: dict[int, list[list[int]]] = {}
    state = ""
    for world in WORLDS:
        size = chance.randint(1, 9)
        loaders = [loader_of(kind, dataset, size, rank, world, **options) for rank in range(world)]
        for loader in loaders if state else ():
            loader.load_state_dict(state)
            again = loader.state_dict()
            loader.load_state_dict(again)  # a second resume, right after the first
            assert loader.state_dict() == json.loads(state)
        for epoch, batches in islice(endless(loaders), chance.randint(0, most)):
            found.setdefault(epoch, []).extend(interleaved(batches))
        states = [loader.state_dict() for loader in loaders]
        assert all(each == states[0] for each in states)
        state = json.dumps(states[0])
    return found


def check(found: dict[int, list[list[int]]], uncut: Uncut) -> None:
    """Each epoch is the uncut one up to where the run came, but for units that fill up its last step."""
    for number, units in found.items():
        whole = uncut.epoch(number)
        assert units[: len(whole)] == whole[: len(units)]
        assert units[len(whole) :] == whole[: max(len(units) - len(whole), 0)]
    for number in list(found)[:-1]:
        assert len(found[number]) >= len(uncut.epoch(number))


@pytest.mark.parametrize("part", range(8))
@pytest.mark.parametrize("kind", KINDS)
def test_random_cuts(kind: str, part: int) -> None:
    """A thousand runs in all, cut at random places: order and multiset are those of the run that was not cut."""
    dataset = dataset_of(kind)
    uncut = Uncut(kind, dataset)
    chance = random.Random(f"{SEED} {kind} {part}")
    for _ in range(CUTS_EACH):
        check(cut_run(kind, dataset, chance, 12), uncut)
    dataset.close()


def limited_run(kind: str, dataset: Any, chance: random.Random, **options: Any) -> dict[int, list[list[int]]]:
    """Return by epoch what the trainers received that leave their passes early and are cut in or after one."""
    found: dict[int, list[list[int]]] = {}
    epoch, state = 0, ""
    for world in WORLDS:
        size = chance.randint(1, 9)
        loaders = [loader_of(kind, dataset, size, rank, world, **options) for rank in range(world)]
        for loader in loaders if state else ():
            loader.load_state_dict(state)
        for is_cut in [False] * chance.randint(0, 2) + [chance.random() < 0.5]:
            for loader in loaders:
                loader.set_epoch(epoch)
            received = found.setdefault(epoch, [])
            for batches in islice(zip(*loaders, strict=True), chance.randint(0, 5)):
                received.extend(interleaved(batches))
            epoch += not is_cut or loaders[0].epoch > epoch
        states = [loader.state_dict() for loader in loaders]
        assert all(each == states[0] for each in states)
        state = json.dumps(states[0])
    return found


@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_random_cuts_of_runs_that_leave_their_passes(kind: str, part: int) -> None:
    """250 in all: each epoch is the beginning of the uncut one, whether a run is cut in a pass or after it was left."""
    dataset = dataset_of(kind)
    uncut = Uncut(kind, dataset)
    chance = random.Random(f"{SEED} {kind} {part} left")
    for _ in range(CUTS_EACH):
        for number, units in limited_run(kind, dataset, chance).items():
            whole = uncut.epoch(number)
            assert units == [*whole, *whole][: len(units)]
            assert len(units) <= len(whole) + max(WORLDS)
    dataset.close()


@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_random_cuts_with_workers(kind: str, part: int) -> None:
    """Fifty in all with two worker processes on each rank, which are ahead of the trainer when it is cut."""
    dataset = dataset_of(kind)
    uncut = Uncut(kind, dataset)
    chance = random.Random(f"{SEED} {kind} {part} workers")
    for _ in range(5):
        check(cut_run(kind, dataset, chance, 5, num_workers=2), uncut)
    dataset.close()
