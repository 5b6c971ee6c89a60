"""How fast is the adapter vs. a bare loop over the same client library?

Objects of 100 kB in servers of S3, GCS, the Hub and HTTP on this machine, 64 reads in flight, in shuffled order. The
bare loop has 64 tasks on the client library, no batch barrier and no resilience; the adapter has its default
configuration. Both decode with the same codec and stack batches of 64. Half of the objects are read before the clock
starts, so that the adapter writes into cache memory that was used before. Server and reader share the processor: the
rates compare the two, and say little about a real cloud.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import aioboto3
import aiohttp
import boto3
import obstore.store
import report
import torch
import uvloop
from botocore.config import Config
from http_loopback import BATCH, IN_FLIGHT, SERVICES, Stopwatch, bare, collate, write_objects
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from streaming.adapter import StreamingDatasetAdapter

BUCKET = "bench"
CACHE_GB = 0.04  # full before the clock starts; `lru`, because no object is read twice
KEYS = {"aws_access_key_id": "testkey", "aws_secret_access_key": "testsecret"}
OBSTORE_OPTIONS = {"allow_http": True}
Read = Callable[[str], Awaitable[Any]]


@dataclass
class Engine:
    """A client library over one server.

    Attributes:
        source: the configuration for the adapter.
        opened: opens a client and yields a function that reads an object with it.
        cpu: seconds per 1,000 objects of each run so far, by contender.
    """

    source: dict[str, Any]
    opened: Callable[[], AbstractAsyncContextManager[Read]]
    cpu: dict[str, list[float]] = field(default_factory=lambda: {"bare": [], "adapter": []})

    def run_bare(self, names: list[str]) -> float:
        """Return the objects per second of the bare loop."""

        async def run() -> tuple[float, float]:
            async with self.opened() as read:
                return await bare(read, names, len(names) // 2)

        return self._noted("bare", *uvloop.run(run()))

    def run_adapter(self, seed: int) -> float:
        """Return the objects per second of adapter, look-ahead and DataLoader, without building the index."""
        options = {"concurrency": IN_FLIGHT, "cache_size_gb": CACHE_GB, "policy": "lru"}
        with StreamingDatasetAdapter(self.source, **options) as adapter:
            order = RandomSampler(adapter, generator=torch.Generator().manual_seed(seed))
            batches = adapter.look_ahead(BatchSampler(order, BATCH, drop_last=False))
            watch = Stopwatch(len(adapter) // 2)
            for batch in DataLoader(adapter, batch_sampler=batches, collate_fn=collate):
                watch.note(len(batch))
            return self._noted("adapter", *watch.stop())

    def _noted(self, contender: str, rate: float, cpu: float) -> float:
        self.cpu[contender].append(cpu)
        return rate


@contextlib.asynccontextmanager
async def by_obstore(make: Callable[[], Any]) -> AsyncIterator[Read]:
    """Yield a function that reads with a store of obstore."""
    store = make()

    async def read(name: str) -> Any:
        return await (await store.get_async(name)).bytes_async()

    yield read


@contextlib.asynccontextmanager
async def by_aioboto3(url: str) -> AsyncIterator[Read]:
    """Yield a function that reads with a client of aioboto3."""
    async with s3_client(url) as client:

        async def read(name: str) -> bytes:
            answer = await client.get_object(Bucket=BUCKET, Key=name)
            async with answer["Body"] as body:
                return await body.read()

        yield read


@contextlib.asynccontextmanager
async def by_gcsfs(url: str) -> AsyncIterator[Read]:
    """Yield a function that reads with a file system of gcsfs."""
    import gcsfs  # reads a variable once at import, so that must be set before

    files = gcsfs.GCSFileSystem(endpoint_url=url, token="anon", asynchronous=True, skip_instance_cache=True)
    session = await files._set_session()

    async def read(name: str) -> bytes:
        return await files._cat_file(f"{BUCKET}/{name}")

    yield read
    await session.close()


@contextlib.asynccontextmanager
async def by_aiohttp(url: str) -> AsyncIterator[Read]:
    """Yield a function that reads with a session of aiohttp."""
    connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:

        async def read(name: str) -> bytes:
            async with session.get(f"{url}/{name}") as answer:
                answer.raise_for_status()
                return await answer.read()

        yield read


def s3_client(url: str) -> Any:
    """Return a client of aioboto3, to be opened by `async with`."""
    return aioboto3.Session(**KEYS).client("s3", endpoint_url=url, region_name="us-east-1", config=s3_config())


def s3_config() -> Config:
    """Configure one request per object; newer versions would read it in checked parts, which is slower."""
    checks = {"request_checksum_calculation", "response_checksum_validation"} & set(Config.OPTION_DEFAULTS)
    settings: dict[str, Any] = dict.fromkeys(checks, "when_required")
    return Config(max_pool_connections=IN_FLIGHT, s3={"addressing_style": "path"}, **settings)


def s3_store(url: str) -> obstore.store.S3Store:
    """Return a store of obstore over the bucket."""
    return obstore.store.S3Store(
        BUCKET,
        endpoint=url,
        region="us-east-1",
        access_key_id=KEYS["aws_access_key_id"],
        secret_access_key=KEYS["aws_secret_access_key"],
        virtual_hosted_style_request=False,
        client_options=OBSTORE_OPTIONS,
    )


def s3_source(url: str, engine: str) -> dict[str, Any]:
    """Return the configuration of a source over the bucket."""
    options = {"endpoint_url": url, "region": "us-east-1"}
    root = {"name": "data", "type": "s3", "path": f"s3://{BUCKET}", "engine": engine}
    return {**root, "credentials": KEYS, "storage_options": options}


@contextlib.contextmanager
def served(script: str, folder: Path, **environment: str) -> Iterator[str]:
    """Run a server of `tests/services` on free ports and yield its URL."""
    try:
        command = ["bash", str(SERVICES / script), str(folder), str(free_ports())]
        started = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **environment})
        yield started.stdout.strip().splitlines()[-1]
    finally:
        subprocess.run(["bash", str(SERVICES / "stop.sh"), str(folder)], check=True, capture_output=True)


def free_ports() -> int:
    """Return a free port whose next port is free too, as some servers need both."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


