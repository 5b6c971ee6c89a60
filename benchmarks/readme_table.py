"""What does the README's table say? Print it from `benchmarks/results`; `--write` puts it into README.md.

Each row is one figure of one saved result. A benchmark that was not saved has no row; a saved one that lacks the figure
is an error, so that a renamed figure is noticed.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
MARKS = re.compile(r"(<!-- table -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)


def times(value: float) -> str:
    return f"{value:.2f}x"


def seconds(value: float) -> str:
    return f"{value:.2f} s"


def number(value: float) -> str:
    return f"{value:.1f}"


def percent(value: float) -> str:
    return f"{100 * value:.1f}%"


class Row(NamedTuple):
    """One line of the table. `figure` is a key, or keys of nested figures joined by " > "; its value is a number, or
    `{"median", "min", "max"}`.
    """

    text: str
    benchmark: str
    figure: str
    show: Callable[[float], str]


ROWS = (
    Row("Local 20 kB `.pt`, cold, vs. a loop of read and `torch.load`", "cold_read", "20kB_adapter_over_bare", times),
    Row("Local 2.6 MB `.pt`, cold, vs. the same loop", "cold_read", "2.6MB_adapter_over_bare", times),
    Row("The same with a cache that is already full", "cold_read", "2.6MB_full_cache_over_bare", times),
    Row(
        "HTTP, 100 kB raw bytes, vs. a bare client with 64 in flight",
        "http_loopback",
        "raw_adapter_over_best_bare",
        times,
    ),
    Row("HTTP, 100 kB `.pt`, vs. that client and decoding", "http_loopback", "pt_adapter_over_best_bare", times),
    Row("Cache hits, 2 forked workers, 2.6 MB, vs. a list in memory", "workers", "2.6MB_fork_adapter_over_list", times),
    Row(
        "Cache hits, 2 spawned workers, 2.6 MB, vs. a list in memory", "workers", "2.6MB_spawn_adapter_over_list", times
    ),
    Row("Fetches per object over all workers", "workers", "2.6MB_fetches_per_object", number),
    Row("S3 (Ceph), 100 kB, vs. a bare obstore loop", "clouds", "engines > s3_obstore > adapter_over_bare", times),
    Row("GCS (fake server), vs. a bare obstore loop", "clouds", "engines > gcs_obstore > adapter_over_bare", times),
    Row("The Hub (stand-in), vs. a bare aiohttp loop", "clouds", "engines > hub > adapter_over_bare", times),
    Row("30 ms of latency, vs. none", "latency_proxy", "default > of_no_latency", times),
    Row("Longest pause when the first replica dies", "failover", "primary killed > longest_pause_s", seconds),
    Row("Longest pause when the first replica hangs", "failover", "primary silent > longest_pause_s", seconds),
    Row("GPU utilization, ResNet-50 steps, 30 ms, half cached", "accelerator_use", "resnet50_use", percent),
    Row("The same with a plain DataLoader of 2 workers", "accelerator_use", "resnet50_plain_use", percent),
    Row("Data stall, half cached, link of 1.2x the misses", "stall_share", "retain_stall_share", percent),
    Row("Hit rate from the second epoch on, half cached", "hit_rate", "auto_c50_workers_4 > hit_rate", percent),
    Row("Resuming in the middle of 10^9 samples, ms", "resume", "restored_ms", number),
    Row("Batches from memory, vs. torch DataLoader", "loader_overhead", "0 workers > ratio", times),
    Row("First batch after the import, 10,000 files, saved index", "first_batch", "first_batch_seconds", seconds),
    Row("Error of the stall attribution, under planted faults", "planted_faults", "attribution_error", percent),
    Row("Rate of cached samples with metrics, vs. without", "metrics_cost", "in the cache > rate > median", times),
    Row("Import and first sample, beyond `import torch`", "import_time", "one_sample_over_torch_s", seconds),
    Row(
        "Memory growth over a million samples, bytes per sample (95% upper bound)",
        "loader_memory",
        "workers_2_bytes_per_sample_upper_95",
        number,
    ),
)


def table(results: Path) -> Iterator[str]:
    """Yield the lines of the table, and one that says where it was measured."""
    machines: list[dict[str, Any]] = []
    yield "| What | Median | Range | Benchmark |"
    yield "| --- | --- | --- | --- |"
    for row in ROWS:
        path = results / f"{row.benchmark}.json"
        if path.exists():
            record = json.loads(path.read_text())
            machines.append(record["machine"])
            yield line(row, record["figures"])
    if machines:
        yield ""
        yield where(machines[-1])


def line(row: Row, figures: dict[str, Any]) -> str:
    """Return one row. Raises KeyError if the result lacks the figure."""
    value: Any = figures
    for key in row.figure.split(" > "):
        value = value[key]
    spread = ""
    if isinstance(value, dict):
        spread = f"{row.show(value['min'])} to {row.show(value['max'])}"
        value = value["median"]
    return f"| {row.text} | {row.show(value)} | {spread} | `{row.benchmark}.py` |"


def where(machine: dict[str, Any]) -> str:
    return f"Measured on {machine['cores']} cores ({machine['cpu']}), {machine['system']}, Python {machine['python']}."


def main() -> None:
    """Print the table, or write it into the README."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    text = "".join(f"{text}\n" for text in table(RESULTS))
    if parser.parse_args().write:
        README.write_text(MARKS.sub(lambda match: match[1] + text + match[3], README.read_text()))
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
