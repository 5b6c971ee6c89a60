"""How fast is listing 100,000 objects vs. a bare parallel listing?

Tiny objects in 50 folders of a bucket of Ceph's object gateway on this machine. The bare listings use the same client
library to list the folders at the top, and then these in parallel, 16 at a time, like the sources; they keep path,
size, ETag and time of each object, as an index needs. Server and reader share the processor.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import report
import uvloop
from clouds import BUCKET, s3_client, s3_source, s3_store, served

from streaming.sources import create_data_source

FOLDERS = 50
SIDE_BY_SIDE = 16
PUTS = 64

Row = tuple[str, int, str | None, float]


async def fill(url: str, objects: int) -> None:
    """Put objects of 10 bytes, evenly over the folders, 64 at a time."""
    store = s3_store(url)
    names = iter([f"{number % FOLDERS:02d}/{number // FOLDERS:06d}.bin" for number in range(objects)])

    async def work() -> None:
        for name in names:
            await store.put_async(name, b"0123456789", use_multipart=False)

    await asyncio.gather(*(work() for _ in range(PUTS)))


async def side_by_side(folders: list[str], list_one: Callable[[str], Awaitable[list[Row]]]) -> int:
    """Return the number of objects in all folders."""
    gate = asyncio.Semaphore(SIDE_BY_SIDE)

    async def list_folder(folder: str) -> list[Row]:
        async with gate:
            return await list_one(folder)

    return sum(map(len, await asyncio.gather(*map(list_folder, folders))))


async def bare_obstore(url: str) -> int:
    """List with obstore and return the number of objects."""
    store = s3_store(url)

    async def list_one(folder: str) -> list[Row]:
        return [
            (meta["path"], meta["size"], meta["e_tag"], meta["last_modified"].timestamp())
            async for page in store.list(folder, chunk_size=1000)
            for meta in page
        ]

    top = await store.list_with_delimiter_async()
    return await side_by_side(list(top["common_prefixes"]), list_one)


async def bare_aioboto3(url: str) -> int:
    """List with aioboto3 and return the number of objects."""
    async with s3_client(url) as client:
        pages = client.get_paginator("list_objects_v2").paginate

        async def list_one(folder: str) -> list[Row]:
            return [
                (each["Key"], each["Size"], each["ETag"], each["LastModified"].timestamp())
                async for page in pages(Bucket=BUCKET, Prefix=folder)
                for each in page.get("Contents", ())
            ]

        top = await client.list_objects_v2(Bucket=BUCKET, Delimiter="/")
        return await side_by_side([each["Prefix"] for each in top["CommonPrefixes"]], list_one)


async def by_source(config: dict[str, Any]) -> int:
    """List with the source and return the number of objects."""
    async with create_data_source(config) as source:
        return len([info async for info in source.iter_files()])


def timed(lists: Callable[[], Awaitable[int]], objects: int, cpu: list[float]) -> float:
    """Return the seconds of a listing including a new client; its CPU seconds go to `cpu`."""

    async def run() -> int:
        return await lists()

    cpu_before, started = time.process_time(), time.perf_counter()
    found = uvloop.run(run())
    took = time.perf_counter() - started
    cpu.append(time.process_time() - cpu_before)
    if found != objects:
        sys.exit(f"{found} of {objects} objects were listed")
    return took


def main() -> None:
    """Run everything and print a table and one line of JSON."""
    parser = report.options(__doc__)
    parser.add_argument("--objects", type=int, default=100_000, help="objects in the bucket (default 100000)")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"objects": arguments.objects, "folders": FOLDERS, "side_by_side": SIDE_BY_SIDE}
    with tempfile.TemporaryDirectory() as folder, served("start-s3.sh", Path(folder)) as url:
        lists = {
            "obstore_bare": partial(bare_obstore, url),
            "obstore_source": partial(by_source, s3_source(url, "obstore")),
            "aioboto3_bare": partial(bare_aioboto3, url),
            "aioboto3_source": partial(by_source, s3_source(url, "aioboto3")),
        }
        started = time.perf_counter()
        asyncio.run(make_bucket(url))
        asyncio.run(fill(url, arguments.objects))
        print(f"filled in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        cpu: dict[str, list[float]] = {name: [] for name in lists}
        runs = {name: partial(timed, each, arguments.objects, cpu[name]) for name, each in lists.items()}
        seconds = report.interleaved(arguments.repeats, runs)
    for engine in ("obstore", "aioboto3"):
        figures[f"{engine}_source_over_bare"] = report.ratio(seconds[f"{engine}_source"], seconds[f"{engine}_bare"])
    figures["seconds"] = {name: report.spread(values) for name, values in seconds.items()}
    figures["cpu_seconds"] = {name: report.median(values) for name, values in cpu.items()}
    rows = [[name, *report.spread(values).values(), report.median(cpu[name])] for name, values in seconds.items()]
    report.table(f"seconds for {arguments.objects} objects", [["listing", "median", "min", "max", "cpu"], *rows])
    report.emit("listing", figures, seed=arguments.seed)


async def make_bucket(url: str) -> None:
    """Make the bucket."""
    async with s3_client(url) as client:
        await client.create_bucket(Bucket=BUCKET)


if __name__ == "__main__":
    main()
