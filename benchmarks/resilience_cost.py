"""How much do the wrappers cost when nothing fails?

The complete stack over objects in memory, with one replica and two, vs. the bare source: microseconds per read. Then
behind 5 ms of latency with 64 reads in flight: the rate vs. the bare source.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from functools import partial

import report

from streaming.resilience import stack
from streaming.sources.base import DataSource
from streaming.testing import LatencySource, MemorySource

LATENCY_S = 0.005
IN_FLIGHT = 64
OBJECTS = 1000


async def _read_all(source: DataSource, reads: int, in_flight: int) -> float:
    """Return the seconds for that many reads, after a warm-up."""

    async def read_next(paths: Iterator[str]) -> None:
        for path in paths:
            await source.read(path)

    def paths(count: int) -> Iterator[str]:
        return (f"{number % OBJECTS}.bin" for number in range(count))

    async with asyncio.TaskGroup() as group:  # the concurrency limit adapts, which takes some tenths of a second
        warming = paths(reads // 4)
        for _ in range(in_flight):
            group.create_task(read_next(warming))
    waiting = paths(reads)
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(read_next(waiting))
    return time.perf_counter() - started


def read_all(make: Callable[[], DataSource], reads: int, in_flight: int) -> float:
    """Do the same on a new event loop."""

    async def run() -> float:
        async with make() as source:
            return await _read_all(source, reads, in_flight)

    return asyncio.run(run())


def memory() -> MemorySource:
    """Return a source with objects of 1 kB."""
    return MemorySource("memory", {f"{number}.bin": b"x" * 1000 for number in range(OBJECTS)})


def distant() -> LatencySource:
    """Return the same source behind 5 ms of latency."""
    return LatencySource(memory(), LATENCY_S)


def main() -> None:
    parser = report.options(__doc__)
    parser.add_argument("--reads", type=int, default=20_000, help="reads per repeat (default 20000)")
    args = parser.parse_args()
    near: dict[str, Callable[[], DataSource]] = {
        "bare": memory,
        "one copy": lambda: stack([memory()]),
        "two copies": lambda: stack([memory(), memory()]),
    }
    far: dict[str, Callable[[], DataSource]] = {
        "bare": distant,
        "one copy": lambda: stack([distant()]),
        "two copies": lambda: stack([distant(), distant()]),
    }
    at_once = report.interleaved(
        args.repeats, {name: partial(read_all, make, args.reads, 1) for name, make in near.items()}
    )
    late = report.interleaved(
        args.repeats, {name: partial(read_all, make, args.reads, IN_FLIGHT) for name, make in far.items()}
    )
    figures: dict[str, object] = {}
    rows: list[list[object]] = [["", "us per read", "vs. bare", f"rate at {LATENCY_S * 1000:g} ms, bare = 1"]]
    for name in near:
        each = report.spread([seconds / args.reads * 1e6 for seconds in at_once[name]])
        more = report.spread([(a - b) / args.reads * 1e6 for a, b in zip(at_once[name], at_once["bare"], strict=True)])
        share = report.ratio(late["bare"], late[name])
        figures[name] = {"us_per_read": each, "more_us": more, "share_of_rate": share}
        rows.append([name, each["median"], more["median"], share["median"]])
    report.table(f"{args.reads} reads, complete stack, nothing fails", rows)
    report.emit("resilience_cost", figures, seed=args.seed)


if __name__ == "__main__":
    main()
