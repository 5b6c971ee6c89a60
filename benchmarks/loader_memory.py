"""Does memory stay flat over a million samples?

Batches of 64 samples through adapter and StreamingDataLoader, without workers and with two, with a cache that evicts
all the time. The proportional set size of the whole process tree (shared pages counted once) is sampled, and its growth
after the warm-up regressed on the number of samples.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import psutil
import report

from streaming.adapter import StreamingDatasetAdapter
from streaming.core.source_config import DataSourceConfig
from streaming.loader.data_loader import StreamingDataLoader
from streaming.testing import MemorySource

BATCH = 64
OBJECTS = 2_000
OBJECT_BYTES = 2_000
CACHE_GB = 1e-3  # a quarter of the objects, so every epoch evicts


def tree_pss() -> int:
    """Return the proportional set size of this process and its children, in bytes."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(process.memory_full_info().pss for process in processes)


def batches(adapter: StreamingDatasetAdapter, workers: int) -> Iterator[int]:
    """Read batches epoch after epoch; yield their sizes."""
    loader = StreamingDataLoader(adapter, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    while True:
        for batch in loader:
            yield len(batch["idx"])


def growth(workers: int, count: int) -> dict[str, float]:
    """Return the slope of memory in bytes per sample, with its upper 95 % bound, without the first fifth."""
    source = MemorySource(DataSourceConfig("data", "memory", "memory://bench"))
    for i in range(OBJECTS):
        source.put(f"{i:05d}.npy", _npy(i))
    samples, pss, most = [], [], 0.0
    with StreamingDatasetAdapter(source, cache_size_gb=CACHE_GB) as adapter:
        seen = 0
        for at, size in enumerate(batches(adapter, workers)):
            seen += size
            if at % 25 == 0:
                stats = adapter.get_cache_stats()
                most = max(most, stats["current_size_gb"] / stats["max_size_gb"])
                if at > count // 5:
                    samples.append(seen)
                    pss.append(tree_pss())
            if at == count:
                break
    slope, bound = report.slope_with_bound(samples, pss)
    return {
        "samples": seen,
        "bytes_per_sample": slope,
        "bytes_per_sample_upper_95": bound,
        "largest_share_of_budget": most,
    }


def _npy(seed: int) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.random.default_rng(seed).standard_normal(OBJECT_BYTES // 8))
    return buffer.getvalue()


def main() -> None:
    """Run everything and print a table and one line of JSON."""
    parser = report.options(__doc__)
    parser.add_argument("--batches", type=int, default=1_000_000 // BATCH)
    arguments = parser.parse_args()
    figures: dict[str, object] = {}
    for workers in (0, 2):
        for name, value in growth(workers, arguments.batches).items():
            figures[f"workers_{workers}_{name}"] = value
    report.emit("loader_memory", figures, seed=arguments.seed)


if __name__ == "__main__":
    main()
