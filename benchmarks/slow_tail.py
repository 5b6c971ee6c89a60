"""How long does a batch take when one request in a hundred takes a second, and how many extra requests are made?

Batches of 64 raw objects of 20 kB, none of them cached, through HAProxy, which adds 10 ms to each request and holds 1 %
of them for 1 s. With and without the second requests of `Hedge`, with and without a mirror (nginx itself).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import NamedTuple

import numpy as np
import report
import servers

from streaming.adapter import StreamingDatasetAdapter
from streaming.core.source_config import parse_source
from streaming.resilience import Context, ResilienceConfig, stack
from streaming.sources import create_data_source

OBJECTS, NBYTES, BATCH = 40_960, 20_000, 64
LATENCY_MS, STALL_PCT, STALL_MS = 10, 1, 1000
WARM_UP = 8  # batches: the limit adapts and the first latencies are measured
NEVER = 10**9  # reads before the first second read


class Run(NamedTuple):
    """Batches of one run: seconds of each, and extra requests as a share of the objects."""

    seconds: list[float]
    extra: float


def fetch(url: str, mirror: str | None, is_hedged: bool, batches: int) -> Run:
    """Read the same batches with an adapter over its default stack, and count the requests."""
    config = parse_source(servers.at(url, *([mirror] if mirror else [])))
    copies = [servers.Counted(create_data_source(each)) for each in (config, *config.mirrors)]
    context = Context() if is_hedged else Context(ResilienceConfig(hedge_min_samples=NEVER))
    seconds = []
    with StreamingDatasetAdapter(stack(copies, context), cache_size_gb=2) as adapter:
        positions = iter(range(len(adapter)))
        for _ in range(WARM_UP):
            adapter.__getitems__([next(positions) for _ in range(BATCH)])
        before = sum(copy.reads for copy in copies)
        for _ in range(batches):
            batch = [next(positions) for _ in range(BATCH)]
            started = time.perf_counter()
            adapter.__getitems__(batch)
            seconds.append(time.perf_counter() - started)
        reads = sum(copy.reads for copy in copies) - before
    return Run(seconds, reads / (batches * BATCH) - 1)


def main() -> None:
    parser = report.options(__doc__, repeats=2)
    parser.add_argument("--batches", type=int, default=200, help="batches per run (default 200)")
    parser.add_argument("--latency-ms", type=int, default=LATENCY_MS, help="latency of each request (default 10)")
    arguments = parser.parse_args()
    found: dict[str, list[Run]] = {}
    with servers.nginx(OBJECTS, NBYTES, arguments.seed) as url, servers.fault_proxy(url) as proxy:

        def run(name: str, stall_pct: int, mirror: str | None, is_hedged: bool, batches: int) -> None:
            proxy.set(latency_ms=arguments.latency_ms, stall_pct=stall_pct, stall_ms=STALL_MS)
            found.setdefault(name, []).append(servers.apart(fetch, proxy.url, mirror, is_hedged, batches))

        few = max(arguments.batches // 10, 10)  # half a second each
        runs: dict[str, Callable[[], None]] = {
            "no stalls": partial(run, "no stalls", 0, None, True, arguments.batches),
            "stalls, never hedged": partial(run, "stalls, never hedged", STALL_PCT, None, False, few),
            "stalls": partial(run, "stalls", STALL_PCT, None, True, arguments.batches),
            "stalls, mirror": partial(run, "stalls, mirror", STALL_PCT, url, True, arguments.batches),
        }
        report.interleaved(arguments.repeats, runs)
    figures: dict[str, object] = {"latency_ms": arguments.latency_ms, "stall_pct": STALL_PCT, "stall_ms": STALL_MS}
    rows: list[list[object]] = [["", "batches", "median ms", "p99 ms", "p99 / median", "worst ms", "extra requests"]]
    for name, each in found.items():
        of_runs = [np.quantile(one.seconds, (0.5, 0.99)) * 1000 for one in each]
        together = [seconds for one in each for seconds in one.seconds]
        middle, p99 = np.quantile(together, (0.5, 0.99)) * 1000
        extra = report.spread([one.extra for one in each])
        figures[name] = {
            "batches": len(together),
            "median_ms": float(middle),
            "p99_ms": float(p99),
            "p99_over_median": float(p99 / middle),
            "p99_over_median_of_runs": report.spread([float(high / mid) for mid, high in of_runs]),
            "worst_ms": max(together) * 1000,
            "share_over_3_medians": float(np.mean(np.array(together) * 1000 > 3 * middle)),
            "extra_requests": extra,
        }
        cells = [
            float(middle),
            float(p99),
            float(p99 / middle),
            max(together) * 1000,
            median(one.extra for one in each),
        ]
        rows.append([name, len(together), *cells])
    title = f"Batches of {BATCH} through {arguments.latency_ms} ms, {STALL_PCT} % of requests take {STALL_MS} ms"
    report.table(title, rows)
    report.emit("slow_tail", figures, seed=arguments.seed)


if __name__ == "__main__":
    main()
