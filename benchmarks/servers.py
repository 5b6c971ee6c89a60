"""Real servers on loopback for a benchmark, objects on them, and a fresh process for runs that must start cold."""

from __future__ import annotations

import json
import multiprocessing
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from streaming.sources.base import Blob, DataSource

T = TypeVar("T")

SERVICES = Path(__file__).parents[1] / "tests" / "services"
CONTENTS = 64  # different files under all names, so that the page cache is not a limit


def write_objects(www: Path, count: int, nbytes: int, seed: int = 0) -> None:
    """Write `count` raw objects below `www`, and `index.json` with their sizes."""
    rng = np.random.default_rng(seed)
    names = [f"{number % 100:02d}/{number:06d}.bin" for number in range(count)]
    for number, name in enumerate(names):
        target = www / name
        target.parent.mkdir(exist_ok=True)
        if number < CONTENTS:
            target.write_bytes(rng.bytes(nbytes))
        else:
            target.hardlink_to(www / names[number % CONTENTS])
    (www / "index.json").write_text(json.dumps([{"path": name, "size": nbytes} for name in names]))


def at(url: str, *mirrors: str) -> dict[str, Any]:
    """Return the configuration of a source over such objects, with its mirrors."""
    copies = [_at(f"mirror{number}", mirror) for number, mirror in enumerate(mirrors)]
    return {**_at("data", url), "mirrors": copies}


def _at(name: str, url: str) -> dict[str, Any]:
    return {"name": name, "type": "http", "path": url, "storage_options": {"index": "index.json"}}


@contextmanager
def nginx(count: int, nbytes: int, seed: int = 0) -> Iterator[str]:
    """Run nginx over that many objects and yield its URL."""
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as url:
        write_objects(Path(folder) / "www", count, nbytes, seed)
        yield url


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Run nginx over the folder `folder / "www"` and yield its URL."""
    (folder / "www").mkdir(exist_ok=True)
    command = ["bash", str(SERVICES / "start-nginx.sh"), str(folder), str(_free_port())]
    # Its cache of open files would use up all descriptors, and every response would be a 500.
    with _running(["env", "NGINX_FILE_CACHE=off", *command], str(folder)) as url:
        yield url


class FaultProxy:
    """HAProxy, which delays, refuses and stalls as configured by `set`.

    Attributes:
        url: URL of the proxy.
    """

    def __init__(self, url: str, folder: str) -> None:
        self.url = url
        self._folder = folder

    def set(self, **faults: int) -> None:
        """Change faults, such as `latency_ms=30`; the others stay."""
        words = [f"{name}={value}" for name, value in faults.items()]
        subprocess.run(["bash", str(SERVICES / "fault.sh"), self._folder, *words], check=True, capture_output=True)


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Run a proxy in front of a URL, without faults at first."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["bash", str(SERVICES / "start-faultproxy.sh"), folder, str(_free_port())]
        with _running(["env", f"UPSTREAM={upstream.removeprefix('http://')}", *command], folder) as url:
            yield FaultProxy(url, folder)


@contextmanager
def _running(command: list[str], folder: str) -> Iterator[str]:
    try:
        yield subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    finally:
        subprocess.run(["bash", str(SERVICES / "stop.sh"), folder], check=True, capture_output=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Counted(DataSource):
    """A source that counts its reads, one for each request that reaches its server.

    Attributes:
        reads: number of reads that began.
    """

    def __init__(self, source: DataSource) -> None:
        super().__init__(source.config)
        self.reads = 0
        self._source = source

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        self.reads += 1
        return await self._source.read(path, start, end)

    def iter_files(self, prefix: str = "") -> Any:
        return self._source.iter_files(prefix)

    async def aclose(self) -> None:
        await self._source.aclose()


def apart(run: Callable[..., T], *arguments: Any, limit_s: float = 120) -> T:
    """Return the result of `run` in a new process, without an adapted concurrency limit or known latencies."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply_async(run, arguments).get(limit_s)
