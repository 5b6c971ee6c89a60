"""A plain DistributedDataParallel trainer: one file has the state of model, optimizer and loader."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from streaming.adapter import StreamingDatasetAdapter
from streaming.loader.data_loader import StreamingDataLoader
from tests.trainers.received import received


def main(data: str, checkpoint: Path, batch_size: int, epochs: int, save_every: int, workers: int) -> None:
    """Train from the checkpoint, if there is one."""
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    dataset = StreamingDatasetAdapter(data)
    loader = StreamingDataLoader(dataset, batch_size, shuffle=True, num_workers=workers)
    model = DistributedDataParallel(nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        loader.load_state_dict(state["loader"])
        step = state["step"]
    for epoch in range(loader.epoch, epochs):
        for batch in loader:
            received(rank, step, epoch, batch["idx"].tolist())
            optimizer.zero_grad()
            model(batch["x"]).mean().backward()
            optimizer.step()
            step += 1
            if step % save_every == 0 and rank == 0:
                state = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                torch.save({**state, "loader": loader.state_dict()}, f"{checkpoint}.part")
                os.replace(f"{checkpoint}.part", checkpoint)
    distributed.destroy_process_group()
    dataset.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
