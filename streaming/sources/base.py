"""What a source of objects is: three methods to write, the rest given.

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
        size: bytes, or -1 where the listing does not tell.
        etag: changes when the content changes; None where the listing does not tell.
        modified: seconds since the epoch, or None.
    """

    path: str
    size: int
    etag: str | None = None
    modified: float | None = None


@dataclass(slots=True)  # not frozen: that costs 0.4 us more on each read
class Blob:
    """The bytes that one read brought, and what they are a part of.

    Attributes:
        data: the bytes asked for; read-only.
        etag: of the whole object, without quotation marks; None where the source has none.
        size: bytes of the whole object, also when a part of it was read.
        version: the version that was read, where the source keeps versions.
        source: the name of the source that answered.
    """

    data: Buffer
    etag: str | None
    size: int
    version: str | None
    source: str


class Expected(NamedTuple):
    """What a caller knows of an object that it reads.

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
        raise InvalidPath("an empty path names no object; give a path relative to the root of the source", path=path)
    return check_prefix(path)


def check_prefix(prefix: str) -> str:
    """Return `prefix` if every path that begins with it may lie below a root; the empty prefix does.

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
        BadRequest: if `start` is negative or `end` lies before it.
    """
    if start < 0 or (end is not None and end < start):
        text = f"{path!r} of source {source!r}: no object has a range of {start} to {end}; ask for 0 <= start <= end"
        raise BadRequest(text, path=path, source=source)


def beyond_object(path: str, start: int, size: int, source: str) -> BadRequest:
    """The error for a range that starts after the end of its object."""
    text = f"{path!r} of source {source!r} has {size} bytes and was asked from byte {start} on; ask within it"
    return BadRequest(text, path=path, source=source)


def too_large(path: str, size: int, limit: int, source: str) -> ObjectTooLargeError:
    """The error for an answer beyond `max_object_bytes`."""
    text = f"{path!r} of source {source!r}: {size} bytes pass max_object_bytes={limit}; raise that or read a part"
    return ObjectTooLargeError(text, path=path, source=source)


class DataSource(ABC):
    """A place that objects are read from.

    A backend writes `read`, `iter_files` and `aclose`. Where its reads merely block a thread (local disk, memory) it
    also sets `read_blocking`, a synchronous form safe in any thread, so that a pool can read and decode in one hop. If
    it has `read_into(path, start, buffer)` too, that reads a range as long as the buffer into it and gives a blob of
    what lies there: a caller who uses a large buffer again is spared page faults.

    A source is cheap to make and opens what it needs at the first read. It pickles as its configuration.

    Attributes:
        name: how messages, metrics and `data_mapping` call it.
        config: what it was made from.
        received_bytes: bytes of objects that came over the network so far, used or not, without listings; None for a
            source that does not count them.
        skipped: what the last complete listing left out because it cannot be read. Each listing counts in a `Skips` of
            its own and sets it here when it has come to its end; one that fails or is left early changes nothing.
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
            BadRequest: if `start` lies beyond the object, or `end` before `start`.
            ObjectTooLargeError: if the answer would pass `config.max_object_bytes`.
            ClosedError: after `aclose`.
            SourceError: or one of its other kinds, for everything else that can go wrong.
        """

    def read_expecting(
        self, path: str, expect: Expected | None, start: int = 0, end: int | None = None
    ) -> Coroutine[Any, Any, Blob]:
        """Read like `read`; wrappers pass on what the caller expects, down to the one that verifies the answer."""
        return self.read(path, start, end)

    @abstractmethod
    def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        """All objects whose path begins with `prefix`, in a repeatable order.

        `include` and `exclude` of the configuration are applied by those who call this: `list_files` and the index.

        Raises:
            ObjectNotFoundError: at the first step, if the root does not exist.
            ClosedError: at the first step, after `aclose`.
        """

    def is_unchanged(self, blob: Blob, is_listed: Callable[[str], bool]) -> bool:
        """Whether a read brought the object that was listed, as far as the source can tell. Its size is compared apart.

        Args:
            blob: what a read brought.
            is_listed: whether a listing of this source gave the object this ETag.
        """
        return not blob.etag or is_listed(blob.etag)

    @abstractmethod
    async def aclose(self) -> None:
        """Close what the source opened. Closing twice is fine; reading afterwards raises `ClosedError`."""

    async def fetch_file(self, path: str, decompress: bool = True) -> Any:
        """The sample in an object, decoded by the suffix of its path; `x.pt` comes from `x.pt.zst` if only that exists.

        Args:
            path: relative to the root.
            decompress: False returns the bytes of the object as they are stored.

        Raises:
            DecodeError: if the bytes are not what the suffix says.
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
        """The paths that begin with `prefix` and that `include` and `exclude` select, sorted.

        What the listing left out because it cannot be read is logged once.
        """
        why = self.config.selection
        paths = sorted([info.path async for info in self.iter_files(prefix) if why is None or not why(info.path)])
        warn_of(self.skipped, self.name)
        return paths

    async def prefetch_files(self, paths: Iterable[str]) -> dict[str, bool]:
        """Read objects and drop the bytes, which warms what lies below: page cache, connections, a caching proxy.

        Returns:
            For each path whether it could be read. To keep what is read, use `SmartLRUCache.prefetch`.
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
