"""Does memory stay flat, and the cache within its budget, over a million get/put/expire/evict cycles?

Unique set size of this process (the arena's pages included), regressed on the number of samples after a fifth of
warm-up. A thread compares stored and in-flight bytes with the budget all the time. Then the overhead of an entry is
measured, with string and integer keys, vs. the `ENTRY_OVERHEAD` that counts against the budget.
"""

from __future__ import annotations

import gc
import mmap
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import report

from streaming.cache import SmartLRUCache
from streaming.cache.store import ENTRY_OVERHEAD
from streaming.core.miss import MISS

BUDGET = 3_000_000
KEYS = 3_000
POINTS = 100  # samples of memory over time


def own_bytes() -> int:
    """Return the memory that only this process maps; the shared pages of torch would vary with other processes."""
    return int(psutil.Process().memory_full_info().uss)


class Watch:
    """A thread that checks the budget again and again.

    Attributes:
        largest_share: largest share of the budget in use.
        looks: number of checks.
    """

    def __init__(self, cache: SmartLRUCache) -> None:
        self.largest_share = 0.0
        self.looks = 0
        self._cache = cache
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.0005):
            stats = self._cache.get_cache_stats()
            used = stats["current_size_gb"] + stats["in_flight_gb"]
            self.largest_share = max(self.largest_share, used / stats["max_size_gb"])
            self.looks += 1


def cycles(count: int, policy: str, seed: int) -> dict[str, float]:
    """Read `count` random keys, with a reservation and an admission after each miss, while the clock advances."""
    now = [0.0]
    cache = SmartLRUCache(max_size_bytes=BUDGET, policy=policy, max_ttl_seconds=1_500, clock=lambda: now[0])
    sum(cache.arena.memory[:: mmap.PAGESIZE])  # its pages count against the budget: all in memory from the start
    choose = random.Random(seed)
    pool = np.random.default_rng(seed).standard_normal(4096)
    seen: list[float] = []
    memory: list[float] = []
    with Watch(cache) as watch:
        for number in range(count):
            now[0] = number
            key = f"sample-{choose.randrange(KEYS)}"
            if cache.get_nowait(key, MISS) is MISS:
                nbytes = choose.randrange(16, 4096)
                reservation = cache.reserve(nbytes, demanded=True)
                entry = cache.encode({"x": pool[: nbytes // 8], "ids": [number] * 40, "idx": number})
                assert entry is not None
                cache.admit(key, entry, reservation=reservation)
            if number % (count // POINTS) == 0 and number > count // 5:
                seen.append(number)
                memory.append(own_bytes())
    metrics = cache.get_metrics()
    assert metrics.expirations > 0
    assert metrics.evictions > 0
    slope, bound = report.slope_with_bound(seen, memory)
    cache.close()
    return {
        "samples": count,
        "bytes_per_sample": slope,
        "bytes_per_sample_upper_95": bound,
        "largest_share_of_budget": watch.largest_share,
        "looks_at_budget": watch.looks,
        "evictions": metrics.evictions,
        "expirations": metrics.expirations,
        "hit_rate": metrics.hit_rate,
    }


def bookkeeping(key_of: Callable[[int], Any], count: int = 100_000) -> float:
    """Return the bytes per entry beyond the 64 of its block, after many replacements, as in a cache in use."""
    cache = SmartLRUCache(max_size_bytes=2 * count * (64 + ENTRY_OVERHEAD))
    gc.collect()
    before = own_bytes()
    for number in range(2 * count):
        cache.put_nowait(key_of(number % count), number)
    gc.collect()
    assert len(cache) == count
    return (own_bytes() - before) / count - 64


def main() -> None:
    """Run everything, print a table and one line of JSON."""
    parser = report.options(__doc__)
    parser.add_argument("--cycles", type=int, default=1_000_000)
    arguments = parser.parse_args()
    started = time.perf_counter()
    figures: dict[str, Any] = {
        "bookkeeping_bytes_integer_keys": bookkeeping(lambda number: number),
        "bookkeeping_bytes_string_keys": bookkeeping(lambda number: f"train/session-{number:012d}.json"),
        "bookkeeping_bytes_charged": ENTRY_OVERHEAD,
    }
    for policy in ("lru", "retain"):
        figures |= {
            f"{policy}_{name}": value for name, value in cycles(arguments.cycles, policy, arguments.seed).items()
        }
    figures["seconds"] = time.perf_counter() - started
    report.table("Memory of the cache over its cycles", [["figure", "value"], *map(list, figures.items())])
    report.emit("memory", figures, seed=arguments.seed)


if __name__ == "__main__":
    main()
