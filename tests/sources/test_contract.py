"""Every source of this version against the contract."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streaming.core.source_config import DataSourceConfig
from streaming.sources import HTTPDataSource, LocalDataSource
from streaming.sources.base import DataSource
from streaming.testing import FaultySource, LatencySource, MemorySource
from tests.conftest import WebServer
from tests.contracts.source import NO_FILE_NAME, ODD_KEYS, Place, SourceContract


def place_in(folder: Path) -> Place:
    """Place objects as files below `folder`, renamed into place as a careful writer does."""

    def place(path: str, data: bytes | None) -> None:
        target = folder / path
        if data is None:
            target.unlink()
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = folder.parent / "placing.tmp"
        fresh.write_bytes(data)
        os.replace(fresh, target)

    return place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder."""
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


class TestLocal(SourceContract):
    """A folder."""

    cannot_hold = NO_FILE_NAME

    @pytest.fixture
    def place(self, folder: Path) -> Place:
        """Files below the root."""
        return place_in(folder)

    @pytest.fixture
    async def source(self, folder: Path) -> AsyncIterator[DataSource]:
        """A source over the folder."""
        async with LocalDataSource(DataSourceConfig("local", "local", str(folder))) as source:
            yield source


NOT_IN_MEMORY = {
    name: "a dict is filled through the source, which takes no such path"
    for name in ODD_KEYS
    if name.startswith(("leading_", "dot_dot_", "backslash_", "drive"))
}


class _PlacedInMemory(SourceContract):
    cannot_hold = NOT_IN_MEMORY

    @pytest.fixture
    def memory(self) -> MemorySource:
        """The objects."""
        return MemorySource("memory")

    @pytest.fixture
    def place(self, memory: MemorySource) -> Place:
        """Objects put into the dict behind the source."""

        def place(path: str, data: bytes | None) -> None:
            if data is None:
                memory.delete(path)
            else:
                memory.put(path, data)

        return place


class TestMemory(_PlacedInMemory):
    """A dict."""

    @pytest.fixture
    def source(self, memory: MemorySource) -> DataSource:
        """The source itself."""
        return memory


class TestLatency(_PlacedInMemory):
    """A dict, a little later."""

    @pytest.fixture
    def source(self, memory: MemorySource) -> DataSource:
        """The source behind a short latency."""
        return LatencySource(memory, 0.001, jitter_s=0.000_5)


class TestFaultyWithoutFaults(_PlacedInMemory):
    """A dict behind faults that never come."""

    @pytest.fixture
    def source(self, memory: MemorySource) -> DataSource:
        """The source behind no fault."""
        return FaultySource(memory)


class _BehindNginx(SourceContract):
    cannot_hold = NO_FILE_NAME
    engine: str
    listing = ""

    @pytest.fixture
    def served(self, nginx: WebServer, tmp_path: Path) -> Path:
        """A folder that the web server shows, of a name that needs escaping."""
        folder = nginx.root / f"{tmp_path.name} %41" / "root"
        folder.mkdir(parents=True)
        return folder

    @pytest.fixture
    def place(self, served: Path) -> Place:
        """Files below the folder."""
        return place_in(served)

    @pytest.fixture
    async def source(self, nginx: WebServer, served: Path) -> AsyncIterator[DataSource]:
        """A source over the folder's URL."""
        url = f"{nginx.url}{self.listing}{served.parent.name.replace('%', '%25')}/root"
        async with HTTPDataSource(DataSourceConfig("web", "http", url, engine=self.engine)) as source:
            yield source


class TestHTTPByObstore(_BehindNginx):
    """nginx read by obstore."""

    engine = "obstore"


class TestHTTPByAiohttp(_BehindNginx):
    """nginx read by aiohttp."""

    engine = "aiohttp"


class TestHTTPListedInJSON(_BehindNginx):
    """nginx with listings in JSON."""

    engine = "obstore"
    listing = "json/"
