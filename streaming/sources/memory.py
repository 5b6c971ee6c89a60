"""Objects in a dict: for tests, for small data made in the process, and as the reference for other sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any

from streaming.errors import ObjectNotFoundError
from streaming.sources.base import (
    Blob,
    DataSource,
    FileInfo,
    beyond_object,
    check_path,
    check_prefix,
    check_range,
    too_large,
)

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig


class MemorySource(DataSource):
    """Objects held in this process, by path.

    A pickle holds the objects too. Safe to read in any thread.

    Args:
        config: a configuration, or just a name.
        objects: the first objects.

    Attributes:
        reads: how often each path was read, also those that failed.
    """

    def __init__(
        self, config: DataSourceConfig | str = "memory", objects: Mapping[str, bytes | bytearray | memoryview] = {}
    ) -> None:
        if isinstance(config, str):
            from streaming.core.source_config import DataSourceConfig

            config = DataSourceConfig(config, "memory", f"memory://{config}")
        super().__init__(config)
        self.reads: Counter[str] = Counter()
        self._counting = Lock()
        self._objects: dict[str, tuple[bytes, str]] = {}
        self._puts = 0
        for path, data in objects.items():
            self.put(path, data)

    def put(self, path: str, data: bytes | bytearray | memoryview) -> None:
        """Add an object, or replace it; either gives it a new ETag."""
        self._puts += 1
        self._objects[check_path(path)] = (bytes(data), f"{self._puts:x}")

    def delete(self, path: str) -> None:
        """Remove an object.

        Raises:
            ObjectNotFoundError: if it does not exist.
        """
        if self._objects.pop(path, None) is None:
            raise self._not_found(path)

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        return self.read_blocking(path, start, end)

    def read_blocking(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        """Read as `read` does, in the calling thread."""
        self._check_open()
        check_path(path)
        with self._counting:
            self.reads[path] += 1
        if path not in self._objects:
            raise self._not_found(path)
        data, etag = self._objects[path]
        size = len(data)
        check_range(path, start, end, self.name)
        if start > size:
            raise beyond_object(path, start, size, self.name)
        end = size if end is None or end > size else end
        if end - start > self.config.max_object_bytes:
            raise too_large(path, end - start, self.config.max_object_bytes, self.name)
        return Blob(data if end - start == size else memoryview(data)[start:end], etag, size, None, self.name)

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        self._check_open()
        check_prefix(prefix)
        for path, (data, etag) in sorted(self._objects.items()):
            if path.startswith(prefix):
                yield FileInfo(path, len(data), etag)

    async def aclose(self) -> None:
        self._closed = True

    def _not_found(self, path: str) -> ObjectNotFoundError:
        text = f"{path!r} of source {self.name!r} does not exist; put() it first"
        return ObjectNotFoundError(text, path=path, source=self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.config,), {"_objects": self._objects, "_puts": self._puts}
