"""How long does a trainer wait when the link carries 1.2 times what misses need?

A step is a sleep; the source has a latency and a link that all reads share, with 1.2 times the rate that the misses
need when the hit rate equals the cached share. `retain` vs. `lru` vs. a cache for a few batches. Epochs from the second
on are measured.
"""

from __future__ import annotations

from typing import Any

import report
import torch
from steps import Epochs, Steps, distant, take_steps
from torch.utils.data import DataLoader

from streaming.adapter import StreamingDatasetAdapter

HEADROOM = 1.2
LATENCY_S = 0.030
KINDS = ("retain", "lru", "none")


def run(kind: str, arguments: Any) -> tuple[Steps, float]:
    """Return the steps of the last epoch, and its hit rate."""
    count, nbytes, batch = arguments.samples, arguments.bytes, arguments.batch
    link = HEADROOM * (1 - arguments.fraction) * batch * nbytes / arguments.step
    entry = nbytes + 1_000
    budget = entry * (4 * batch if kind == "none" else arguments.fraction * count)
    source, _ = distant(count, nbytes, LATENCY_S, link)
    policy = "lru" if kind == "none" else kind
    workers = arguments.workers
    with StreamingDatasetAdapter(source, cache_size_gb=budget / 1e9, policy=policy) as adapter:
        sampler = adapter.look_ahead(Epochs(count, arguments.seed))
        loader = DataLoader(adapter, batch, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)
        source_link = source.source  # type: ignore[attr-defined]
        source_link.limit(None)  # the first epoch fills the cache
        for number, _ in enumerate(loader):
            if kind == "none" and number > 20:
                break
        source_link.limit(link)
        adapter.reset_metrics()
        steps = take_steps(loader, arguments.step, arguments.steps)
        return steps, adapter.get_cache_stats()["hit_rate"]


def main() -> None:
    """Run everything and print a table and one line of JSON."""
    parser = report.options(__doc__, repeats=3)
    parser.add_argument("--samples", type=int, default=32_000)
    parser.add_argument("--bytes", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--step", type=float, default=0.2, help="seconds")
    parser.add_argument("--steps", type=int, default=100, help="number of steps to measure")
    parser.add_argument("--fraction", type=float, default=0.5, help="share of the samples that the cache holds")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shares: dict[str, list[float]] = {kind: [] for kind in arguments.kinds}
    hits: dict[str, list[float]] = {kind: [] for kind in arguments.kinds}
    for _ in range(arguments.repeats):
        for kind in arguments.kinds:
            steps, hit_rate = run(kind, arguments)
            shares[kind].append(steps.stall_share)
            hits[kind].append(hit_rate)
    rows: list[list[object]] = [["cache", "stall share", "max", "hit rate"]]
    rows += [[kind, report.median(shares[kind]), max(shares[kind]), report.median(hits[kind])] for kind in shares]
    report.table(f"Stall share, link {HEADROOM}x the misses of a cache that holds {arguments.fraction:.0%}", rows)
    figures: dict[str, Any] = {f"{kind}_stall_share": report.spread(shares[kind]) for kind in arguments.kinds}
    figures |= {f"{kind}_hit_rate": report.spread(hits[kind]) for kind in arguments.kinds}
    report.emit("stall_share", {**figures, **vars(arguments)}, seed=arguments.seed)


if __name__ == "__main__":
    main()
