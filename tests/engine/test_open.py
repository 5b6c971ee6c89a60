"""Opening an engine, and what is logged when it fails halfway or its work in the background does."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from streaming.adapter import StreamingDatasetAdapter
from streaming.errors import SourceError, SourceUnavailable
from streaming.sources.base import Blob, FileInfo
from streaming.testing import MemorySource


class Broken(MemorySource):
    """Neither lists nor closes."""

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        raise SourceUnavailable("no listing", source=self.name)
        yield

    async def aclose(self) -> None:
        await super().aclose()
        raise OSError("no close")


class Unreadable(MemorySource):
    """Lists its objects and reads none."""

    read_blocking = None  # type: ignore[assignment]

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        raise SourceUnavailable("no bytes", path=path, source=self.name)


def test_a_source_that_cannot_be_closed_after_a_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets the failure, the log the one after it, and the other sources are closed."""
    other = MemorySource("other", {"0.bin": b"0"})
    with pytest.raises(SourceError, match="no listing"):
        StreamingDatasetAdapter([Broken("broken", {}), other])
    [record] = [record for record in caplog.records if "source_not_closed" in record.message]
    assert "source=broken" in record.message
    assert "no close" in record.message
    assert other._closed


def test_a_failed_prefetch_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The read of the sample meets the failure as well."""
    caplog.set_level(logging.DEBUG, "streaming.engine.engine")
    with StreamingDatasetAdapter(Unreadable("data", {"0.bin": b"0"})) as adapter:
        adapter.prefetch_batch([0]).result()
        assert "prefetch_failed position=0" in caplog.text
        with pytest.raises(SourceError, match="no bytes"):
            adapter[0]
