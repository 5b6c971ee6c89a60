"""How long does a scrape take, and does memory stay flat over many?

Two adapters with eight sources each (four and a replica of each), all labels in use (every outcome, stage, bucket,
state), and a loader over each. Timed are one reading of all metrics as text (`scrape`), and the same over HTTP with
gzip (`http`), as from Prometheus. Then `--scrapes` scrapes in a row: memory is regressed on their number after a fifth
of warm-up, both Python's allocations (`tracemalloc`) and resident memory.
"""

from __future__ import annotations

import gc
import io
import time
import tracemalloc
import urllib.request
from array import array
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import report
from prometheus_client import CollectorRegistry, generate_latest

from streaming.adapter import StreamingDatasetAdapter
from streaming.core.source_config import DataSourceConfig
from streaming.loader.data_loader import StreamingDataLoader
from streaming.monitoring.metrics import metrics_registry, start_metrics_server
from streaming.monitoring.metrics.process_metrics import resident_memory
from streaming.testing import MemorySource

ADAPTERS = 2
SOURCES = 8
PARTS = [f"part-{number}" for number in range(SOURCES // 2)]
OBJECTS = 64
TIMED = 50


def sources() -> list[MemorySource]:
    """Return that many sources; pairs of them have the same folder and are replicas."""
    found = []
    for number in range(SOURCES):
        source = MemorySource(DataSourceConfig(f"source-{number}", "memory", f"memory://{number}"))
        for i in range(OBJECTS):
            buffer = io.BytesIO()
            np.save(buffer, np.arange(16) + i)
            source.put(f"part-{number // 2}/{i:03d}.npy", buffer.getvalue())
        found.append(source)
    return found


def median_of(act: Callable[[], object]) -> float:
    """Return the median seconds of some calls."""
    seconds = []
    for _ in range(TIMED):
        started = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - started)
    return report.spread(seconds)["median"]


def growth(scrape: Callable[[], object], count: int) -> dict[str, float]:
    """Return the growth per scrape of Python's and of resident memory, with the upper 95 % bound of the first."""
    at = list(range(count // 5, count, max(count // 200, 1)))
    held, resident = (
        array("q", [0] * len(at)),
        array("q", [0] * len(at)),
    )  # the figures themselves must not take more memory
    tracemalloc.start()
    taken = 0
    for number in range(count):
        scrape()
        if taken < len(at) and number == at[taken]:
            gc.collect()
            held[taken], resident[taken] = tracemalloc.get_traced_memory()[0], resident_memory() or 0
            taken += 1
    tracemalloc.stop()
    slope, bound = report.slope_with_bound(at, held)
    return {
        "scrapes": count,
        "held_bytes_per_scrape": slope,
        "held_bytes_per_scrape_upper_95": bound,
        "resident_bytes_grown": resident[-1] - resident[0],
    }


def main() -> None:
    """Run everything and print a table and one line of JSON."""
    parser = report.options(__doc__)
    parser.add_argument("--scrapes", type=int, default=10_000)
    arguments = parser.parse_args()
    registry = metrics_registry(CollectorRegistry())
    with ExitStack() as stack:
        loaders = []
        for _ in range(ADAPTERS):
            adapter = stack.enter_context(StreamingDatasetAdapter(sources(), PARTS, cache_size_gb=0.01))
            loaders.append(StreamingDataLoader(adapter, 8, shuffle=True))
            for _ in loaders[-1]:
                pass
        server = stack.enter_context(start_metrics_server(0, registry=registry))
        asked = urllib.request.Request(str(server.url), headers={"Accept-Encoding": "gzip"})

        def scrape() -> bytes:
            return generate_latest(registry)

        def over_http() -> bytes:
            with urllib.request.urlopen(asked) as answer:
                body: bytes = answer.read()
                return body

        ways = {"scrape": lambda: median_of(scrape), "http": lambda: median_of(over_http)}
        seconds = report.interleaved(arguments.repeats, ways)
        text = scrape()
        figures: dict[str, object] = {f"{name}_seconds": report.spread(each) for name, each in seconds.items()}
        figures["lines"] = sum(not line.startswith(b"#") for line in text.splitlines())
        figures["text_bytes"], figures["packed_bytes"] = len(text), len(over_http())
        figures |= growth(scrape, arguments.scrapes)
    rows = [[name, *(1000 * each[part] for part in ("median", "min", "max"))] for name, each in _spreads(seconds)]
    report.table("milliseconds", [["", "median", "min", "max"], *rows])
    report.emit("scrape", figures, seed=arguments.seed)


def _spreads(seconds: dict[str, list[float]]) -> list[tuple[str, dict[str, float]]]:
    return [(name, report.spread(each)) for name, each in seconds.items()]


if __name__ == "__main__":
    main()
