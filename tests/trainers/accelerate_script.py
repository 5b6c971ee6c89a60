"""A trainer on Accelerate, with gradients accumulated over several batches.

The kind of loader: `ours` is a StreamingDataLoader; `theirs` a StatefulDataLoader over a StreamingSampler, which
Accelerate divides among the ranks.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader

from streaming.adapter import StreamingDatasetAdapter
from streaming.loader.data_loader import StreamingDataLoader
from streaming.loader.sampler import StreamingSampler
from tests.trainers.received import received


def loader_of(kind: str, dataset: Any, batch_size: int, workers: int, accelerator: Accelerator) -> Any:
    """The loader, before `prepare`."""
    if kind == "ours":
        return StreamingDataLoader(dataset, batch_size, shuffle=True, num_workers=workers, device=accelerator.device)
    sampler = StreamingSampler(dataset, rank=0, world_size=1)
    return StatefulDataLoader(dataset, batch_size, sampler=sampler, num_workers=workers)


def main(kind: str, data: str, folder: Path, batch_size: int, epochs: int, save_every: int, workers: int) -> None:
    """Train from the last checkpoint, where there is one."""
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=4,
        dataloader_config=DataLoaderConfiguration(use_stateful_dataloader=True),
    )
    dataset = StreamingDatasetAdapter(data)
    model = nn.Linear(4, 1)
    model, optimizer, loader = accelerator.prepare(
        model,
        torch.optim.SGD(model.parameters(), 1e-4),
        loader_of(kind, dataset, batch_size, workers, accelerator),
    )
    step = first_epoch = 0
    if checkpoints := sorted(folder.glob("step-*")):
        accelerator.load_state(str(checkpoints[-1]))
        run = torch.load(checkpoints[-1] / "run.pt")
        step, first_epoch = run["step"], run["epoch"]
    for epoch in range(first_epoch, epochs):
        loader.set_epoch(epoch)
        for batch in loader:
            received(accelerator.process_index, step, epoch, batch["idx"].tolist())
            with accelerator.accumulate(model):
                accelerator.backward(model(batch["x"]).mean())
                optimizer.step()
                optimizer.zero_grad()
            step += 1
            is_last = accelerator.gradient_state.end_of_dataloader
            assert accelerator.sync_gradients == (is_last or accelerator.step % 4 == 0)
            assert is_last == (step % len(loader) == 0)
            if step % save_every == 0:
                save(accelerator, folder, {"step": step, "epoch": epoch + is_last})
    dataset.close()
    accelerator.end_training()


def save(accelerator: Accelerator, folder: Path, run: dict[str, int]) -> None:
    """Write a checkpoint, which has its name when it is whole."""
    part = folder / "part"
    accelerator.save_state(str(part))
    if accelerator.is_main_process:
        torch.save(run, part / "run.pt")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        os.replace(part, folder / f"step-{run['step']:06d}")
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *map(int, sys.argv[4:]))
