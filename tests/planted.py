"""Delays planted in each stage of a sample, which record how long they really took."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from streaming.codecs import Codec, register_codec
from streaming.codecs.base import Buffer
from streaming.core.source_config import DataSourceConfig
from streaming.sources.base import Blob, DataSource, FileInfo
from streaming.sources.memory import MemorySource

SECONDS: dict[str, list[float]] = defaultdict(list)
"""Seconds that each delay took, by stage, in this process."""

LENGTH = 8  # of a sample, in numbers


def pause(stage: str, seconds: float) -> float:
    """Sleep for some seconds, and return how many it took."""
    began = time.perf_counter()
    if seconds:  # even a sleep of no time releases the interpreter
        time.sleep(seconds)
    took = time.perf_counter() - began
    SECONDS[stage].append(took)
    return took


class SlowSource(DataSource):
    """Samples `00000.slow`, `00001.slow`... of zeros; each read awaits a delay, as a read over a network does."""

    def __init__(self, samples: int, seconds: float, *, suffix: str = ".slow", data: bytes | None = None) -> None:
        super().__init__(DataSourceConfig("slow", "memory", "memory://slow"))
        content = np.zeros(LENGTH).tobytes() if data is None else data
        self._held = MemorySource("slow", {f"{number:05d}{suffix}": content for number in range(samples)})
        self._seconds = seconds

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        began = time.perf_counter()
        await asyncio.sleep(self._seconds)
        blob = await self._held.read(path, start, end)
        SECONDS["source"].append(time.perf_counter() - began)
        return blob

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        async for info in self._held.iter_files(prefix):
            yield info

    async def aclose(self) -> None:
        self._closed = True


class _Delay:
    """Delay of `decode`, set by each test: a codec is registered once for the process."""

    seconds = 0.0


def decode_takes(seconds: float) -> None:
    """Set how long decoding a `.slow` object takes."""
    _Delay.seconds = seconds


def _decode(data: Buffer, max_bytes: int) -> Any:
    pause("decode", _Delay.seconds)
    return torch.from_numpy(np.frombuffer(data[: 8 * LENGTH], dtype=np.float64).copy())


def _encode(sample: Any) -> bytes:
    return bytes(sample.numpy().tobytes())


register_codec(Codec(name="slow", suffixes=(".slow",), decode=_decode, encode=_encode))


class Pausing:
    """A `prepare`, `transform` or `collate_fn` that takes some seconds, and records them in the sample or batch."""

    def __init__(self, stage: str, seconds: float) -> None:
        self.stage = stage
        self.seconds = seconds

    def __call__(self, value: Any) -> Any:
        took = pause(self.stage, self.seconds)
        if self.stage == "collate":
            began = time.perf_counter()
            value = default_collate(value)
            SECONDS["collation"].append(time.perf_counter() - began)
        value[f"{self.stage}_s"] = torch.tensor(took, dtype=torch.float64)
        return value
