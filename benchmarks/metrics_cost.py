"""How much do the counters and timers behind metrics and stalls cost?

The same loop with counters and without, alternating epochs in one process: cached samples, which is the fastest case,
and samples from local disk with a small cache. Ratio of the rates with the 95 % interval of its median over the pairs
(bootstrap), and the same for CPU time. "Without" replaces methods by versions that have no clock and no counter; "with"
replaces them by the same methods, because the interpreter discards its optimizations of a class that is changed.
`scrape.py` measures scrapes.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import report
from torch.utils.data import DataLoader

from streaming.adapter import StreamingDatasetAdapter
from streaming.core.miss import MISS
from streaming.engine import fetch
from streaming.engine.engine import Engine
from streaming.engine.replicas import ReplicaReader, _end
from streaming.loader.data_loader import StreamingDataLoader
from streaming.telemetry.stages import STAGES
from streaming.telemetry.stalls import StallAccount

BATCH = 64
SAMPLES = 8_192
NOTHING = [0.0] * len(STAGES)
NUMBERS = 5_000  # values of 4 bytes: 20 kB per sample


# -- the same methods without counters


def _read_many(self: Engine, positions: Sequence[int]) -> list[Any]:
    self.counters.reads += len(positions)
    samples = self._read_many_now(positions)
    missing = [at for at, sample in enumerate(samples) if sample is MISS]
    if missing:
        fetched = self._wait([positions[at] for at in missing])
        for at, sample in zip(missing, fetched, strict=True):
            samples[at] = sample
    return samples


def _read_blocking(self: ReplicaReader, row: Any, buffer: memoryview | None, began: float) -> Any:
    source = self._sources[row.source]
    if buffer is not None and source.read_into is not None:
        return source.read_into(row.path, row.start, buffer), began
    assert source.read_blocking is not None
    return source.read_blocking(row.path, row.start, _end(row)), began


def _note_wait(self: Engine, positions: Sequence[int], started: float) -> list[float]:
    self.counters.waits += 1
    self.counters.wait_seconds += time.perf_counter() - started
    return NOTHING


def _start(self: StreamingDataLoader) -> Iterator[Any]:
    return DataLoader.__iter__(self)


@contextlib.contextmanager
def accounts(adapter: StreamingDatasetAdapter, *, are_kept: bool) -> Iterator[None]:
    """Run the code inside with the counters and timers, or without them."""
    engine = adapter._reader
    assert isinstance(engine, Engine)
    with contextlib.ExitStack() as patches:
        for place, name, value in (
            (Engine, "read_many", _read_many),
            (Engine, "note_wait", _note_wait),
            (ReplicaReader, "read_blocking", _read_blocking),
            (fetch, "perf_counter", float),
            (engine._fetcher.timelines, "note", bool),
            (StreamingDataLoader, "_start", _start),
            (StallAccount, "steps_of", lambda self, start: start()),
        ):
            patches.enter_context(mock.patch.object(place, name, getattr(place, name) if are_kept else value))
        yield


# -- the runs


CPU_SECONDS: dict[str, list[float]] = {"with": [], "without": []}


def rate(loader: StreamingDataLoader, adapter: StreamingDatasetAdapter, kind: str) -> float:
    """Return the samples per second of an epoch "with" or "without"; record its CPU seconds."""
    with accounts(adapter, are_kept=kind == "with"):
        began, cpu_began = time.perf_counter(), time.process_time()
        for _ in loader:
            pass
        CPU_SECONDS[kind].append(time.process_time() - cpu_began)
        return SAMPLES / (time.perf_counter() - began)


def interval(ratios: Sequence[float], seed: int) -> dict[str, float]:
    """Return the median, and its 95 % interval by 2,000 resamplings."""
    draw = random.Random(seed)
    medians = sorted(median(draw.choices(ratios, k=len(ratios))) for _ in range(2_000))
    return {"median": median(ratios), "low": medians[50], "high": medians[-51]}


def main() -> None:
    """Run everything and print a table and one line of JSON."""
    arguments = report.options(__doc__, repeats=300).parse_args()
    figures: dict[str, Any] = {}
    rows: list[list[object]] = [["samples", "rate with / without", "95 % from", "to", "CPU", "from", "to", "samples/s"]]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), arguments.seed)
        for name, cache_gb, share in (("in the cache", 1.0, 1), ("from local disk", 0.04, 8)):
            with StreamingDatasetAdapter(folder, cache_size_gb=cache_gb) as adapter:
                loader = StreamingDataLoader(adapter, BATCH, shuffle=True, seed=arguments.seed)
                runs: dict[str, Callable[[], float]] = {
                    kind: partial(rate, loader, adapter, kind) for kind in CPU_SECONDS
                }
                runs["with"]()
                for seconds in CPU_SECONDS.values():
                    seconds.clear()
                found = report.interleaved(max(arguments.repeats // share, 2), runs)
            ratios = [a / b for a, b in zip(found["with"], found["without"], strict=True)]
            cpu = [a / b for a, b in zip(CPU_SECONDS["with"], CPU_SECONDS["without"], strict=True)]
            each = {"rate": interval(ratios, arguments.seed), "cpu": interval(cpu, arguments.seed)}
            figures[name] = {**each, "samples_per_s": median(found["with"])}
            cells = [figure[key] for figure in each.values() for key in ("median", "low", "high")]
            rows.append([name, *cells, round(median(found["with"]))])
    report.table(f"pairs of epochs of {SAMPLES} samples of 20 kB, batches of {BATCH}", rows)
    report.emit("metrics_cost", figures, seed=arguments.seed)


def write(folder: Path, seed: int) -> None:
    """Write the samples as files."""
    numbers = np.random.default_rng(seed)
    for number in range(SAMPLES):
        np.save(folder / f"{number:05d}.npy", numbers.standard_normal(NUMBERS, dtype=np.float32))


if __name__ == "__main__":
    main()
