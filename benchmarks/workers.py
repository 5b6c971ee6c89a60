"""How fast are cache hits in DataLoader workers vs. plain torch over samples in a list?

Two workers, fork and spawn, 20 kB and 2.6 MB samples, everything cached. Fetches are counted at the source: one per
object over all workers and epochs.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import report
import torch
from torch.utils.data import DataLoader, Dataset

from streaming.adapter import StreamingDatasetAdapter
from streaming.core.source_config import DataSourceConfig
from streaming.testing import MemorySource

CASES = {"20kB": ((16, 8, 40), 512, 64), "2.6MB": ((16, 16, 64, 40), 64, 8)}
EPOCHS = 12


class ListDataset(Dataset[Any]):
    """The same samples in a list."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


def rate_of(dataset: Dataset[Any], batch_size: int, method: str | None, workers: int) -> float:
    """Return the samples per second over `EPOCHS` epochs with persistent workers, after one epoch of warm-up."""
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        multiprocessing_context=method,
        persistent_workers=workers > 0,
    )
    for _ in loader:
        pass
    started = time.perf_counter()
    count = sum(len(batch["idx"]) for _ in range(EPOCHS) for batch in loader)
    return count / (time.perf_counter() - started)


def main() -> None:
    """Run everything and print a table and one line of JSON."""
    parser = report.options(__doc__, repeats=5)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    figures: dict[str, object] = {}
    for size, (shape, count, batch_size) in CASES.items():
        samples = [{"data": {"latents": torch.randn(shape)}, "idx": i} for i in range(count)]
        source = MemorySource(DataSourceConfig("data", "memory", "memory://bench"))
        for i, sample in enumerate(samples):
            buffer = io.BytesIO()
            torch.save(sample["data"], buffer)
            source.put(f"{i:05d}.pt", buffer.getvalue())
        plain = ListDataset(samples)
        with StreamingDatasetAdapter(source) as adapter:
            for method, workers in (("fork", 2), ("spawn", 2), (None, 0)):
                runs: dict[str, Callable[[], float]] = {
                    "list": partial(rate_of, plain, batch_size, method, workers),
                    "adapter": partial(rate_of, adapter, batch_size, method, workers),
                }
                rates = report.interleaved(arguments.repeats, runs)
                name = f"{size}_{method or 'no_workers'}"
                figures[f"{name}_adapter_over_list"] = report.ratio(rates["adapter"], rates["list"])
                figures[f"{name}_samples_per_second"] = {key: report.median(values) for key, values in rates.items()}
            reads = adapter.get_cache_stats()["fetched_objects"]
        figures[f"{size}_fetches_per_object"] = sum(source.reads.values()) / count
        assert reads == count, f"{reads} fetches for {count} objects"
    report.emit("workers", figures, seed=arguments.seed)


if __name__ == "__main__":
    main()
