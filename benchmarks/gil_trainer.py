"""Does a trainer that holds the interpreter lock (GIL) get its samples as fast as an idle one?

Each step reads a batch over HTTP from nginx on loopback, every object for the first time, and then takes 50 ms: in pure
Python (a counted loop, calibrated once), or asleep, which releases the lock. torch's DataLoader without workers, over
`look_ahead`; the owner is a thread or a process. `alone` is the same loop of pure Python without data, the limit of the
machine. The first steps of each run, in which the read-ahead fills up, are not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import report
import torch
from servers import at, nginx
from torch.utils.data import DataLoader

from streaming.adapter import StreamingDatasetAdapter

WARM_STEPS = 5


def count_to(number: int) -> None:
    """Hold the lock with a loop of pure Python."""
    for _ in range(number):
        pass


def calibrated(seconds: float) -> int:
    """Return how far `count_to` counts in that time on an idle machine."""
    number = 1_000_000
    times = []
    for _ in range(60):
        started = time.perf_counter()
        count_to(number)
        times.append(time.perf_counter() - started)
    return round(number * seconds / min(times))


def rate_of(url: str, batch: int, owner: str, step: Callable[[], None]) -> dict[str, float]:
    """Return the samples per second, and the share of time that the trainer waited."""
    waited, counted, started = 0.0, 0, 0.0
    with StreamingDatasetAdapter(at(url), owner=owner, cache_size_gb=0.5) as adapter:
        sampler = adapter.look_ahead(range(len(adapter)))
        batches = iter(DataLoader(adapter, batch, sampler=sampler, drop_last=True, collate_fn=len))
        for number in range(len(adapter) // batch):
            if number == WARM_STEPS:
                waited, counted, started = 0.0, 0, time.perf_counter()
            asked = time.perf_counter()
            counted += next(batches)
            waited += time.perf_counter() - asked
            step()
        seconds = time.perf_counter() - started
    return {"rate": counted / seconds, "waited": waited / seconds}


def rate_alone(steps: int, batch: int, step: Callable[[], None]) -> dict[str, float]:
    """Return the rate of a trainer that reads no samples."""
    started = time.perf_counter()
    for _ in range(steps):
        step()
    return {"rate": steps * batch / (time.perf_counter() - started), "waited": 0.0}


def main() -> None:
    """Run everything and print a table and one line of JSON."""
    parser = report.options(__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--bytes", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--step-ms", type=float, default=50.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seconds, batch = arguments.step_ms / 1e3, arguments.batch
    busy = partial(count_to, calibrated(seconds))
    steps = {"busy": busy, "idle": partial(time.sleep, seconds)}
    measured: dict[str, list[dict[str, float]]] = {}
    with nginx((arguments.steps + WARM_STEPS) * batch, arguments.bytes, arguments.seed) as url:
        runs: dict[str, Callable[[], Any]] = {
            f"{owner}_{name}": partial(rate_of, url, batch, owner, step)
            for owner in ("process", "thread")
            for name, step in steps.items()
        }
        runs["alone"] = partial(rate_alone, arguments.steps, batch, busy)
        measured = report.interleaved(arguments.repeats, runs)  # type: ignore[assignment]
    rates = {name: [run["rate"] for run in found] for name, found in measured.items()}
    rows: list[list[object]] = [["owner, trainer", "samples/s", "min", "max", "stall share"]]
    figures: dict[str, Any] = {"batch": batch, "object_bytes": arguments.bytes, "step_ms": arguments.step_ms}
    for name, found in measured.items():
        waited = report.median([run["waited"] for run in found])
        figures[name] = {"samples_per_second": report.spread(rates[name]), "waited": waited}
        rows.append([name, *report.spread(rates[name]).values(), waited])
    for owner in ("process", "thread"):
        figures[f"{owner}_busy_over_idle"] = report.ratio(rates[f"{owner}_busy"], rates[f"{owner}_idle"])
        figures[f"{owner}_busy_over_alone"] = report.ratio(rates[f"{owner}_busy"], rates["alone"])
    report.table("A trainer that holds the lock vs. an idle one", rows)
    for owner in ("process", "thread"):
        print(owner, "busy / idle", figures[f"{owner}_busy_over_idle"])
    report.emit("gil_trainer", figures, seed=arguments.seed)


if __name__ == "__main__":
    main()
