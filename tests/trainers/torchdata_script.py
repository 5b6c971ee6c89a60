"""A trainer on torchdata's StatefulDataLoader, over a StreamingSampler."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader

from streaming.adapter import StreamingDatasetAdapter
from streaming.loader.sampler import StreamingSampler
from tests.trainers.received import received


def main(data: str, checkpoint: Path, batch_size: int, epochs: int, save_every: int, workers: int, at_end: int) -> None:
    """Train from the checkpoint, if there is one; with `at_end`, also write it between two epochs."""
    dataset = StreamingDatasetAdapter(data)
    loader = StatefulDataLoader(dataset, batch_size, sampler=StreamingSampler(dataset), num_workers=workers)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        loader.load_state_dict(state["loader"])
        step = state["step"]

    def save() -> None:
        state = {"model": model.state_dict(), "loader": loader.state_dict(), "step": step}
        torch.save(state, f"{checkpoint}.part")
        os.replace(f"{checkpoint}.part", checkpoint)

    for epoch in range(step // len(loader), epochs):
        for batch in loader:
            received(0, step, epoch, batch["idx"].tolist())
            optimizer.zero_grad()
            model(batch["x"]).mean().backward()
            optimizer.step()
            step += 1
            if step % save_every == 0:
                save()
        if at_end:
            save()
    dataset.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