@contextlib.contextmanager
def s3(folder: Path, objects: Path, names: list[str], _: Path) -> Iterator[dict[str, Engine]]:
    """Ceph's object gateway, objects in RAM."""
    with served("start-s3.sh", folder) as url:
        client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=s3_config(), **KEYS)
        client.create_bucket(Bucket=BUCKET)
        place(names, lambda name: client.put_object(Bucket=BUCKET, Key=name, Body=(objects / name).read_bytes()))
        client.close()
        yield {
            "s3_obstore": Engine(s3_source(url, "obstore"), partial(by_obstore, partial(s3_store, url))),
            "s3_aioboto3": Engine(s3_source(url, "aioboto3"), partial(by_aioboto3, url)),
        }


@contextlib.contextmanager
def gcs(folder: Path, objects: Path, names: list[str], venvs: Path) -> Iterator[dict[str, Engine]]:
    """fake-gcs-server, objects in RAM."""
    with served("start-gcs.sh", folder, VENV=str(venvs / "gcs"), GCS_BUCKET=BUCKET) as url:

        def put(name: str) -> None:
            address = f"{url}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name.replace('/', '%2F')}"
            with urlopen(Request(address, (objects / name).read_bytes(), method="POST")) as answer:
                answer.read()

        place(names, put)
        source = {"name": "data", "type": "gcs", "path": f"gs://{BUCKET}", "storage_options": {"endpoint_url": url}}
        store = partial(
            obstore.store.GCSStore,
            BUCKET,
            base_url=url,
            skip_signature=True,
            client_options=OBSTORE_OPTIONS,
        )
        yield {
            "gcs_obstore": Engine({**source, "engine": "obstore"}, partial(by_obstore, store)),
            "gcs_gcsfs": Engine({**source, "engine": "gcsfs"}, partial(by_gcsfs, url)),
        }


@contextlib.contextmanager
def hub(folder: Path, objects: Path, names: list[str], venvs: Path) -> Iterator[dict[str, Engine]]:
    """A stand-in for the Hub: nginx serves the files."""
    data = folder / "repos" / "org"
    data.mkdir(parents=True)
    (data / "data").symlink_to(objects)
    settings = {"VENV": str(venvs / "hub"), "HF_REPOS": str(folder / "repos")}
    with served("start-hfhub.sh", folder, **settings) as url:
        options = {"endpoint": url, "token": False}
        source = {"name": "data", "type": "huggingface", "path": "org/data", "storage_options": options}
        commit = (folder / "publish.log").read_text().strip()
        files = f"{url}/datasets/org/data/resolve/{commit}"
        yield {"hub": Engine(source, partial(by_aiohttp, files))}


