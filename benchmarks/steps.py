"""Simulated training steps over a simulated source, for the benchmarks of data stalls.

The source returns the same bytes for each object, after a latency and over a link of limited rate that all reads share.
A step is a sleep, like a trainer's thread that waits for its accelerator.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from streaming.core.source_config import DataSourceConfig
from streaming.order.permutation import Shuffled
from streaming.sources.base import Blob, DataSource, FileInfo
from streaming.testing import LatencySource


class Uniform(DataSource):
    """Raw objects of one size, which are not stored.

    Attributes:
        reads: number of objects read.
    """

    def __init__(self, count: int, nbytes: int, bytes_per_s: float | None = None) -> None:
        super().__init__(DataSourceConfig("data", "memory", "memory://simulated"))
        self.reads = 0
        self._count = count
        self._data = np.random.default_rng(0).bytes(nbytes)
        self._rate = bytes_per_s
        self._free_at = 0.0  # when the link will have sent all requests so far

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        self.reads += 1
        if self._rate is not None:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + len(self._data) / self._rate
            await asyncio.sleep(self._free_at - now)
        # A copy, because a client makes one of the received bytes.
        data = bytes(bytearray(self._data))
        return Blob(data=data, etag=None, size=len(data), version=None, source=self.config.name)

    def limit(self, bytes_per_s: float | None) -> None:
        """Change the rate of the link; None removes the limit."""
        self._rate = bytes_per_s

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        for number in range(self._count):
            yield FileInfo(path=f"{number:07d}.bin", size=len(self._data), etag=None, modified=None)

    async def aclose(self) -> None:
        """Do nothing."""


def distant(count: int, nbytes: int, latency_s: float, bytes_per_s: float | None = None) -> tuple[DataSource, Uniform]:
    """Return a source of such objects behind a latency, and the source that counts their reads."""
    objects = Uniform(count, nbytes, bytes_per_s)
    return LatencySource(objects, latency_s), objects


class Epochs(Sampler[int]):
    """A sampler with a new shuffle in each iteration."""

    def __init__(self, samples: int, seed: int) -> None:
        self._order = Shuffled(samples, seed)
        self._epoch = -1

    def __iter__(self) -> Iterator[int]:
        self._epoch += 1
        return iter(self._order.samples(self._epoch, 0, self._order.n).tolist())

    def __len__(self) -> int:
        return self._order.n


@dataclass
class Steps:
    """Time of some steps, in seconds: needed for the steps, waited for batches, and total."""

    needed_s: float
    waited_s: float
    took_s: float

    @property
    def use(self) -> float:
        """Time needed for the steps / total time, as in MLPerf Storage."""
        return self.needed_s / self.took_s

    @property
    def stall_share(self) -> float:
        """Share of the total time spent in `next()`."""
        return self.waited_s / self.took_s


def take_steps(batches: Iterable[Any], step_s: float, most: int | None = None) -> Steps:
    """Take a step with each batch; the first one is not counted, because the pipeline starts."""
    waiting = iter(batches)
    next(waiting)
    time.sleep(step_s)
    count, waited, started = 0, 0.0, time.perf_counter()
    while most is None or count < most:
        asked = time.perf_counter()
        try:
            next(waiting)
        except StopIteration:
            break
        waited += time.perf_counter() - asked
        time.sleep(step_s)
        count += 1
    return Steps(count * step_s, waited, time.perf_counter() - started)
