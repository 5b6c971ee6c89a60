"""GCS sources in processes that fork, that end, and that lack gcsfs."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.sources.gcs_server import GcsServer, gcs

__all__ = ["gcs"]  # a fixture

FORKED = """
import asyncio, os, sys
from streaming.core.source_config import DataSourceConfig
from streaming.sources import GCSDataSource

url, root, engine = sys.argv[1:]
options = {"endpoint_url": url}
make = lambda: GCSDataSource(DataSourceConfig("cloud", "gcs", root, engine=engine, storage_options=options))
inherited, unused = make(), make()

async def read(source):
    try:
        print(len((await source.read("fork.bin")).data), flush=True)
    except Exception as error:
        print(type(error).__name__, str(error).partition(",")[0], flush=True)

async def main():
    await read(inherited)
    await inherited.aclose()

loop = asyncio.new_event_loop()
loop.run_until_complete(read(inherited))
if os.fork() == 0:
    asyncio.run(read(inherited))
    asyncio.run(inherited.aclose())
    del inherited
    asyncio.run(read(unused))
    os._exit(0)
os.wait()
loop.run_until_complete(main())
"""


@pytest.mark.parametrize(("engine", "expected"), [("obstore", "ClosedError"), ("gcsfs", "200")])
def test_forked_child_never_hangs(gcs: GcsServer, engine: str, expected: str) -> None:
    """An inherited source raises ClosedError in a child; an unused source works if its client survives a fork."""
    bucket = gcs.make_bucket()
    gcs.put(bucket, "fork.bin", bytes(200))
    command = [sys.executable, "-W", "ignore", "-c", FORKED, gcs.url, bucket, engine]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    in_parent, inherited, unused, after = result.stdout.splitlines()
    assert (in_parent, after) == ("200", "200")
    assert re.match(r"ClosedError source 'cloud' was opened in process \d+", inherited)
    assert unused.split(" ")[0] == expected


READ_AND_END = """
import sys
from streaming.core.source_config import DataSourceConfig
from streaming.core.runtime import current_runtime
from streaming.sources import GCSDataSource

url, root, engine = sys.argv[1:]
options = {"endpoint_url": url}
source = GCSDataSource(DataSourceConfig("cloud", "gcs", root, engine=engine, storage_options=options))
run = current_runtime().run
print(run(source.list_files("end")), len(run(source.read("end.bin")).data))
"""


@pytest.mark.parametrize("engine", ["obstore", "gcsfs"])
def test_process_that_ends_without_closing(gcs: GcsServer, engine: str) -> None:
    """A process that never closes its source ends quietly."""
    bucket = gcs.make_bucket()
    gcs.put(bucket, "end.bin", bytes(200))
    command = [sys.executable, "-c", READ_AND_END, gcs.url, bucket, engine]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert (result.stdout, result.stderr) == ("['end.bin'] 200\n", "")


WITHOUT_GCSFS = """
import sys
sys.modules["gcsfs"] = None
from streaming.core.source_config import DataSourceConfig
from streaming.errors import MissingExtra
from streaming.sources import GCSDataSource

GCSDataSource(DataSourceConfig("cloud", "gcs", "b"))
try:
    GCSDataSource(DataSourceConfig("cloud", "gcs", "b", engine="gcsfs"))
except MissingExtra as error:
    print(error)
"""


def test_missing_package_names_its_extra() -> None:
    """Without gcsfs only its engine is refused, with the command that installs it."""
    command = [sys.executable, "-c", WITHOUT_GCSFS]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert "'cloud'" in result.stdout
    assert "pip install 'aiprod-streaming[gcs]'" in result.stdout
