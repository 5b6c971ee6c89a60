"""How fast is the adapter vs. a bare client loop over loopback HTTP?

Objects of 100 kB behind a real nginx, 64 in flight. The bare loops (obstore and aiohttp, no batch barrier) read every
object once, decode it with the same codec, and stack batches of 64 the same way; the faster one is the reference.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import obstore.store
import report
import torch
import uvloop
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from streaming.adapter import StreamingDatasetAdapter
from streaming.codecs import decode

SERVICES = Path(__file__).parents[1] / "tests" / "services"
IN_FLIGHT = BATCH = 64


def to_tensor(sample: Any) -> torch.Tensor:
    """Return the payload of a sample as a tensor."""
    if isinstance(sample, bytes):
        return torch.frombuffer(bytearray(sample), dtype=torch.uint8)
    return sample["latents"]


def stack(samples: list[Any]) -> torch.Tensor:
    """Stack decoded samples into a batch `[64, ...]`."""
    return torch.stack([to_tensor(sample) for sample in samples])


def collate(samples: list[dict[str, Any]]) -> torch.Tensor:
    """Do the same for the adapter's samples, whose payload is the part `www`."""
    return stack([sample["data"] for sample in samples])


class Stopwatch:
    """Wall and CPU seconds after a number of samples.

    The first samples are not counted, to measure the state of a long run: the kernel clears each page of a cache at its
    first write, which here takes longer than filling it.
    """

    def __init__(self, uncounted: int = 0) -> None:
        self._uncounted = uncounted
        self._seen = 0
        self._started = time.perf_counter(), time.process_time()

    def note(self, count: int) -> None:
        """Count samples."""
        if self._seen < self._uncounted <= self._seen + count:
            self._uncounted = self._seen + count
            self._started = time.perf_counter(), time.process_time()
        self._seen += count

    def stop(self) -> tuple[float, float]:
        """Return the samples per second, and the CPU seconds of this process per 1,000 samples."""
        counted = self._seen - self._uncounted
        wall, cpu = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        return counted / wall, cpu / counted * 1000


async def bare(read: Callable[[str], Awaitable[Any]], names: list[str], uncounted: int = 0) -> tuple[float, float]:
    """Measure 64 tasks that read and decode, and stack every 64 samples."""
    watch = Stopwatch(uncounted)
    pending = iter(names)
    samples: list[Any] = []

    async def work() -> None:
        for name in pending:
            samples.append(decode(await read(name), name))
            watch.note(1)
            if len(samples) >= BATCH:
                batch = samples[:BATCH]
                del samples[:BATCH]
                stack(batch)

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return watch.stop()


def bare_obstore(url: str, names: list[str]) -> float:
    """Run the loop over obstore."""

    async def run() -> float:
        store = obstore.store.HTTPStore.from_url(url, client_options={"allow_http": True})

        async def read(name: str) -> Any:
            answer = await store.get_async(name)
            return await answer.bytes_async()

        return (await bare(read, names))[0]

    return uvloop.run(run())


def bare_aiohttp(url: str, names: list[str]) -> float:
    """Run the loop over aiohttp."""

    async def run() -> float:
        connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:

            async def read(name: str) -> Any:
                async with session.get(f"{url}/{name}") as answer:
                    return await answer.read()

            return (await bare(read, names))[0]

    return uvloop.run(run())


def streamed(url: str, names: list[str], cache_gb: float, policy: str = "auto") -> float:
    """Measure adapter, look-ahead and DataLoader, from the first request to the last batch."""
    source = {"name": "data", "type": "http", "path": url, "storage_options": {"index": f"{names[0][:2]}.json"}}
    with StreamingDatasetAdapter(source, concurrency=IN_FLIGHT, cache_size_gb=cache_gb, policy=policy) as adapter:
        batches = adapter.look_ahead(BatchSampler(SequentialSampler(adapter), BATCH, drop_last=False))
        started = time.perf_counter()
        count = sum(len(batch) for batch in DataLoader(adapter, batch_sampler=batches, collate_fn=collate))
        return count / (time.perf_counter() - started)


def main() -> None:
    """Run everything and print a table and one line of JSON."""
    parser = report.options(__doc__, repeats=7)
    parser.add_argument("--objects", type=int, default=4096)
    parser.add_argument("--port", type=int, default=9127)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    figures: dict[str, object] = {"objects": arguments.objects, "in_flight": IN_FLIGHT, "batch": BATCH}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        started = subprocess.run(
            [SERVICES / "start-nginx.sh", folder, str(arguments.port)], check=True, capture_output=True, text=True
        )
        url = started.stdout.strip()
        try:
            for kind in ("raw", "pt"):
                names = write_objects(root / "www", kind, arguments.objects)
                runs = {
                    "obstore": lambda names=names: bare_obstore(url, names),
                    "aiohttp": lambda names=names: bare_aiohttp(url, names),
                    "adapter": lambda names=names: streamed(url, names, 10),
                    "adapter_small_cache": lambda names=names: streamed(url, names, 0.1, "lru"),
                }
                rates = report.interleaved(arguments.repeats, runs)
                best = [max(pair) for pair in zip(rates["obstore"], rates["aiohttp"], strict=True)]
                figures[f"{kind}_adapter_over_best_bare"] = report.ratio(rates["adapter"], best)
                figures[f"{kind}_small_cache_over_best_bare"] = report.ratio(rates["adapter_small_cache"], best)
                figures[f"{kind}_samples_per_second"] = {name: report.median(values) for name, values in rates.items()}
        finally:
            subprocess.run([SERVICES / "stop.sh", folder], check=True, capture_output=True)
    report.emit("http_loopback", figures, seed=arguments.seed)


def write_objects(www: Path, kind: str, count: int) -> list[str]:
    """Write 256 different files of 100 kB under `count` names, to spare the page cache, and return the names."""
    folder = www / kind
    folder.mkdir(parents=True)
    names = []
    for i in range(count):
        name = f"{kind}/{i:05d}.{'bin' if kind == 'raw' else 'pt'}"
        target = www / name
        if i >= 256:
            target.hardlink_to(www / names[i % 256])
        elif kind == "raw":
            target.write_bytes(np.random.default_rng(i).bytes(100_000))
        else:
            torch.save({"latents": torch.randn(25_000 - 300)}, target)
        names.append(name)
    listing = [{"path": name, "size": (www / name).stat().st_size} for name in names]
    (www / f"{kind[:2]}.json").write_text(json.dumps(listing))
    return names


if __name__ == "__main__":
    main()
