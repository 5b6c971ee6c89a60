"""A trainer whose loader Accelerate splits between the ranks, over a sampler that reads ahead."""

from __future__ import annotations

import json
import sys

from accelerate import Accelerator
from torch.utils.data import DataLoader, RandomSampler

from streaming.adapter import StreamingDatasetAdapter
from tests.trainers.received import received


def main(data: str, batch_size: int) -> None:
    """Read one epoch, and write to stderr what this rank fetched."""
    accelerator = Accelerator(cpu=True)
    with StreamingDatasetAdapter(data) as dataset:
        loader = DataLoader(dataset, batch_size, sampler=dataset.look_ahead(RandomSampler(dataset)))
        for step, batch in enumerate(accelerator.prepare_data_loader(loader)):
            received(accelerator.process_index, step, 0, batch["idx"].tolist())
        fetched = dataset.get_cache_stats()["fetched_samples"]
        sys.stderr.write(f"fetched {json.dumps(fetched)}\n")
        sys.stderr.flush()
        accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
