"""What is the accelerator utilization, as MLPerf Storage defines it (time needed / time taken)?

Two workloads with simulated steps, over a source with 30 ms latency, and a cache for half of the samples: ResNet-50
(400 raw objects of 115 kB in each 0.224 s step) and latents (8 of 2.6 MB in each 0.25 s step). The second epoch is
measured. The comparison is a plain torch DataLoader with two workers, whose data set reads one object at a time from
the same source.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
import report
import torch
from steps import Epochs, Steps, distant, take_steps
from torch.utils.data import DataLoader, Dataset

from streaming.adapter import StreamingDatasetAdapter

LATENCY_S = 0.030
PLAIN_STEPS = 4
PLAIN_WORKERS = 2
FRACTION = 0.5


@dataclass(frozen=True)
class Workload:
    """Size of the objects in bytes, objects per batch, seconds per step, and steps per epoch.

    The data sets are as small as possible: the read-ahead window, 1.5 % of the cache, must hold the misses of a batch.
    """

    nbytes: int
    batch: int
    step_s: float
    epoch: int


WORKLOADS = {"resnet50": Workload(115_000, 400, 0.224, 133), "latents": Workload(2_600_000, 8, 0.250, 266)}


class Plain(Dataset[torch.Tensor]):
    """A data set that reads one object at a time, as without a streaming loader."""

    def __init__(self, count: int, work: Workload) -> None:
        self._count = count
        self._work = work
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> torch.Tensor:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._source, _ = distant(self._count, self._work.nbytes, LATENCY_S)
        blob = self._loop.run_until_complete(self._source.read(f"{index:07d}.bin"))
        return torch.frombuffer(bytearray(blob.data), dtype=torch.uint8)


def plain(work: Workload, samples: int, seed: int) -> Steps:
    """Take a few steps with a plain torch DataLoader."""
    loader = DataLoader(Plain(samples, work), work.batch, sampler=Epochs(samples, seed), num_workers=PLAIN_WORKERS)
    return take_steps(loader, work.step_s, PLAIN_STEPS)


def streamed(work: Workload, samples: int, most: int, workers: int, seed: int) -> tuple[Steps, float]:
    """Return the steps of the second epoch, and the hit rate."""
    source, _ = distant(samples, work.nbytes, LATENCY_S)
    budget = FRACTION * samples * (work.nbytes + 1_000)
    with StreamingDatasetAdapter(source, cache_size_gb=budget / 1e9) as adapter:
        sampler = adapter.look_ahead(Epochs(samples, seed))
        loader = DataLoader(
            adapter, work.batch, sampler=sampler, num_workers=workers, collate_fn=stack, persistent_workers=workers > 0
        )
        for _ in loader:
            pass
        adapter.reset_metrics()
        steps = take_steps(loader, work.step_s, most)
        return steps, adapter.get_cache_stats()["hit_rate"]


def stack(samples: list[dict[str, Any]]) -> torch.Tensor:
    """Stack the raw objects of a batch, uint8 [batch, bytes]."""
    batch = np.empty((len(samples), len(samples[0]["data"])), np.uint8)
    for row, sample in zip(batch, samples, strict=True):
        row[:] = np.frombuffer(sample["data"], np.uint8)
    return torch.from_numpy(batch)


def main() -> None:
    """Run everything and print a table and one line of JSON."""
    parser = report.options(__doc__, repeats=3)
    parser.add_argument("--steps", type=int, default=100, help="steps of the second epoch to measure")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[list[object]] = [["workload", "utilization", "min", "plain DataLoader", "hit rate"]]
    figures: dict[str, Any] = {"latency_s": LATENCY_S, "fraction": FRACTION}
    for name in arguments.workloads:
        work = WORKLOADS[name]
        samples = work.epoch * work.batch
        uses, plains, hits = [], [], []
        for repeat in range(arguments.repeats):
            seed = arguments.seed + repeat
            steps, hit_rate = streamed(work, samples, arguments.steps, arguments.workers, seed)
            uses.append(steps.use)
            hits.append(hit_rate)
            plains.append(plain(work, samples, seed).use)
        rows.append([name, report.median(uses), min(uses), report.median(plains), report.median(hits)])
        figures[f"{name}_use"] = report.spread(uses)
        figures[f"{name}_plain_use"] = report.spread(plains)
        figures[f"{name}_hit_rate"] = report.spread(hits)
    report.table("Accelerator utilization", rows)
    report.emit("accelerator_use", figures, seed=arguments.seed)


if __name__ == "__main__":
    main()
