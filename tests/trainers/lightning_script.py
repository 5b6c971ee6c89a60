"""A LightningModule on two processes that Lightning starts, with a checkpoint every few steps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from streaming.adapter import StreamingDatasetAdapter
from streaming.loader.data_loader import StreamingDataLoader
from tests.trainers.received import received


class Data(pl.LightningDataModule):
    """The data; each checkpoint has the state of the loader."""

    def __init__(self, data: str, batch_size: int) -> None:
        super().__init__()
        self.data, self.batch_size = data, batch_size
        self.state: dict[str, Any] | None = None

    def train_dataloader(self) -> StreamingDataLoader:
        """Make the loader here, after the process group was created."""
        self.loader = StreamingDataLoader(StreamingDatasetAdapter(self.data), self.batch_size, shuffle=True)
        if self.state is not None:
            self.loader.load_state_dict(self.state)
        return self.loader

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the loader for the checkpoint."""
        return self.loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state from the checkpoint; called before `train_dataloader`."""
        self.state = state_dict


class Module(pl.LightningModule):
    """A linear model."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        """A step of gradient descent."""
        received(self.global_rank, self.global_step, self.current_epoch, batch["idx"].tolist())
        return self.layer(batch["x"]).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimizer."""
        return torch.optim.SGD(self.parameters(), 1e-4)


def main(data: str, folder: Path, batch_size: int, epochs: int, save_every: int, limit: int = 0) -> None:
    """Train from the last checkpoint, if there is one; with a limit, on that many batches of each epoch."""
    checkpoints = sorted(folder.glob("*.ckpt"))
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=epochs,
        limit_train_batches=limit or 1.0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, "{step:06d}", every_n_train_steps=save_every, save_top_k=-1)],
    )
    trainer.fit(Module(), datamodule=Data(data, batch_size), ckpt_path=checkpoints[-1] if checkpoints else None)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
