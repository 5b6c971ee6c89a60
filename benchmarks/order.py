"""How fast is the order of an epoch computed?

Indices per second for sizes around powers of two and a billion, in one call of a million and in batches of 64, vs.
numpy's shuffle of a list of that size, which needs the list.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import report

from streaming.order.permutation import Permutation

SIZES = (10**9, 2**20 + 1, 2**31 + 1)
MANY = 1_000_000
BATCH = 64
BATCHES = 500


def vectorised(n: int, seed: int) -> float:
    """Return the indices per second in one call."""
    order = Permutation(n, seed)
    positions = np.arange(MANY)
    order(positions[:BATCH])
    started = time.perf_counter()
    order(positions)
    return MANY / (time.perf_counter() - started)


def batched(n: int, seed: int) -> float:
    """Return the microseconds for a batch of 64."""
    order = Permutation(n, seed)
    batch = np.arange(BATCH)
    order(batch)
    started = time.perf_counter()
    for number in range(BATCHES):
        order(batch + number * BATCH)
    return (time.perf_counter() - started) / BATCHES * 1e6


def shuffled(seed: int) -> float:
    """Return the indices per second of numpy's shuffle."""
    started = time.perf_counter()
    np.random.default_rng(seed).permutation(MANY)
    return MANY / (time.perf_counter() - started)


def main() -> None:
    """Run everything and print a table and one line of JSON."""
    parser = report.options(__doc__, repeats=7)
    arguments = parser.parse_args()
    runs: dict[str, Callable[[], float]] = {"numpy shuffle, per second": partial(shuffled, arguments.seed)}
    for n in SIZES:
        runs[f"n={n}, per second"] = partial(vectorised, n, arguments.seed)
        runs[f"n={n}, us for {BATCH}"] = partial(batched, n, arguments.seed)
    found = {name: report.spread(values) for name, values in report.interleaved(arguments.repeats, runs).items()}
    rows = [[name, *(figures[key] for key in ("median", "min", "max"))] for name, figures in found.items()]
    report.table("The order of an epoch", [["figure", "median", "min", "max"], *rows])
    report.emit("order", found, seed=arguments.seed)


if __name__ == "__main__":
    main()
