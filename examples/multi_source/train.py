"""Train from two mirrors and a third, different source, while one mirror dies halfway.

    python examples/make_latents.py data --samples 200
    python examples/multi_source/train.py data

The latents are read over HTTP from a server that has a mirror, the conditions from local disk. The first server fails
after half of the latents. The training loop does not notice: each sample is read once, in the order of the seed.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, RandomSampler

from streaming.adapter import StreamingDatasetAdapter
from streaming.cli.demo.server import SlowServer

BATCH = 8


def sources(root: Path, primary: SlowServer, mirror: SlowServer) -> list[dict[str, Any]]:
    """Return the sources; `mirrors` are replicas of the same objects."""
    return [
        {
            "name": "latents",
            "type": "http",
            "path": f"{primary.url}latents/",
            "mirrors": [{"name": "latents_mirror", "type": "http", "path": f"{mirror.url}latents/"}],
        },
        {"name": "conditions", "type": "local", "path": str(root / "conditions")},
    ]


def train(adapter: StreamingDatasetAdapter, step_s: float, seed: int) -> tuple[list[int], list[float]]:
    """Run one epoch; return the positions in order, and the wait for each batch in seconds."""
    sampler = RandomSampler(adapter, generator=torch.Generator().manual_seed(seed))
    weight = torch.zeros(())
    positions: list[int] = []
    pauses: list[float] = []
    asked = time.perf_counter()
    for batch in DataLoader(adapter, batch_size=BATCH, sampler=adapter.look_ahead(sampler)):
        pauses.append(time.perf_counter() - asked)
        positions += batch["idx"].tolist()
        weight -= 0.1 * (weight - batch["latent_conditions"]["latents"].mean())
        time.sleep(step_s)  # stands for the rest of a training step
        asked = time.perf_counter()
    return positions, pauses


def main() -> None:
    """Train, and print what the failure cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="what make_latents.py wrote")
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--step-ms", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    root, latency_s = options.root / ".precomputed", options.latency_ms / 1000
    count = sum(1 for _ in root.glob("latents/**/*.pt"))
    with (
        SlowServer(root, latency_s, stops_after=count // 2) as primary,
        SlowServer(root, latency_s) as mirror,
        # Three batches ahead, so that the server fails during the epoch and not before its first step.
        StreamingDatasetAdapter(sources(root, primary, mirror), prefetch_ahead=3 * BATCH) as adapter,
    ):
        positions, pauses = train(adapter, options.step_ms / 1000, options.seed)
        expected = list(RandomSampler(range(count), generator=torch.Generator().manual_seed(options.seed)))
        summary = {
            "samples": len(positions),
            "order_unchanged": positions == expected,
            "fetched": adapter.get_cache_stats()["fetched_samples"],
            "primary_answers": primary.answers,
            "mirror_requests": mirror.requests,
            "median_pause_s": sorted(pauses)[len(pauses) // 2],
            "longest_pause_s": max(pauses),
        }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
