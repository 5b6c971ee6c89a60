"""Which sources hold the bytes of a part: one with its mirrors, or several that have the same folders.

A source made from its configuration gets the wrappers of `streaming.resilience`, unless it is plain local or in memory.
A `DataSource` object is taken as it is: whoever makes one decides what stands around it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import fields
from time import perf_counter
from typing import Any, NamedTuple

from streaming.core.config_model import suggest
from streaming.core.source_config import DataSourceConfig, parse_source
from streaming.errors import ConfigError
from streaming.index import Row, SampleIndex, validator
from streaming.resilience import Expected, ResilienceConfig, Wrapper, outcome_of, stack
from streaming.resilience.replica_metrics import ReplicaMetrics, counts_requests
from streaming.resilience.wrapper import Read, read_of
from streaming.sources import create_data_source
from streaming.sources.base import Blob, DataSource, FileInfo
from streaming.telemetry.counters import MetricsSnapshot, SourceCounters, ThreadCounters

__all__ = ["Entry", "ReplicaReader", "open_entries"]


class Entry(NamedTuple):
    """One source as it was configured.

    Attributes:
        source: what lists, and reads unless other entries hold the same part.
        copies: the source itself, and its mirrors.
        settings: the constants of what stands around it.
    """

    source: DataSource
    copies: tuple[DataSource, ...]
    settings: ResilienceConfig


def open_entries(
    configured: Iterable[Any], resilience: Mapping[str, Any] | None = None, max_object_bytes: int | None = None
) -> list[Entry]:
    """The sources of an adapter, none of them opened yet.

    Args:
        configured: configurations, or `DataSource` objects.
        resilience: constants of `ResilienceConfig` that differ from the defaults.
        max_object_bytes: bound the reads of each configured source and mirror, where its own limit is larger.

    Raises:
        ConfigError: if one cannot be used.
    """
    settings = _settings(resilience or {})
    return [_entry(source, settings, max_object_bytes) for source in configured]


def _settings(constants: Mapping[str, Any]) -> ResilienceConfig:
    known = [field.name for field in fields(ResilienceConfig)]
    for name in constants:
        if name not in known:
            raise ConfigError(f"resilience has no constant {name!r}: {suggest(name, known)}")
    return ResilienceConfig(**constants)


def _entry(configured: Any, settings: ResilienceConfig, limit: int | None) -> Entry:
    if isinstance(configured, DataSource):
        return Entry(configured, (configured,), settings)
    config: DataSourceConfig = parse_source(configured)
    copies = tuple(create_data_source(_limited(each, limit)) for each in (config, *config.mirrors))
    if len(copies) == 1 and copies[0].read_blocking is not None:
        return Entry(copies[0], copies, settings)
    return Entry(stack(copies, settings), copies, settings)


def _limited(config: DataSourceConfig, limit: int | None) -> DataSourceConfig:
    if limit is None or limit >= config.max_object_bytes:
        return config
    return config.model_copy(update={"max_object_bytes": limit})


class _Below(Wrapper):
    """A folder of a source, as a copy of the same folder elsewhere. The source is closed by whoever opened it."""

    def __init__(self, source: DataSource, folder: str) -> None:
        super().__init__(source)
        self._folder = folder

    async def read(self, path: str, start: int = 0, end: int | None = None, *, expect: Expected | None = None) -> Blob:
        return await self._read_below(self._folder + path, start, end, expect=expect)

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        async for info in self.source.iter_files(self._folder + prefix):
            yield FileInfo(info.path.removeprefix(self._folder), info.size, info.etag, info.modified)
        self.skipped = self.source.skipped.below(self._folder)

    async def aclose(self) -> None:
        self._closed = True


class _Shared(NamedTuple):
    """A part that several entries hold: what reads it, and its folder in each entry."""

    source: DataSource
    read: Read
    folders: dict[int, str]


class ReplicaReader:
    """Reads the rows of an index from whichever copy can.

    Args:
        entries: what the index was built over, in the same order; closed with the reader.
        index: says which part lies in which folders.

    Attributes:
        is_blocking: all reads merely block a thread, so that one pool job reads and decodes.
    """

    def __init__(self, entries: Sequence[Entry], index: SampleIndex) -> None:
        self._entries = entries
        self._reads = [read_of(entry.source) for entry in entries]
        self._shared = {
            part: _shared([(entries[number], number, folder) for number, folder in roots])
            for part, roots in zip(index.parts, index.roots, strict=True)
            if len(roots) > 1
        }
        self._comparable = [
            has_etags and len(entry.copies) == 1 for entry, has_etags in zip(entries, index.has_etags, strict=True)
        ]
        self.is_blocking = not self._shared and all(entry.source.read_blocking is not None for entry in entries)
        every: list[list[SourceCounters] | None] = [None if counts_requests(entry.source) else [] for entry in entries]
        self._counters = [None if each is None else ThreadCounters(each) for each in every]
        self._readings = ReplicaMetrics(
            [
                *((entry.source, each) for entry, each in zip(entries, every, strict=True)),
                *((shared.source, None) for shared in self._shared.values()),
            ]
        )

    def metrics_snapshot(self) -> MetricsSnapshot:
        """The families `source_*`, each under the name of a copy; from any thread, also once the reader is closed."""
        return self._readings.take()

    @property
    def nbytes(self) -> int:
        """Bytes that came from all copies so far: those of failed attempts, of hedges and of the index too."""
        return self._readings.nbytes

    def source_of(self, row: Row) -> DataSource:
        """The source that the index names for a row."""
        return self._entries[row.source].source

    async def read(self, row: Row) -> Blob:
        """The bytes of a row.

        Raises:
            SourceError: no copy could be read.
        """
        shared = self._shared.get(row.part) if self._shared else None
        if shared is not None:
            read, path = shared.read, row.path.removeprefix(shared.folders[row.source])
        else:
            counters = self._counters[row.source]
            if counters is not None:
                return await _counted(self._entries[row.source].source, row, counters.mine)
            read, path = self._reads[row.source], row.path
        return await read(path, row.start, _end(row), expect=(row.size, None, None))

    def read_blocking(self, row: Row, buffer: memoryview | None, began: float) -> tuple[Blob, float]:
        """The bytes of a row, in this thread; into the buffer if there is one and the source can.

        Args:
            row: of an index of which `is_blocking` holds.
            buffer: where the bytes may go; None for memory of their own.
            began: the moment, as `time.perf_counter`.

        Returns:
            What was read, and the moment after.
        """
        source = self._entries[row.source].source
        counters = self._counters[row.source].mine  # type: ignore[union-attr]
        counters.in_flight += 1
        try:
            if buffer is not None and source.read_into is not None:
                blob = source.read_into(row.path, row.start, buffer)
            else:
                blob = source.read_blocking(row.path, row.start, _end(row))  # type: ignore[misc]
            ended = perf_counter()
            counters.answered(blob.data, ended - began)
        except BaseException as error:
            counters.ended(outcome_of(error))
            raise
        return blob, ended

    def is_other(self, row: Row, blob: Blob) -> bool:
        """Whether a blob is of another object than the listing had, by its ETag or what its source knows better.

        ETags of different copies differ, so this is only asked of sources without any.
        """
        if not self._comparable[row.source] or row.part in self._shared:
            return False
        source = self._entries[row.source].source
        return not source.is_unchanged(blob, lambda etag: validator(etag, 0, None) == row.validator)

    async def aclose(self) -> None:
        """Close every source."""
        for shared in self._shared.values():
            await shared.source.aclose()
        for entry in self._entries:
            await entry.source.aclose()


def _shared(roots: Sequence[tuple[Entry, int, str]]) -> _Shared:
    copies = [_Below(copy, folder) for entry, _, folder in roots for copy in entry.copies]
    source = stack(copies, roots[0][0].settings)
    return _Shared(source, read_of(source), {number: folder for _, number, folder in roots})


async def _counted(source: DataSource, row: Row, counters: SourceCounters) -> Blob:
    """The bytes of a row of a source that does not count by itself."""
    counters.in_flight += 1
    started = perf_counter()
    try:
        blob = await source.read(row.path, row.start, _end(row))
        counters.answered(blob.data, perf_counter() - started)
    except BaseException as error:
        counters.ended(outcome_of(error))
        raise
    return blob


def _end(row: Row) -> int | None:
    """Where the bytes of a row end; None for a whole object, which needs no range."""
    return None if row.start == 0 and row.length == row.size else row.start + row.length
