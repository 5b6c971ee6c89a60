"""A LightningModule on two processes that Lightning spawns or forks, which share an adapter created before."""

from __future__ import annotations

import sys

import lightning.pytorch as pl

from streaming.adapter import StreamingDatasetAdapter
from streaming.loader.data_loader import StreamingDataLoader
from tests.trainers.lightning_script import Module


class Data(pl.LightningDataModule):
    """An adapter from the process that starts the ranks; each rank creates a loader over it."""

    def __init__(self, adapter: StreamingDatasetAdapter, batch_size: int, workers: int) -> None:
        super().__init__()
        self.adapter, self.batch_size, self.workers = adapter, batch_size, workers

    def train_dataloader(self) -> StreamingDataLoader:
        """Create the loader here, after the process group was created."""
        return StreamingDataLoader(
            self.adapter,
            self.batch_size,
            shuffle=True,
            num_workers=self.workers,
            multiprocessing_context="fork" if self.workers else None,
        )


def main(data: str, strategy: str, batch_size: int, epochs: int, workers: int) -> None:
    """Train, and check that every object was fetched once for all ranks, in this process."""
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_epochs=epochs,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with StreamingDatasetAdapter(data) as adapter:
        trainer.fit(Module(), datamodule=Data(adapter, batch_size, workers))
        stats = adapter.get_cache_stats()
        assert stats["fetched_samples"] == len(adapter), stats


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