@contextlib.contextmanager
def http(folder: Path, objects: Path, names: list[str], _: Path) -> Iterator[dict[str, Engine]]:
    """A plain nginx."""
    (folder / "www").mkdir(parents=True)
    with served("start-nginx.sh", folder) as url:
        (folder / "www" / "raw").symlink_to(objects / "raw")
        listing = [{"path": name, "size": (objects / name).stat().st_size} for name in names]
        (folder / "www" / "index.json").write_text(json.dumps(listing))
        source = {"name": "data", "type": "http", "path": url, "storage_options": {"index": "index.json"}}
        store = partial(obstore.store.HTTPStore.from_url, url, client_options=OBSTORE_OPTIONS)
        yield {
            "http_obstore": Engine({**source, "engine": "obstore"}, partial(by_obstore, store)),
            "http_aiohttp": Engine({**source, "engine": "aiohttp"}, partial(by_aiohttp, url)),
        }


CLOUDS = {"s3": s3, "gcs": gcs, "hub": hub, "http": http}


def place(names: list[str], put: Callable[[str], Any]) -> None:
    """Put all objects, several at a time."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, names))


def measure(engine: Engine, names: list[str], repeats: int, seed: int) -> dict[str, Any]:
    """Measure one engine and return its figures."""
    shuffled = random.Random(seed).sample(names, len(names))
    runs = {"bare": lambda: engine.run_bare(shuffled), "adapter": lambda: engine.run_adapter(seed)}
    for run in runs.values():  # imports and first connections are not measured
        run()
    engine.cpu = {name: [] for name in runs}
    rates = report.interleaved(repeats, runs)
    return {
        "adapter_over_bare": report.ratio(rates["adapter"], rates["bare"]),
        "objects_per_second": {name: report.spread(values) for name, values in rates.items()},
        "cpu_seconds_per_1000": {name: report.spread(values) for name, values in engine.cpu.items()},
    }


def show(figures: dict[str, dict[str, Any]]) -> None:
    """Print the table."""
    rows: list[list[object]] = [["engine", "ratio", "min", "max", "bare/s", "adapter/s", "bare cpu", "adapter cpu"]]
    for name, of_engine in figures.items():
        ratio, rates, cpu = of_engine.values()
        cells = [
            *ratio.values(),
            rates["bare"]["median"],
            rates["adapter"]["median"],
            cpu["bare"]["median"],
            cpu["adapter"]["median"],
        ]
        rows.append([name, *cells])
    report.table("adapter vs. bare loop; CPU in seconds per 1,000 objects", rows)


def main() -> None:
    """Run everything and print a table and one line of JSON."""
    parser = report.options(__doc__, repeats=7)
    parser.add_argument("--objects", type=int, default=2048, help="objects per run (default 2048)")
    parser.add_argument("--clouds", nargs="*", default=list(CLOUDS), choices=list(CLOUDS), help="default: all")
    parser.add_argument("--venvs", type=Path, help="folder of the servers' own environments (default: create them)")
    arguments = parser.parse_args()
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # otherwise gcsfs uses gRPC, 60 s for a bucket
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        names = write_objects(folder / "objects", "raw", arguments.objects)
        (folder / "objects" / "ra.json").unlink()
        for cloud in arguments.clouds:
            with CLOUDS[cloud](
                folder / cloud, folder / "objects", names, arguments.venvs or folder / "venvs"
            ) as engines:
                for name, engine in engines.items():
                    figures[name] = measure(engine, names, arguments.repeats, arguments.seed)
                    print(name, json.dumps(figures[name]), file=sys.stderr, flush=True)
    show(figures)
    settings = {"objects": arguments.objects, "in_flight": IN_FLIGHT, "batch": BATCH, "cache_gb": CACHE_GB}
    report.emit("clouds", {**settings, "engines": figures}, seed=arguments.seed)


if __name__ == "__main__":
    main()
