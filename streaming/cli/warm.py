"""`streaming warm`: read every sample once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from streaming.cli.exit_codes import FAILED
from streaming.cli.printing import human_bytes, print_json, print_line, with_progress
from streaming.errors import StreamingError

if TYPE_CHECKING:
    from streaming.adapter import StreamingDatasetAdapter

__all__ = ["warm_samples"]

NAMED_FAILURES = 20
"""Most samples named when they cannot be read; the rest are counted."""


def warm_samples(config: Path, as_json: bool) -> None:
    """Read all samples through an adapter and print its statistics.

    Raises:
        typer.Exit: FAILED, if a sample could not be read; the others were.
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
                reason = " ".join(str(exc).split())
                print_line(f"sample {position} ({adapter.index.name(position)}): {reason}", to_stderr=True)
    if failures > NAMED_FAILURES:
        print_line(f"and {failures - NAMED_FAILURES} more samples that could not be read", to_stderr=True)
    return failures
