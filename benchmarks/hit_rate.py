"""Is the hit rate from the second epoch on as high as the cache size allows, and as predicted?

Objects of 20 kB that do not compress behind a real nginx, a fresh shuffle in each epoch, read through
StreamingDataLoader without workers, and with four that persist or not. A cache for the fraction c of the
samples can hit at most c of the reads. Requests to the server are counted in the source.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import report
import torch
from servers import Counted, serve

from streaming.adapter import StreamingDatasetAdapter
from streaming.loader.data_loader import StreamingDataLoader
from streaming.sources import create_data_source

BATCH = 64
FRACTIONS = (0.10, 0.25, 0.50, 0.75)
MODES = {"0": (0, False), "4": (4, False), "4_persistent": (4, True)}


def write_arrays(www: Path, count: int, nbytes: int, seed: int) -> None:
    """Write `count` different arrays below `www`, and `index.json` with their sizes."""
    rng = np.random.default_rng(seed)
    listing = []
    for number in range(count):
        target = www / f"{number:06d}.npy"
        np.save(target, np.frombuffer(rng.bytes(nbytes), np.uint8))
        listing.append({"path": target.name, "size": target.stat().st_size})
    (www / "index.json").write_text(json.dumps(listing))


def source_at(url: str) -> Counted:
    """Return a source of the objects at a URL that counts requests."""
    options = {"index": "index.json"}
    return Counted(create_data_source({"name": "data", "type": "http", "path": url, "storage_options": options}))


def entry_bytes(url: str) -> float:
    """Return the bytes of the budget for a sample, including bookkeeping."""
    with StreamingDatasetAdapter(source_at(url), cache_size_gb=0.1) as adapter:
        for index in range(16):
            adapter[index]
        stats = adapter.get_cache_stats()
        return float(stats["current_size_gb"] * 1e9 / stats["num_items"])


def epochs_of(
    url: str, budget: float, policy: str, mode: tuple[int, bool], epochs: int, seed: int
) -> list[dict[str, Any]]:
    """Return the statistics of each epoch, with its `requests`."""
    workers, persistent = mode
    source = source_at(url)
    found = []
    with StreamingDatasetAdapter(source, cache_size_gb=budget / 1e9, policy=policy) as adapter:
        loader = StreamingDataLoader(
            adapter, BATCH, True, seed=seed, num_workers=workers, persistent_workers=workers > 0 and persistent
        )
        for _ in range(epochs):
            adapter.reset_metrics()
            before = source.reads
            count = sum(len(batch["idx"]) for batch in loader)
            assert count == len(adapter)
            found.append({**adapter.get_cache_stats(), "requests": source.reads - before})
    return found


def main() -> None:
    """Run everything and print a table and one line of JSON."""
    parser = report.options(__doc__, repeats=1)
    parser.add_argument("--samples", type=int, default=4_000)
    parser.add_argument("--bytes", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--fractions", type=float, nargs="+", default=FRACTIONS)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--policies", nargs="+", default=["auto", "lru"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"samples": arguments.samples, "object_bytes": arguments.bytes}
    rows: list[list[object]] = [["policy, c, workers", "hit rate", "worst / c", "predicted", "worst off", "requests"]]
    with TemporaryDirectory() as folder, serve(Path(folder)) as url:
        write_arrays(Path(folder) / "www", arguments.samples, arguments.bytes, arguments.seed)
        entry = entry_bytes(url)
        figures["entry_bytes"] = entry
        for fraction in arguments.fractions:
            budget = fraction * entry * arguments.samples
            for mode in arguments.modes:
                for policy in arguments.policies:
                    epochs = []
                    for repeat in range(arguments.repeats):
                        run = epochs_of(url, budget, policy, MODES[mode], arguments.epochs, arguments.seed + repeat)
                        epochs += run[1:]
                    rates = [epoch["hit_rate"] for epoch in epochs]
                    requests = max(epoch["requests"] / arguments.samples for epoch in epochs)
                    predicted = [epoch["predicted_hit_rate"] for epoch in epochs]
                    off = max(abs(rate - told) for rate, told in zip(rates, predicted, strict=True))
                    name = f"{policy}_c{round(100 * fraction)}_workers_{mode}"
                    figures[name] = {
                        "hit_rate": report.spread(rates),
                        "hit_rate_over_c": report.spread([rate / fraction for rate in rates]),
                        "predicted": report.spread(predicted),
                        "predicted_off": off,
                        "requests_per_read": requests,
                    }
                    worst = min(rates) / fraction
                    row = [name, report.median(rates), worst, report.median(predicted), off, requests]
                    rows.append(row)
                    print(*row, flush=True)
    report.table("Hit rate from the second epoch on", rows)
    report.emit("hit_rate", figures, seed=arguments.seed)


if __name__ == "__main__":
    main()
