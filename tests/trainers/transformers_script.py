"""A Hugging Face Trainer whose checkpoints have the state of the loader."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState

from streaming.adapter import StreamingDatasetAdapter
from streaming.loader.data_loader import StreamingDataLoader
from tests.trainers.received import received


class LoaderState(TrainerCallback, ExportableState):
    """Keep the state of a loader in `trainer_state.json`."""

    def __init__(self, loader: StreamingDataLoader) -> None:
        self.loader = loader

    def state(self) -> dict[str, Any]:
        """Return the state of the loader for a checkpoint."""
        return {"args": {}, "attributes": {"loader": self.loader.state_dict()}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Resume from the checkpoint, if there is one."""
        if state.global_step:
            self.loader.load_state_dict(state.stateful_callbacks["LoaderState"]["attributes"]["loader"])


class StreamingTrainer(Trainer):
    """A trainer that uses an existing loader."""

    def __init__(self, loader: StreamingDataLoader, **options: Any) -> None:
        super().__init__(train_dataset=loader.dataset, callbacks=[LoaderState(loader)], **options)
        self.loader = loader

    def get_train_dataloader(self) -> StreamingDataLoader:
        """Return the loader unchanged."""
        return self.loader

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *more: Any) -> torch.Tensor:
        """Report the batch of the step."""
        epoch = self.state.global_step // len(self.loader)
        received(self.args.process_index, self.state.global_step, epoch, inputs["idx"].tolist())
        return super().training_step(model, inputs, *more)


class Model(nn.Module):
    """A linear model."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor, **others: Any) -> dict[str, torch.Tensor]:
        """Return the loss."""
        return {"loss": self.layer(x).mean()}


def main(data: str, folder: Path, batch_size: int, epochs: int, save_every: int) -> None:
    """Train from the last checkpoint, if there is one."""
    arguments = TrainingArguments(
        str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        save_strategy="steps",
        save_steps=save_every,
        ignore_data_skip=True,
        remove_unused_columns=False,
        use_cpu=True,
        ddp_backend="gloo",
        report_to="none",
        disable_tqdm=True,
    )
    dataset = StreamingDatasetAdapter(data)
    loader = StreamingDataLoader(dataset, batch_size, shuffle=True)
    trainer = StreamingTrainer(loader, model=Model(), args=arguments)
    whole = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").exists()]
    last = max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    dataset.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
