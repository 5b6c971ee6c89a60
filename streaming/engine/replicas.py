"""The sources that hold the bytes of a part: one with its mirrors, or several that have the same folders.

A source made from its configuration gets the wrappers of `streaming.resilience`, unless it is plain local or in memory.
A `DataSource` object is used as it is: its maker decides which wrappers it has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from dataclasses import fields
from time import perf_counter
from typing import Any, NamedTuple

from streaming.core.config_model import suggest
from streaming.core.source_config import DataSourceConfig, parse_source
from streaming.errors import ConfigError
from streaming.index import Row, SampleIndex, validator
from streaming.resilience import Context, ResilienceConfig, Wrapper, request_outcome, stack
from streaming.resilience.replica_metrics import ReplicaMetrics, counts_requests
from streaming.sources import create_data_source
from streaming.sources.base import Blob, DataSource, Expected, FileInfo
from streaming.telemetry.counters import MetricsSnapshot, SourceCounters, ThreadCounters

__all__ = ["ReplicaReader", "SourceEntry", "open_entries"]


class SourceEntry(NamedTuple):
    """One source as it was configured.

    Attributes:
        source: lists objects, and reads them unless other entries hold the same part.
        replicas: the source itself without its wrappers, and its mirrors.
        context: settings of the wrappers.
    """

    source: DataSource
    replicas: tuple[DataSource, ...]
    context: Context


def open_entries(
    configured: Iterable[Any], resilience: Mapping[str, Any] | None = None, max_object_bytes: int | None = None
) -> list[SourceEntry]:
    """Make the sources of an adapter, without opening any.

    Args:
        configured: configurations, or `DataSource` objects.
        resilience: constants of `ResilienceConfig` that differ from the defaults.
        max_object_bytes: bounds the reads of each configured source and mirror, where its own limit is larger.

    Raises:
        ConfigError: if one cannot be used.
    """
    context = Context(_settings(resilience or {}))
    return [_entry(source, context, max_object_bytes) for source in configured]


def _settings(constants: Mapping[str, Any]) -> ResilienceConfig:
    known = [field.name for field in fields(ResilienceConfig)]
    for name in constants:
        if name not in known:
            raise ConfigError(f"resilience has no constant {name!r}: {suggest(name, known)}")
    return ResilienceConfig(**constants)


def _entry(configured: Any, context: Context, max_object_bytes: int | None) -> SourceEntry:
    if isinstance(configured, DataSource):
        return SourceEntry(configured, (configured,), context)
    config: DataSourceConfig = parse_source(configured)
    replicas = tuple(create_data_source(_limited(each, max_object_bytes)) for each in (config, *config.mirrors))
    if len(replicas) == 1 and replicas[0].read_blocking is not None:
        return SourceEntry(replicas[0], replicas, context)
    return SourceEntry(stack(replicas, context), replicas, context)


def _limited(config: DataSourceConfig, max_object_bytes: int | None) -> DataSourceConfig:
    if max_object_bytes is None or max_object_bytes >= config.max_object_bytes:
        return config
    return config.model_copy(update={"max_object_bytes": max_object_bytes})


class _Folder(Wrapper):
    """A folder of a source, as a replica of the same folder elsewhere. Closing it leaves the source open."""

    def __init__(self, source: DataSource, folder: str) -> None:
        super().__init__(source)
        self._folder = folder

    def read_expecting(
        self, path: str, expect: Expected | None, start: int = 0, end: int | None = None
    ) -> Coroutine[Any, Any, Blob]:
        return self.source.read_expecting(self._folder + path, expect, start, end)

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        async for info in self.source.iter_files(self._folder + prefix):
            yield FileInfo(info.path.removeprefix(self._folder), info.size, info.etag, info.modified)
        self.skipped = self.source.skipped.below(self._folder)

    async def aclose(self) -> None:
        self._closed = True


class _SharedPart(NamedTuple):
    """A part that several entries hold: the source that reads it, and its folder in each entry by number."""

    source: DataSource
    folders: dict[int, str]


class ReplicaReader:
    """Reads the rows of an index from any replica that can serve them.

    Args:
        entries: the sources of the index, in its order; closed with the reader.
        index: says which part is in which folders.

    Attributes:
        is_blocking: every read merely blocks a thread, so that one pool job reads and decodes.
    """

    def __init__(self, entries: Sequence[SourceEntry], index: SampleIndex) -> None:
        self._sources = [entry.source for entry in entries]
        self._shared = {
            part: _share([(entries[number], number, folder) for number, folder in roots])
            for part, roots in zip(index.parts, index.roots, strict=True)
            if len(roots) > 1
        }
        self._has_comparable_etags = [
            has_etags and len(entry.replicas) == 1 for entry, has_etags in zip(entries, index.has_etags, strict=True)
        ]
        self.is_blocking = not self._shared and all(source.read_blocking is not None for source in self._sources)
        by_thread: list[list[SourceCounters] | None] = [
            None if counts_requests(source) else [] for source in self._sources
        ]
        self._counters = [None if each is None else ThreadCounters(each) for each in by_thread]
        self._metrics = ReplicaMetrics(
            [
                *zip(self._sources, by_thread, strict=True),
                *((shared.source, None) for shared in self._shared.values()),
            ]
        )

    def metrics_snapshot(self) -> MetricsSnapshot:
        """Return the families `source_*` by replica; from any thread, also once the reader is closed."""
        return self._metrics.take()

    @property
    def nbytes(self) -> int:
        """Bytes that came from all replicas so far: those of failed attempts, of hedges and of the index too."""
        return self._metrics.nbytes

    def source_of(self, row: Row) -> DataSource:
        """Return the source that the index names for a row."""
        return self._sources[row.source]

    async def read(self, row: Row) -> Blob:
        """Read the bytes of a row.

        Raises:
            SourceError: if no replica can be read.
        """
        shared = self._shared.get(row.part) if self._shared else None
        if shared is not None:
            source, path = shared.source, row.path.removeprefix(shared.folders[row.source])
        else:
            source, path = self._sources[row.source], row.path
            counters = self._counters[row.source]
            if counters is not None:
                return await _read_counted(source, row, counters.mine)
        return await source.read_expecting(path, Expected(row.size), row.start, _end(row))

    def read_blocking(self, row: Row, buffer: memoryview | None, began: float) -> tuple[Blob, float]:
        """Read the bytes of a row in this thread; into the buffer if there is one and the source supports that.

        Args:
            row: of an index for which `is_blocking` holds.
            buffer: takes the bytes; None for memory of their own.
            began: the moment of the call, as `time.perf_counter`.

        Returns:
            The blob, and the moment after.
        """
        source = self._sources[row.source]
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
            counters.ended(request_outcome(error))
            raise
        return blob, ended

    def is_changed(self, row: Row, blob: Blob) -> bool:
        """Whether a blob is of another object than the listed one, by its ETag or by what its source knows better.

        ETags of different replicas differ, so this is False for a source with mirrors.
        """
        if not self._has_comparable_etags[row.source] or row.part in self._shared:
            return False
        source = self._sources[row.source]
        return not source.is_unchanged(blob, lambda etag: validator(etag, 0, None) == row.validator)

    async def aclose(self) -> None:
        """Close every source."""
        for shared in self._shared.values():
            await shared.source.aclose()
        for source in self._sources:
            await source.aclose()


def _share(roots: Sequence[tuple[SourceEntry, int, str]]) -> _SharedPart:
    folders = [_Folder(replica, folder) for entry, _, folder in roots for replica in entry.replicas]
    return _SharedPart(stack(folders, roots[0][0].context), {number: folder for _, number, folder in roots})


async def _read_counted(source: DataSource, row: Row, counters: SourceCounters) -> Blob:
    """Read a row from a source that does not count its requests itself."""
    counters.in_flight += 1
    started = perf_counter()
    try:
        blob = await source.read(row.path, row.start, _end(row))
        counters.answered(blob.data, perf_counter() - started)
    except BaseException as error:
        counters.ended(request_outcome(error))
        raise
    return blob


def _end(row: Row) -> int | None:
    """Return where the bytes of a row end; None for a whole object, which needs no range."""
    return None if row.start == 0 and row.length == row.size else row.start + row.length
