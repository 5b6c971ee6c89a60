"""The interface of a source of objects: three methods to write, the rest given.

A source names objects by a path relative to its configured root, with `/` between folders, as the name is written
(never percent-encoded). A prefix is a plain string prefix of such a path: `"a/b"` selects `a/b.pt` and `a/bc/d.pt`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

from streaming.core.masking import remember_secrets
from streaming.errors import (
    BadRequest,
    ClosedError,
    InvalidPath,
    ObjectNotFoundError,
    ObjectTooLargeError,
    StreamingError,
)
from streaming.telemetry.skipped_objects import Skips, warn_of

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig

Buffer: TypeAlias = bytes | bytearray | memoryview

PREFETCH_READS_AT_ONCE = 16  # of `prefetch_files`; enough to hide a latency, few enough to bound memory


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One object as it was listed.

    Attributes:
        path: relative to the root of its source.
        size: bytes, or -1 if the listing does not say.
        etag: changes when the content changes; None if the listing does not say.
        modified: seconds since the epoch, or None.
    """

    path: str
    size: int
    etag: str | None = None
    modified: float | None = None


@dataclass(slots=True)  # not frozen: that costs 0.4 us more on each read
class Blob:
    """The bytes that a read returned, and the object that they are a part of.

    Attributes:
        data: the requested bytes; read-only.
        etag: of the whole object, without quotation marks; None if the source has none.
        size: bytes of the whole object, also when a part of it was read.
        version: the version that was read, if the source keeps versions.
        source: the name of the source that answered.
    """

    data: Buffer
    etag: str | None
    size: int
    version: str | None
    source: str


class Expected(NamedTuple):
    """The properties of an object that a caller knows before it reads it.

    Attributes:
        size: bytes, or -1 or None if unknown.
        etag: as the listing of the same replica gave it.
        checksums: `{"md5": hex}` or `{"sha256": hex}` of the whole object.
    """

    size: int | None = None
    etag: str | None = None
    checksums: Mapping[str, str] | None = None


def check_path(path: str) -> str:
    """Return `path` if it names an object below a root.

    Raises:
        InvalidPath: if it is empty, absolute, has a `..` folder, a NUL, or characters that are not text.
    """
    if not path:
        raise InvalidPath(
            "an empty path does not name an object; give a path relative to the root of the source", path=path
        )
    return check_prefix(path)


def check_prefix(prefix: str) -> str:
    """Return `prefix` if every path that begins with it may be below a root; the empty prefix is.

    Raises:
        InvalidPath: as `check_path` does.
    """
    if ".." in prefix and ".." in prefix.replace("\\", "/").split("/"):
        raise _invalid(prefix, "leaves its root by '..'")
    if "\0" in prefix:
        raise _invalid(prefix, "holds a NUL")
    if prefix[:1] in ("/", "\\") and prefix:
        raise _invalid(prefix, "is absolute")
    if "\\" in prefix and prefix[1:3] == ":\\":
        raise _invalid(prefix, "is absolute")
    return prefix


def _invalid(path: str, why: str) -> InvalidPath:
    return InvalidPath(f"path {path!r} {why}; give a path relative to the root of the source", path=path)


def check_range(path: str, start: int, end: int | None, source: str) -> None:
    """Refuse a range that no object can have.

    Raises:
        BadRequest: if `start` is negative or `end` is before it.
    """
    if start < 0 or (end is not None and end < start):
        text = f"{path!r} of source {source!r}: {start} to {end} is not a range; give 0 <= start <= end"
        raise BadRequest(text, path=path, source=source)


def beyond_object(path: str, start: int, size: int, source: str) -> BadRequest:
    """Return the error for a range that starts after the end of its object."""
    text = f"{path!r} of source {source!r} has {size} bytes; the range from byte {start} is beyond its end"
    return BadRequest(text, path=path, source=source)


def too_large(path: str, size: int, limit: int, source: str) -> ObjectTooLargeError:
    """Return the error for an answer beyond `max_object_bytes`."""
    text = (
        f"{path!r} of source {source!r}: {size} bytes are more than max_object_bytes={limit}; raise that or read a part"
    )
    return ObjectTooLargeError(text, path=path, source=source)


