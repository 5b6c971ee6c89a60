"""`streaming index`, `warm` and `bench`: the samples of several sources."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from streaming.cli.exit_codes import FAILED, check_output
from streaming.cli.show import Columns, human_bytes, print_json, print_line, with_progress
from streaming.errors import ConfigError, StreamingError

if TYPE_CHECKING:
    from streaming.adapter import StreamingDatasetAdapter
    from streaming.index import SampleIndex

__all__ = ["bench_samples", "build_index", "warm_samples"]

NAMED_FAILURES = 20
"""Samples that `warm` names when they cannot be read; the rest are counted."""


def build_index(
    urls: Sequence[str],
    output: Path | None,
    mapping: Sequence[str],
    missing: str,
    as_json: bool,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    refresh: bool = False,
) -> None:
    """Build the index of the sources, save it if asked, and print what it holds.

    Args:
        include, exclude: globs, for each source.
        refresh: compare what is saved in `output` with the sources, and say what changed.

    Raises:
        ConfigError: a mapping or an output that cannot be used.
        IndexBuildError: the samples cannot be matched.
        IndexFileError: with `refresh`, if the file is damaged or of other sources or settings.
    """
    if output is not None:
        check_output(output)
    if refresh and (output is None or not output.exists()):
        raise ConfigError("--refresh needs -o FILE with a saved index; leave it out to build one")
    configs = [{"path": url, "include": tuple(include), "exclude": tuple(exclude)} for url in urls]
    rules = {"data_mapping": _parse_mapping(mapping), "missing": missing}
    index, changes = asyncio.run(_build(configs, rules, output if refresh else None))
    if output is not None:
        index.save(output)
    parts = sorted({row.part for row in index.rows(0)}) if len(index) else []
    counts = {
        "samples": len(index),
        "parts": parts,
        "dropped": index.dropped,
        "skipped_objects": index.skipped_objects,
        "skipped": index.skips.counts,
        "unlikely": index.unlikely.counts,
        "saved": None if output is None else str(output),
        "saved_bytes": None if output is None else output.stat().st_size,
        "changes": changes,
    }
    if as_json:
        print_json(counts)
        return
    print_line(f"{counts['samples']} samples of {', '.join(parts) or 'no parts'}; {counts['dropped']} dropped")
    if changes is not None:
        print_line(", ".join(f"{count} {kind}" for kind, count in changes.items()) + " since it was saved")
    if index.skips:
        print_line(f"{index.skips.total()} objects in no sample: {index.skips.describe()}")
    if index.unlikely:
        print_line(f"{index.unlikely.total()} objects that may not be meant as samples: {index.unlikely.describe()}")
    if output is not None:
        print_line(f"saved in {output}, {human_bytes(output.stat().st_size)}")


async def _build(
    configs: Sequence[dict[str, Any]], rules: dict[str, Any], saved: Path | None
) -> tuple[SampleIndex, dict[str, int] | None]:
    """The index of what is there, and how many samples differ from the one that is saved, if that is given."""
    from streaming.index import SampleIndex
    from streaming.index import rules as rules_of
    from streaming.sources import create_data_source

    async with AsyncExitStack() as stack:
        sources = [await stack.enter_async_context(create_data_source(each)) for each in configs]
        if saved is None:
            return await SampleIndex.build(sources, **rules), None
        before = SampleIndex.open(saved, expect=rules_of(sources, **rules))
        changes = await before.revalidate(sources)
        found = {"added": changes.added, "changed": changes.changed, "removed": changes.removed}
        return changes.index, {kind: len(names) for kind, names in found.items()}


def _parse_mapping(pairs: Sequence[str]) -> dict[str, str] | None:
    mapping = {}
    for pair in pairs:
        name, equals, key = pair.partition("=")
        if not (name and equals and key):
            raise ConfigError(f"--mapping {pair!r} is not NAME=KEY; write for example --mapping latents=latent")
        mapping[name] = key
    return mapping or None


def warm_samples(config: Path, as_json: bool) -> None:
    """Read all samples through an adapter and print its numbers.

    Raises:
        typer.Exit: FAILED if a sample could not be read; the others were.
    """
    from streaming.adapter import StreamingDatasetAdapter

    with StreamingDatasetAdapter.from_config(config) as adapter:
        began = time.perf_counter()
        failures = _read_all(adapter)
        seconds = time.perf_counter() - began
        stats = adapter.get_cache_stats()
        total = len(adapter)
    result = {"samples": total, "failed": failures, "seconds": seconds, "samples_per_second": total / seconds, **stats}
    if as_json:
        print_json(result)
    else:
        print_line(
            f"{total - failures} of {total} samples read in {seconds:.2f} s ({total / seconds:.0f} samples/s), "
            f"{human_bytes(stats['fetched_bytes'])} fetched; the cache holds {stats['num_items']} samples in "
            f"{human_bytes(stats['current_size_gb'] * 1e9)}"
        )
    if failures:
        raise typer.Exit(FAILED)


def _read_all(adapter: StreamingDatasetAdapter) -> int:
    """Read every sample in order, name those that fail, and return how many did."""
    failures = 0
    for position in with_progress(adapter.look_ahead(range(len(adapter))), len(adapter), "sample"):
        try:
            adapter[position]
        except StreamingError as exc:
            failures += 1
            if failures <= NAMED_FAILURES:
                told = " ".join(str(exc).split())
                print_line(f"sample {position} ({adapter.index.name(position)}): {told}", to_stderr=True)
    if failures > NAMED_FAILURES:
        print_line(f"and {failures - NAMED_FAILURES} more samples that could not be read", to_stderr=True)
    return failures


def bench_samples(config: Path, samples: int, batch_size: int, as_json: bool) -> None:
    """Time the same samples read plainly, through a cold adapter, and again from its cache; print each rate."""
    from streaming.adapter import StreamingDatasetAdapter

    with StreamingDatasetAdapter.from_config(config) as adapter:
        count = min(samples, len(adapter))
        if not count:
            raise ConfigError(f"{config}: its sources hold no samples, so there is nothing to measure")
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
        # The order of an epoch is an iterator that can be begun anew, so the sampler is a list and not a generator.
        for batch in with_progress(adapter.look_ahead(list(batches())), -(-count // batch_size), "batch"):
            adapter.__getitems__(batch)

    return read


def _timed(read: Callable[[], None]) -> float:
    began = time.perf_counter()
    read()
    return time.perf_counter() - began


async def _read_plainly(config: Path, index: SampleIndex, count: int) -> float:
    """Samples per second of a loop that reads and decodes one object after the other and keeps nothing."""
    from streaming.core.config import load_config
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
