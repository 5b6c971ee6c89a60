"""HTTP sources in processes that fork and that end: no hang, no abort, no complaint."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys

import pytest

from tests.conftest import WebServer

FORKED = """
import asyncio, os, sys
from streaming.core.source_config import DataSourceConfig
from streaming.sources import HTTPDataSource

url, parents_engine, childs_engine = sys.argv[1:]
make = lambda engine: HTTPDataSource(DataSourceConfig("web", "http", url, engine=engine or None))
inherited, unused = make(parents_engine), make(parents_engine)

async def read(source):
    try:
        print(len((await source.read("fork.bin")).data), flush=True)
    except Exception as error:
        print(type(error).__name__, str(error).partition(",")[0], flush=True)

asyncio.run(read(inherited))
if os.fork() == 0:
    asyncio.run(read(inherited))
    asyncio.run(read(make(childs_engine)))
    asyncio.run(inherited.aclose())
    os._exit(0)
os.wait()
asyncio.run(read(inherited))
"""


@pytest.mark.parametrize(
    ("parents", "childs", "expected"),
    [
        ("obstore", "", "200"),
        ("obstore", "obstore", "ClosedError"),
        ("obstore", "aiohttp", "200"),
        ("aiohttp", "", "200"),
    ],
)
def test_forked_child_never_hangs(nginx: WebServer, parents: str, childs: str, expected: str) -> None:
    """An inherited source raises ClosedError in a child; a new source works if its client survives a fork."""
    (nginx.root / "fork.bin").write_bytes(bytes(200))
    command = [sys.executable, "-W", "ignore", "-c", FORKED, nginx.url, parents, childs]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    in_parent, inherited, fresh, after = result.stdout.splitlines()
    assert (in_parent, after) == ("200", "200")
    assert re.match(r"ClosedError source 'web' was opened in process \d+", inherited)
    assert fresh.split(" ")[0] == expected


READ_AND_END = """
import sys
from streaming.core.runtime import current_runtime
from streaming.sources import create_data_source

source = create_data_source(sys.argv[1])
run = current_runtime().run

async def read_on():
    while True:
        await source.read("end.bin")

print(run(source.list_files("end")), len(run(source.read("end.bin")).data))
if sys.argv[2] == "busy":
    for _ in range(8):
        current_runtime().submit(read_on())
    run(source.read("end.bin"))
"""


@pytest.mark.parametrize("how", ["idle", "busy"])
async def test_process_that_ends_right_after_a_read(nginx: WebServer, how: str) -> None:
    """A process that never closes its source ends quietly, also in the middle of reads (one in four aborted)."""
    (nginx.root / "end.bin").write_bytes(bytes(200))
    command = [sys.executable, "-c", READ_AND_END, nginx.url, how]

    async def run() -> tuple[int | None, bytes, bytes]:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
        return process.returncode, out, err

    for _ in range(4):
        for result in await asyncio.gather(run(), run(), run()):
            assert result == (0, b"['end.bin'] 200\n", b"")
