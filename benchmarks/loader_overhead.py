"""How much overhead does the known order add if all data is in memory?

The same data set, in torch's DataLoader with `shuffle=True` and in StreamingDataLoader, batches of 64, without workers
and with two. Ratio of the rates of adjacent runs, and the microseconds added to each batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import report
import torch
from torch.utils.data import DataLoader, Dataset

from streaming.loader.data_loader import StreamingDataLoader

BATCH = 64
BATCHES = 1_500
WARM_UP = 50


class Numbers(Dataset[dict[str, torch.Tensor]]):
    """Precomputed samples of a tensor and a label."""

    def __init__(self, count: int) -> None:
        self.x = torch.arange(count * 16, dtype=torch.float32).reshape(count, 16)
        self.y = torch.arange(count)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[index], "y": self.y[index]}


def seconds_per_batch(loader: DataLoader[Any]) -> float:
    """Return the seconds per batch over an epoch, after the workers have started."""
    iterator = iter(loader)
    for _ in range(WARM_UP):
        next(iterator)
    started = time.perf_counter()
    count = sum(1 for _ in iterator)
    return (time.perf_counter() - started) / count


def main() -> None:
    """Run everything and print a table and one line of JSON."""
    arguments = report.options(__doc__, repeats=9).parse_args()
    data = Numbers(BATCH * BATCHES)
    runs: dict[str, Callable[[], float]] = {}
    for workers in (0, 2):
        torchs = DataLoader(data, BATCH, shuffle=True, num_workers=workers)
        ours = StreamingDataLoader(data, BATCH, shuffle=True, num_workers=workers, seed=arguments.seed)
        runs[f"torch {workers}"] = partial(seconds_per_batch, torchs)
        runs[f"streaming {workers}"] = partial(seconds_per_batch, ours)
    found = report.interleaved(arguments.repeats, runs)
    figures, rows = {}, [["workers", "ratio of rates", "min", "max", "us added to a batch"]]
    for workers in (0, 2):
        torchs_s, ours_s = found[f"torch {workers}"], found[f"streaming {workers}"]
        added = report.spread([1e6 * (ours - theirs) for ours, theirs in zip(ours_s, torchs_s, strict=True)])
        ratio = report.ratio(torchs_s, ours_s)
        each = {name: report.spread([1e6 * s for s in found[f"{name} {workers}"]]) for name in ("torch", "streaming")}
        figures[f"{workers} workers"] = {"ratio": ratio, "added_us": added, **{f"{k}_us": v for k, v in each.items()}}
        rows.append([str(workers), *(ratio[key] for key in ("median", "min", "max")), added["median"]])
    report.table(f"{BATCHES} batches of {BATCH} from memory", rows)
    report.emit("loader_overhead", figures, seed=arguments.seed)


if __name__ == "__main__":
    main()
