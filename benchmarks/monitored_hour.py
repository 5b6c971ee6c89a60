"""Does memory stay flat over an hour of training with all metrics on?

The hour is simulated: the steps and scrapes of an hour at 20 steps and one scrape per second, without pauses. The cache
evicts all the time, and each minute a validation data set is opened, read and closed. The resident memory after each
minute is regressed on the minutes, after a warm-up of ten; the number of time series must not grow.
"""

from __future__ import annotations

import io
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import report

from streaming.adapter import StreamingDatasetAdapter
from streaming.loader.data_loader import StreamingDataLoader
from streaming.monitoring.metrics import start_metrics_server
from streaming.testing import MemorySource

STEPS_PER_SCRAPE = 20
SCRAPES_PER_MINUTE = 60
WARM_UP_MINUTES = 10
OBJECTS = 2_000
OBJECT_BYTES = 2_000
BATCH = 16
CACHE_GB = 1e-3  # a quarter of the objects


def source(seed: int, objects: int = OBJECTS) -> MemorySource:
    """Return a source of random arrays."""
    numbers = np.random.default_rng(seed)
    held = MemorySource("data")
    for number in range(objects):
        buffer = io.BytesIO()
        np.save(buffer, numbers.standard_normal(OBJECT_BYTES // 8))
        held.put(f"{number:05d}.npy", buffer.getvalue())
    return held


def endless(loader: StreamingDataLoader) -> Iterator[Any]:
    """Yield batches, epoch after epoch."""
    while True:
        yield from loader


def validate(seed: int) -> None:
    """Open, read and close a second data set under the same name as a minute ago."""
    with StreamingDatasetAdapter(source(seed, 4 * BATCH), cache_size_gb=CACHE_GB, name="valid") as adapter:
        for _ in zip(range(3), StreamingDataLoader(adapter, BATCH), strict=False):
            pass


def main() -> None:
    """Run the hour and print one line of JSON."""
    parser = report.options(__doc__)
    parser.add_argument("--minutes", type=int, default=60)
    arguments = parser.parse_args()
    process = psutil.Process()
    resident: list[float] = []
    series: list[int] = []
    with (
        StreamingDatasetAdapter(source(arguments.seed), cache_size_gb=CACHE_GB, name="train") as adapter,
        start_metrics_server(0) as server,
    ):
        steps = endless(StreamingDataLoader(adapter, BATCH, shuffle=True, seed=arguments.seed))
        for _ in range(WARM_UP_MINUTES + arguments.minutes):
            for _ in range(SCRAPES_PER_MINUTE):
                for _ in range(STEPS_PER_SCRAPE):
                    next(steps)
                assert server.url is not None
                text = urllib.request.urlopen(server.url, timeout=10).read()
            validate(arguments.seed)
            resident.append(process.memory_info().rss)
            series.append(sum(not line.startswith(b"#") for line in text.splitlines()))
    after = resident[WARM_UP_MINUTES:]
    slope, bound = report.slope_with_bound(range(len(after)), after)
    figures = {
        "minutes": arguments.minutes,
        "steps": arguments.minutes * SCRAPES_PER_MINUTE * STEPS_PER_SCRAPE,
        "scrapes": arguments.minutes * SCRAPES_PER_MINUTE,
        "bytes_per_minute": slope,
        "bytes_per_minute_upper_95": bound,
        "resident_mb": [round(each / 1e6, 1) for each in (after[0], after[-1])],
        "series": [series[WARM_UP_MINUTES], series[-1]],
    }
    report.table("an hour with metrics", [["figure", "value"], *([name, value] for name, value in figures.items())])
    report.emit("monitored_hour", figures, seed=arguments.seed)


if __name__ == "__main__":
    main()
