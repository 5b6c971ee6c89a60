"""Files in a directory. A read is five system calls in one thread hop: open, fstat, pread, fstat, close.

Links out of the directory are refused by reads and left out of listings. The directory is held open, and files are
opened below it (`streaming.sources.local.root`), so swapping a folder for a link meanwhile has no effect. Links inside
are followed: relative ones by the system, others after a check of their target.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import aiofiles.os

from streaming.errors import (
    AccessDenied,
    BadRequest,
    ConfigError,
    ObjectChanged,
    ObjectNotFoundError,
    SourceError,
    TruncatedRead,
)
from streaming.sources.base import (
    Blob,
    Buffer,
    DataSource,
    FileInfo,
    beyond_object,
    check_path,
    check_range,
    too_large,
)
from streaming.sources.local.root import LocalRoot
from streaming.sources.local.scan import scan
from streaming.sources.path_filter import drop_unreadable
from streaming.telemetry.skipped_objects import Skips

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig

_LINKS = (errno.EXDEV, errno.ELOOP, errno.ENOTDIR)  # errors for a link that the system does not follow
SCAN_CHUNK = 2_000  # files per thread hop of a listing


class LocalDataSource(DataSource):
    """A directory with files.

    The ETag of a file is its modification time in nanoseconds and its size. A file that changes while it is read is an
    error, never a mix of old and new bytes.

    Raises:
        ConfigError: when made, if the root is a file.
    """

    def __init__(self, config: DataSourceConfig) -> None:
        super().__init__(config)
        self.root = Path(os.path.realpath(config.path_or_uri))
        if os.path.exists(self.root) and not os.path.isdir(self.root):
            raise ConfigError(
                f"the root of source {self.name!r}, {str(self.root)!r}, is a file; give the directory that holds it",
                source=self.name,
            )
        self._base = os.path.join(self.root, "")
        self._opened: LocalRoot | None = None
        self._max_bytes = config.max_object_bytes
        self._read_in_thread = aiofiles.os.wrap(self.read_blocking)

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        blob: Blob = await self._read_in_thread(path, start, end)
        return blob

    def read_blocking(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        """Read as `read` does, in the calling thread."""
        return self._read(path, start, end, None)

    def read_into(self, path: str, start: int, into: memoryview) -> Blob:
        """Fill `into` with the bytes from `start` on."""
        return self._read(path, start, start + len(into), into)

    def _read(self, path: str, start: int, end: int | None, into: memoryview | None) -> Blob:
        self._check_open()
        descriptor = self._open(check_path(path))
        try:
            before = os.fstat(descriptor)
            size = before.st_size
            if not stat.S_ISREG(before.st_mode):
                raise self._not_a_file(path, before.st_mode)
            check_range(path, start, end, self.name)
            if start > size:
                raise beyond_object(path, start, size, self.name)
            if end is None or end > size:
                end = size
            if end - start > self._max_bytes:
                raise too_large(path, end - start, self._max_bytes, self.name)
            data = _read_range(descriptor, start, end, into)
            after = os.fstat(descriptor)
            if len(data) != end - start or after.st_mtime_ns != before.st_mtime_ns or after.st_size != size:
                raise self._changed(path, before, after)
        except SourceError:
            raise
        except OSError as error:
            raise self._to_source_error(path, error) from error
        finally:
            os.close(descriptor)
        return Blob(data, f"{before.st_mtime_ns:x}-{size:x}", size, None, self.name)

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        self._check_open()
        skips = Skips()
        self._opened = None  # if the root was replaced, reads follow the new listing
        files = scan(self._base, prefix, self.name, skips)
        next_chunk = aiofiles.os.wrap(lambda: list(islice(files, SCAN_CHUNK)))
        while chunk := await next_chunk():
            for info in drop_unreadable(chunk, skips):
                yield info
        self.skipped = skips

    async def aclose(self) -> None:
        self._closed = True
        self._opened = None

    def _open(self, path: str) -> int:
        """Return a descriptor of a file inside the root."""
        if path.endswith("/"):  # `a.bin/` is not the file `a.bin`
            raise self._not_a_file(path, stat.S_IFDIR)
        root = self._opened
        try:
            if root is None:
                root = self._opened = LocalRoot(str(self.root))
            return root.open(path)
        except OSError as error:
            if root is not None and error.errno in _LINKS:
                return self._open_link(path, root)
            if root is None or not isinstance(error, FileNotFoundError) or root.is_current():
                raise self._to_source_error(path, error) from error
        self._opened = None  # the root was replaced by another directory
        return self._open(path)

    def _open_link(self, path: str, root: LocalRoot) -> int:
        """Open the target of a link, if it is inside the root."""
        try:
            real = os.path.realpath(self._base + path, strict=True)
            if real.startswith(self._base):
                return root.open_real(real[len(self._base) :])
        except OSError as error:
            raise self._to_source_error(path, error) from error
        raise AccessDenied(
            f"{path!r} of source {self.name!r} is a link out of its root {str(self.root)!r}, to {real!r}; "
            "make the root a directory that contains both",
            path=path,
            source=self.name,
        )

    def _not_a_file(self, path: str, mode: int) -> SourceError:
        if stat.S_ISDIR(mode):
            text = f"{path!r} of source {self.name!r} is a directory; name a file in it, or list it"
            return ObjectNotFoundError(text, path=path, source=self.name)
        text = f"{path!r} of source {self.name!r} is a pipe, socket or device; only regular files are read"
        return BadRequest(text, path=path, source=self.name)

    def _changed(self, path: str, before: os.stat_result, after: os.stat_result) -> SourceError:
        if after.st_size < before.st_size:
            text = f"was cut from {before.st_size} to {after.st_size} bytes while it was read"
            return TruncatedRead(f"{path!r} of source {self.name!r} {text}; read it again", path=path, source=self.name)
        return ObjectChanged(
            f"{path!r} of source {self.name!r} was written to while it was read ({before.st_size} bytes before, "
            f"{after.st_size} after); let its writer finish, and replace files by renaming",
            path=path,
            source=self.name,
        )

    def _to_source_error(self, path: str, error: OSError) -> SourceError:
        """Return the error of this library for an error of the system."""
        where = f"{path!r} of source {self.name!r}"
        if isinstance(error, PermissionError):
            text = f"{where} may not be read by this user; check the modes of the file and its directories"
            return AccessDenied(text, path=path, source=self.name)
        if error.errno == errno.ELOOP:
            return ObjectNotFoundError(f"{where} is a link that leads to itself", path=path, source=self.name)
        if isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno == errno.ENAMETOOLONG:
            if not os.path.isdir(self.root):
                text = f"{where}: the root {str(self.root)!r} does not exist; check the path of the source"
            else:
                text = f"{where} does not exist below {str(self.root)!r}; list the source to see what does"
            return ObjectNotFoundError(text, path=path, source=self.name)
        return SourceError(f"{where} cannot be read: {error.strerror}", path=path, source=self.name)


def _read_range(descriptor: int, start: int, end: int, into: memoryview | None) -> Buffer:
    """Read bytes `start` to `end`, fewer at the end of the file. One call, unless the range is over 2 GiB."""
    if into is not None and len(into) == end - start and hasattr(os, "preadv"):
        filled = 0
        while count := os.preadv(descriptor, [into[filled:]], start + filled):
            filled += count
        return into[:filled]
    data = os.pread(descriptor, end - start, start)
    if len(data) == end - start:
        return data
    parts = [data]
    while data:
        start += len(data)
        data = os.pread(descriptor, end - start, start)
        parts.append(data)
    return b"".join(parts)
