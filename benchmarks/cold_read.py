"""How fast is a cold read vs. a bare loop of read and decode?

Local `.pt` files of 20 kB and 2.6 MB, read once each: the adapter with look-ahead vs. `open().read()` and
`torch.load`. Then the same objects behind 5 ms of latency, at fixed look-ahead depths: the rate vs.
min(depth / latency, own rate without latency).
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import report
import torch

from streaming.adapter import StreamingDatasetAdapter
from streaming.core.source_config import DataSourceConfig
from streaming.testing import LatencySource, MemorySource

SIZES = {"20kB": (16, 8, 40), "2.6MB": (16, 16, 64, 40)}
LATENCY_S = 0.005


def write_samples(root: Path, shape: tuple[int, ...], count: int) -> None:
    """Write `count` latents of this shape, like a precomputing trainer."""
    for i in range(count):
        torch.save({"latents": torch.randn(shape)}, root / f"{i:05d}.pt")


def bare_loop(root: Path) -> float:
    """Return the samples per second of read and torch.load, one after the other."""
    paths = sorted(root.iterdir())
    started = time.perf_counter()
    for path in paths:
        with open(path, "rb") as file:
            data = file.read()
        torch.load(io.BytesIO(data), weights_only=True)["latents"]
    return len(paths) / (time.perf_counter() - started)


def streamed(source: object, **options: object) -> float:
    """Return the samples per second of an adapter with look-ahead, from the first sample to the last."""
    with StreamingDatasetAdapter(source, **options) as adapter:  # type: ignore[arg-type]
        count = len(adapter)
        started = time.perf_counter()
        for index in adapter.look_ahead(range(count)):
            adapter[index]
        rate = count / (time.perf_counter() - started)
        assert len(adapter.cache) == count
        return rate


def streamed_again(source: object) -> float:
    """Return the same with a cache whose memory was used before, as later in a run."""
    with StreamingDatasetAdapter(source) as adapter:
        count = len(adapter)
        for index in adapter.look_ahead(range(count)):
            adapter[index]
        for index in range(count):
            adapter.cache.invalidate(index)
        started = time.perf_counter()
        for index in adapter.look_ahead(range(count)):
            adapter[index]
        return count / (time.perf_counter() - started)


def delayed(root: Path, latency_s: float, depth: int) -> float:
    """Return the samples per second behind a latency, at a fixed look-ahead."""
    return streamed(behind_latency(root, latency_s), prefetch_ahead=depth)


def behind_latency(root: Path, latency_s: float) -> LatencySource:
    """Return a source with the files of `root` in memory, each read delayed."""
    memory = MemorySource(DataSourceConfig("memory", "memory", "memory://bench"))
    for path in root.iterdir():
        memory.put(path.name, path.read_bytes())
    return LatencySource(memory, latency_s)


def main() -> None:
    """Run everything and print a table and one line of JSON."""
    parser = report.options(__doc__, repeats=7)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    figures: dict[str, object] = {}
    for size, shape in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_samples(root, shape, 600 if size == "20kB" else 100)
            runs: dict[str, Callable[[], float]] = {
                "bare": partial(bare_loop, root),
                "adapter": partial(streamed, str(root)),
                "adapter_full_cache": partial(streamed_again, str(root)),
            }
            for depth in (8, 32):
                runs[f"latency_depth_{depth}"] = partial(delayed, root, LATENCY_S, depth)
                runs[f"no_latency_depth_{depth}"] = partial(delayed, root, 0.0, depth)
            rates = report.interleaved(arguments.repeats, runs)
        figures[f"{size}_adapter_over_bare"] = report.ratio(rates["adapter"], rates["bare"])
        figures[f"{size}_full_cache_over_bare"] = report.ratio(rates["adapter_full_cache"], rates["bare"])
        figures[f"{size}_samples_per_second"] = {name: report.median(values) for name, values in rates.items()}
        for depth in (8, 32):
            own = rates[f"no_latency_depth_{depth}"]
            bound = [min(depth / LATENCY_S, rate) for rate in own]
            figures[f"{size}_depth_{depth}_over_bound"] = report.ratio(rates[f"latency_depth_{depth}"], bound)
    report.emit("cold_read", figures, seed=arguments.seed)


if __name__ == "__main__":
    main()
