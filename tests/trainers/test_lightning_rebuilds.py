"""Loaders that Lightning recreates from a StreamingDataLoader read the same samples."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

from streaming.adapter import StreamingDatasetAdapter
from streaming.errors import ConfigError
from streaming.loader.data_loader import StreamingDataLoader
from streaming.order.batching import SequencePacking, TokenBudgetBatching
from tests.trainers.jobs import SAMPLES, write_samples

LENGTHS = [1 + number % 5 for number in range(SAMPLES)]


class Module(pl.LightningModule):
    """Records the samples of each step."""

    def __init__(self, make: Callable[[], Any] | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.seen: list[list[int]] = []
        self.make = make

    def _step(self, batch: Any) -> torch.Tensor:
        self.seen.append(batch["idx"].tolist())
        return self.layer(batch["x"]).mean()

    def training_step(self, batch: Any) -> torch.Tensor:
        return self._step(batch)

    def predict_step(self, batch: Any) -> torch.Tensor:
        return self._step(batch)

    def train_dataloader(self) -> Any:
        return self.make and self.make()

    def predict_dataloader(self) -> Any:
        return self.make and self.make()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-4)


@pytest.fixture
def data(tmp_path: Path) -> Iterator[StreamingDatasetAdapter]:
    with StreamingDatasetAdapter(str(write_samples(tmp_path / "data"))) as adapter:
        yield adapter


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Ignore Lightning's advice to use more workers, and its message that it turns shuffling off."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def trainer(**options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **options,
    )


def flat(packs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    samples = [sample for pack in packs for sample in pack]
    return {"idx": torch.tensor([each["idx"] for each in samples]), "x": torch.stack([each["x"] for each in samples])}


MADE: dict[str, Callable[[Any], StreamingDataLoader]] = {
    "in order": lambda data: StreamingDataLoader(data, batch_size=3, drop_last=True),
    "shuffled": lambda data: StreamingDataLoader(data, batch_size=3, shuffle=True, seed=4),
    "workers": lambda data: StreamingDataLoader(data, batch_size=3, shuffle=True, num_workers=1),
    "tokens": lambda data: StreamingDataLoader(data, batching=TokenBudgetBatching(LENGTHS, 20)),
    "packs": lambda data: StreamingDataLoader(
        data, batch_size=2, batching=SequencePacking(LENGTHS, 10), collate_fn=flat
    ),
}


@pytest.mark.parametrize("is_passed", [True, False], ids=["passed", "from a hook"])
@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_predict_reads_every_sample_in_the_loaders_order(make: Any, is_passed: bool, data: Any) -> None:
    """Every sample is read, also if the loader would drop the last ones; Lightning knows the samples of each batch."""
    expected = [sample for batch in make(data) for sample in batch["idx"].tolist()]
    if is_passed:
        module = Module()
        trainer().predict(module, make(data), return_predictions=True)
    else:
        module = Module(lambda: make(data))
        trainer().predict(module)
    seen = [sample for batch in module.seen for sample in batch]
    assert seen[: len(expected)] == expected
    assert sorted(seen) == list(range(SAMPLES))


@pytest.mark.parametrize("is_passed", [True, False], ids=["passed", "from a hook"])
@pytest.mark.parametrize("make", [MADE[name] for name in ("in order", "shuffled", "workers")])
def test_overfit_batches_repeats_the_first_samples(make: Any, is_passed: bool, data: Any) -> None:
    """They come in order, and are the same in each epoch."""
    module = Module(None if is_passed else lambda: make(data))
    trainer(overfit_batches=2, max_epochs=3).fit(module, make(data) if is_passed else None)
    assert len(module.seen) == 6
    assert module.seen == 3 * [[0, 1, 2], [3, 4, 5]]


def test_overfit_batches_is_refused_where_epochs_differ_in_their_batches(data: Any) -> None:
    """With packs the message names Lightning's setting and what to do; Lightning itself refuses batches by tokens."""
    with pytest.raises(ConfigError, match=r"limit_train_batches instead of overfit_batches"):
        trainer(overfit_batches=2, max_epochs=1).fit(Module(), MADE["packs"](data))
    with pytest.raises(TypeError, match="batch sampler"):
        trainer(overfit_batches=2, max_epochs=1).fit(Module(), MADE["tokens"](data))


def test_limited_epochs_are_the_beginnings_of_different_ones(data: Any) -> None:
    """`limit_train_batches` trains on different batches in each epoch."""
    loader = StreamingDataLoader(data, 2, shuffle=True)
    whole = [[batch["idx"].tolist() for batch in loader] for _ in range(3)]
    module = Module()
    trainer(limit_train_batches=2, max_epochs=3).fit(module, StreamingDataLoader(data, 2, shuffle=True))
    assert module.seen == [batch for epoch in whole for batch in epoch[:2]]


def test_fabric_sets_the_epochs_of_its_process(data: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Passes follow each other, also after an early exit; a dropped state is reported."""
    whole = [[batch["idx"].tolist() for batch in loader] for loader in 3 * [StreamingDataLoader(data, 4, shuffle=True)]]
    fabric = Fabric(accelerator="cpu", devices=1)
    ours = StreamingDataLoader(data, 4, shuffle=True)
    loader = fabric.setup_dataloaders(ours)
    for epoch in range(3):
        assert [batch["idx"].tolist() for batch in islice(loader, 2)] == whole[epoch][:2]
    assert caplog.records == []
    state = ours.state_dict()
    again = StreamingDataLoader(data, 4, shuffle=True)
    again.load_state_dict(state)
    next(iter(fabric.setup_dataloaders(again)))
    assert "state_dropped" in caplog.text


def test_what_cannot_be_taken_names_the_setting(data: Any) -> None:
    """Lightning's own sampler, from releases that do not recognize ours as distributed, is an error."""
    from lightning.fabric.utilities.distributed import DistributedSamplerWrapper

    theirs = DistributedSamplerWrapper(RandomSampler(data), num_replicas=2, rank=0)
    with pytest.raises(ConfigError, match="use_distributed_sampler=False"):
        StreamingDataLoader(data, 2, sampler=theirs)
    with pytest.raises(ConfigError, match="leave it out"):
        StreamingDataLoader(data, 2, sampler=RandomSampler(data))
    assert isinstance(DataLoader(data, 2, sampler=theirs), DataLoader)
