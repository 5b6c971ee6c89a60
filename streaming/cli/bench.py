"""`streaming bench`: samples per second of an adapter, cold and cached, next to those of a plain loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streaming.cli.printing import Columns, print_json, with_progress
from streaming.errors import ConfigError

if TYPE_CHECKING:
    from streaming.adapter import StreamingDatasetAdapter
    from streaming.index import SampleIndex

__all__ = ["bench_samples"]


def bench_samples(config: Path, samples: int, batch_size: int, as_json: bool) -> None:
    """Time the same samples in a plain loop, through a cold adapter, and from its cache; print each rate."""
    from streaming.adapter import StreamingDatasetAdapter

    with StreamingDatasetAdapter.from_config(config) as adapter:
        count = min(samples, len(adapter))
        if not count:
            raise ConfigError(f"{config}: its sources hold no samples to measure")
        plain = asyncio.run(_read_plainly(config, adapter.index, count))
        read = _batches(adapter, count, batch_size)
        rates = {"plain": plain, "cold": count / _timed(read), "cached": count / _timed(read)}
        stats = adapter.get_cache_stats()
    result = {
        "samples": count,
        "batch_size": batch_size,
        "samples_per_second": rates,
        "cold_to_plain": rates["cold"] / rates["plain"],
        "cached_to_plain": rates["cached"] / rates["plain"],
        "stats": stats,
    }
    columns = Columns(("reading", "samples/s", "ratio"), to_stderr=as_json)
    for name, rate in rates.items():
        columns.add(name, f"{rate:.1f}", f"{rate / plain:.1f}")
    if as_json:
        print_json(result)


def _batches(adapter: StreamingDatasetAdapter, count: int, batch_size: int) -> Callable[[], None]:
    def batches() -> Iterator[list[int]]:
        for start in range(0, count, batch_size):
            yield list(range(start, min(start + batch_size, count)))

    def read() -> None:
        # A sampler can be iterated more than once, so it is a list, not a generator.
        for batch in with_progress(adapter.look_ahead(list(batches())), -(-count // batch_size), "batch"):
            adapter.__getitems__(batch)

    return read


def _timed(read: Callable[[], None]) -> float:
    began = time.perf_counter()
    read()
    return time.perf_counter() - began


async def _read_plainly(config: Path, index: SampleIndex, count: int) -> float:
    """Return the samples per second of a loop that reads and decodes one object after the other, without a cache."""
    from streaming.core.adapter_config import load_config
    from streaming.sources import create_data_source

    async with AsyncExitStack() as stack:
        sources = [
            await stack.enter_async_context(create_data_source(source)) for source in load_config(config).sources
        ]
        began = time.perf_counter()
        for position in with_progress(range(count), count, "sample"):
            await _read_sample(index, sources, position)
        return count / (time.perf_counter() - began)


async def _read_sample(index: SampleIndex, sources: Sequence[Any], position: int) -> dict[str, Any]:
    from streaming.codecs import decode

    sample = {}
    for row in index.rows(position):
        blob = await sources[row.source].read(row.path, row.start, row.start + row.length if row.is_range else None)
        sample[row.part] = decode(blob.data, "line.json" if row.is_range else row.path)
    return sample