class DataSource(ABC):
    """A place that objects are read from.

    A backend writes `read`, `iter_files` and `aclose`. If its reads merely block a thread (local disk, memory), it also
    sets `read_blocking`, a synchronous form that is safe in any thread, so that a pool can read and decode in one hop.
    It may add `read_into(path, start, buffer)`, which fills the buffer from an object and returns a blob of its bytes:
    a caller who reuses a large buffer is spared page faults.

    A source is cheap to make and opens what it needs at the first read. It pickles as its configuration.

    Attributes:
        name: its name in messages, metrics and `data_mapping`.
        config: its configuration.
        received_bytes: bytes of objects that came over the network so far, used or not, without listings; None for a
            source that does not count them.
        skipped: the objects that the last complete listing left out because they cannot be read. Each listing counts in
            a `Skips` of its own and sets it here at its end; one that fails or is left early changes nothing.
    """

    received_bytes: int | None = None
    read_blocking: Callable[[str, int, int | None], Blob] | None = None
    read_into: Callable[[str, int, memoryview], Blob] | None = None

    def __init__(self, config: DataSourceConfig) -> None:
        remember_secrets({"credentials": config.credentials, **config.storage_options, "root": config.path_or_uri})
        self.config = config
        self.name = config.name
        self.skipped = Skips()
        self._closed = False

    @abstractmethod
    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        """Read bytes `start` to `end` (half-open; None: to the end) of an object; an `end` beyond it is clipped.

        Raises:
            InvalidPath: if the path leaves the root.
            ObjectNotFoundError: if there is no such object.
            BadRequest: if `start` is beyond the object, or `end` before `start`.
            ObjectTooLargeError: if the answer would be larger than `config.max_object_bytes`.
            ClosedError: after `aclose`.
            SourceError: or a subclass, for everything else that can go wrong.
        """

    def read_expecting(
        self, path: str, expect: Expected | None, start: int = 0, end: int | None = None
    ) -> Coroutine[Any, Any, Blob]:
        """Read like `read`; wrappers pass on what the caller expects, down to the one that verifies the answer."""
        return self.read(path, start, end)

    @abstractmethod
    def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        """List all objects whose path begins with `prefix`, in a repeatable order.

        `include` and `exclude` of the configuration are applied by the callers: `list_files` and the index.

        Raises:
            ObjectNotFoundError: at the first step, if the root does not exist.
            ClosedError: at the first step, after `aclose`.
        """

    def is_unchanged(self, blob: Blob, is_listed: Callable[[str], bool]) -> bool:
        """Whether a read returned the object that was listed, as far as the source knows. Sizes are compared elsewhere.

        Args:
            blob: result of a read.
            is_listed: returns whether a listing of this source gave the object this ETag.
        """
        return not blob.etag or is_listed(blob.etag)

    @abstractmethod
    async def aclose(self) -> None:
        """Close everything that the source opened. Closing twice is fine; reading afterwards raises `ClosedError`."""

    async def fetch_file(self, path: str, decompress: bool = True) -> Any:
        """Read an object and decode it by the suffix of its path; `x.pt` comes from `x.pt.zst` if only that exists.

        Args:
            path: relative to the root.
            decompress: False returns the bytes as they are stored.

        Raises:
            DecodeError: if the bytes do not fit the suffix.
            SourceError: as `read`.
        """
        path, blob = await self._read_or_compressed(path)
        if not decompress:
            return bytes(blob.data)
        from streaming.codecs import decode

        limit = self.config.max_object_bytes
        return await asyncio.to_thread(decode, blob.data, path, max_bytes=limit, source=self.name)

    async def _read_or_compressed(self, path: str) -> tuple[str, Blob]:
        try:
            return path, await self.read(path)
        except ObjectNotFoundError:
            if path.endswith(".zst"):
                raise
            try:
                return f"{path}.zst", await self.read(f"{path}.zst")
            except ObjectNotFoundError:
                pass
            raise

    async def list_files(self, prefix: str = "") -> list[str]:
        """Return the paths that begin with `prefix` and that `include` and `exclude` select, sorted.

        The objects that the listing left out because they cannot be read are logged once.
        """
        why = self.config.selection
        paths = sorted([info.path async for info in self.iter_files(prefix) if why is None or not why(info.path)])
        warn_of(self.skipped, self.name)
        return paths

    async def prefetch_files(self, paths: Iterable[str]) -> dict[str, bool]:
        """Read objects and drop the bytes, which warms the layers below: page cache, connections, a caching proxy.

        Returns:
            Whether each path could be read. To keep the objects, use `SmartLRUCache.prefetch`.
        """
        done: dict[str, bool] = {}
        waiting = iter(dict.fromkeys(paths))

        async def read_next() -> None:
            for path in waiting:
                try:
                    await self.read(path)
                    done[path] = True
                except StreamingError:
                    done[path] = False

        async with asyncio.TaskGroup() as group:
            for _ in range(PREFETCH_READS_AT_ONCE):
                group.create_task(read_next())
        return done

    def _receive(self, nbytes: int) -> None:
        """Count bytes of an object that came over the network."""
        self.received_bytes = (self.received_bytes or 0) + nbytes

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"source {self.name!r} is closed; make a new one from its config", source=self.name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.config,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.config.shown_uri!r})"


class WrapperSource(DataSource):
    """The shared half of a source over another one, which it closes; it has that one's name and configuration."""

    def __init__(self, source: DataSource) -> None:
        super().__init__(source.config)
        self.source = source

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        self._check_open()
        async for info in self.source.iter_files(prefix):
            yield info
        self.skipped = self.source.skipped

    def is_unchanged(self, blob: Blob, is_listed: Callable[[str], bool]) -> bool:
        return self.source.is_unchanged(blob, is_listed)

    async def aclose(self) -> None:
        self._closed = True
        await self.source.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source!r})"
