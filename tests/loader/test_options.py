"""Each argument of torch's DataLoader: a StreamingDataLoader honours it, or says why not."""

from __future__ import annotations

import inspect
import threading
from itertools import islice
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler, get_worker_info

from streaming.errors import ConfigError
from streaming.loader.data_loader import StreamingDataLoader

COUNT = 24
DATA = torch.arange(COUNT)


class Workers(Dataset[int]):
    """Each sample is what tells the worker that read it."""

    def __init__(self) -> None:
        self.mark = 0

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> int:
        worker = get_worker_info()
        return self.mark if worker is None else worker.dataset.mark  # type: ignore[attr-defined]


class Stuck(Dataset[int]):
    """The read of sample 8 and later does not come back."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> int:
        if index >= 8:
            threading.Event().wait()
        return index


class Endless(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(COUNT))


def mark(worker: int) -> None:
    get_worker_info().dataset.mark = worker + 1  # type: ignore[union-attr]


def doubled(samples: list[torch.Tensor]) -> torch.Tensor:
    return 2 * torch.stack(samples)


def loader_of(data: Any = DATA, batch_size: int | None = 4, **options: Any) -> StreamingDataLoader:
    return StreamingDataLoader(data, batch_size, rank=0, world_size=1, **options)


def resumed(loader: StreamingDataLoader, **options: Any) -> list[Any]:
    """The batches of a run that is cut after two of them and goes on in another loader."""
    head = list(islice(loader, 2))
    rest = loader_of(**options)
    rest.load_state_dict(loader.state_dict())
    return [batch.tolist() for batch in [*head, *rest]]


EXPECTED = DATA.reshape(-1, 4).tolist()
HONOURED: dict[str, dict[str, Any]] = {
    "shuffle": {"shuffle": None},
    "num_workers": {"num_workers": 2},
    "collate_fn": {"collate_fn": torch.stack},
    "pin_memory": {"pin_memory": False},
    "drop_last": {"drop_last": True},
    "timeout": {"num_workers": 1, "timeout": 60},
    "worker_init_fn": {"num_workers": 1, "worker_init_fn": print},
    "multiprocessing_context": {"num_workers": 1, "multiprocessing_context": "fork"},
    "prefetch_factor": {"num_workers": 1, "prefetch_factor": 3},
    "persistent_workers": {"num_workers": 1, "persistent_workers": True},
    "pin_memory_device": {"pin_memory_device": ""},
    "in_order": {"in_order": True},
    "generator": {"generator": None},
    "sampler": {"sampler": SequentialSampler(DATA)},
    "batch_sampler": {"batch_sampler": None},
}
GIVEN_ALWAYS = {"self", "dataset", "batch_size"}


def test_every_argument_of_torchs_loader_is_tested_here() -> None:
    """A release of torch with a new one has to be looked at."""
    assert set(inspect.signature(DataLoader.__init__).parameters) <= HONOURED.keys() | GIVEN_ALWAYS


@pytest.mark.parametrize("options", HONOURED.values(), ids=HONOURED)
def test_a_run_that_is_cut_is_the_whole_run_with_each_argument(options: dict[str, Any]) -> None:
    """Samples, order and resume are the same."""
    known = inspect.signature(DataLoader.__init__).parameters
    options = {name: value for name, value in options.items() if name in known}
    assert resumed(loader_of(**options), **options) == EXPECTED


def test_functions_of_the_user_run() -> None:
    """`collate_fn` makes the batches and `worker_init_fn` prepares each worker."""
    assert [batch.tolist() for batch in loader_of(collate_fn=doubled)] == (2 * DATA).reshape(-1, 4).tolist()
    batches = list(loader_of(Workers(), num_workers=2, worker_init_fn=mark))
    assert torch.cat(batches).tolist() == 3 * [*4 * [1], *4 * [2]]


def test_a_batch_that_does_not_come_in_time_is_not_counted() -> None:
    """`timeout` ends the wait; the state is that before the batch."""
    loader = loader_of(Stuck(), num_workers=1, timeout=5, prefetch_factor=1)
    batches = iter(loader)
    assert [next(batches).tolist() for _ in range(2)] == EXPECTED[:2]
    with pytest.raises(RuntimeError, match="timed out after 5 seconds"):
        next(batches)
    assert loader.state_dict()["position"] == 8


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "in_order": ("in_order=False returns batches out of order.*repeat some and lose others", {"in_order": False}),
    "generator": ("use seed=", {"generator": torch.Generator()}),
    "sampler": ("leave it out", {"sampler": [1, 2]}),
    "batch_sampler": ("leave it out", {"batch_sampler": [[1, 2]]}),
    "dataset": ("IterableDataset", {"data": Endless()}),
}


@pytest.mark.parametrize(("told", "options"), REFUSED.values(), ids=REFUSED)
def test_what_would_break_a_promise_is_refused_with_the_reason(told: str, options: dict[str, Any]) -> None:
    """At construction, before anything is read."""
    with pytest.raises(ConfigError, match=told):
        loader_of(**options)


def test_what_torch_refuses_is_refused_as_by_torch() -> None:
    """Arguments that need workers, and names that it does not know."""
    for options in ({"prefetch_factor": 2}, {"persistent_workers": True}, {"timeout": -1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            loader_of(**options)
    with pytest.raises(TypeError, match="colate_fn"):
        loader_of(colate_fn=list)
