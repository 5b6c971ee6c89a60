"""Objects of servers that answer a range with the whole object: each is fetched once, into a temporary file.

All readers of an object wait for one download. The file has no name, and `spool_bytes` limits its size. An object that
does not fit is refused, as fetching it for each part would cost its whole size each time.
"""

from __future__ import annotations

import asyncio
import copy
import tempfile
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import IO, Any

from streaming.errors import BadRequest, ClosedError, SourceError
from streaming.sources.base import Blob, Buffer, beyond_object, too_large

__all__ = ["SpoolFile"]

WRITE_BYTES = 2**20  # at a time, in a thread: a hop costs 0.1 ms


@dataclass(slots=True)
class _Stored:
    """A whole object: its offset in the file, its size and its ETag."""

    at: int
    size: int
    etag: str | None


class _Download:
    """A request in flight, and the number of readers that wait for it."""

    def __init__(self, task: asyncio.Task[Blob]) -> None:
        self.task = task
        self.waiting = 0


class SpoolFile:
    """One temporary file of one source; belongs to one event loop. The file is made for the first object.

    Args:
        source: the name of the source, for messages.
        limit: the limit of bytes in the file.
        max_read: the limit of bytes of one read.
    """

    def __init__(self, source: str, limit: int, max_read: int) -> None:
        self._source = source
        self._limit = limit
        self._max_read = max_read
        self._used = 0
        self._stored: dict[str, _Stored] = {}
        self._regions: dict[
            tuple[str, int], int
        ] = {}  # by path and size: the next download overwrites one that broke off
        self._refused: dict[str, BadRequest] = {}
        self._downloads: dict[str, _Download] = {}
        self._is_closed = False
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()  # of the file and its position

    def __contains__(self, path: str) -> bool:
        """Whether an object needs no request, as it is stored or was refused."""
        return path in self._stored or path in self._refused

    async def read(self, path: str, start: int, end: int | None) -> Blob:
        """Read bytes `start` to `end` of a stored object.

        Raises:
            BadRequest: if `start` is beyond the object, or the object was refused for its size.
            ObjectTooLargeError: if the part is larger than `max_read`.
        """
        if path in self._refused:
            raise _copy_of(self._refused[path])
        stored = self._stored[path]
        if start > stored.size:
            raise beyond_object(path, start, stored.size, self._source)
        length = (stored.size if end is None or end > stored.size else end) - start
        if length > self._max_read:
            raise too_large(path, length, self._max_read, self._source)
        try:
            data = await asyncio.to_thread(self._read_at, stored.at + start, length)
        except (OSError, ValueError) as error:
            raise self._unusable(path, error) from error
        return Blob(data, stored.etag, stored.size, None, self._source)

    async def join(self, path: str, request: Callable[[], Coroutine[Any, Any, Blob]]) -> tuple[Blob, bool]:
        """Wait for the request for an object that is in flight, or make it.

        The request runs while anyone waits for it, and is cancelled with the last waiter.

        Returns:
            Its result, and whether it was made for this caller.

        Raises:
            SourceError: as the request; each waiter gets its own copy.
            ClosedError: if the file was closed meanwhile.
        """
        if self._is_closed:
            raise self._closed_error()
        download = self._downloads.get(path)
        is_mine = download is None
        if download is None:
            download = self._downloads[path] = _Download(asyncio.ensure_future(request()))
            download.task.add_done_callback(lambda _: self._ended(path, download))
        download.waiting += 1
        try:
            await asyncio.wait([download.task])
        finally:
            download.waiting -= 1
            if not download.waiting and not download.task.done():
                self._ended(path, download)
                download.task.cancel()
                await asyncio.wait([download.task])
        if download.task.cancelled():
            raise self._closed_error()
        error = download.task.exception()
        if error is not None:
            raise error if is_mine else _copy_of(error)
        return download.task.result(), is_mine

    def _ended(self, path: str, download: _Download) -> None:
        if self._downloads.get(path) is download:
            del self._downloads[path]
        if download.task.done() and not download.task.cancelled():
            download.task.exception()  # retrieved, in case all waiters were cancelled in the same moment

    def reserve(self, path: str, size: int, server: str) -> None:
        """Reserve space for an object, or refuse it for good.

        Args:
            size: of the object.
            server: the server that sends it, for the message.

        Raises:
            BadRequest: if it does not fit.
        """
        left = self._limit - self._used
        if (path, size) in self._regions:
            return
        if size <= left:
            self._regions[path, size] = self._used
            self._used += size
            return
        text = (
            f"the server {server} sends no ranges, so {path!r} of source {self._source!r} ({size} bytes) has to "
            f"be kept whole in a temporary file, where spool_bytes={self._limit} leaves {left} bytes; raise that, or "
            "use a server that supports Range requests, such as nginx"
        )
        self._refused[path] = BadRequest(text, path=path, source=self._source)
        raise _copy_of(self._refused[path])

    async def write(self, path: str, size: int, at: int, data: Buffer) -> None:
        """Write a piece of an object for which space is reserved.

        Args:
            size: of the whole object.
            at: the offset of the piece in the object.
        """
        try:
            await asyncio.to_thread(self._write_at, self._regions[path, size] + at, data)
        except (OSError, ValueError) as error:
            raise self._unusable(path, error) from error

    def keep(self, path: str, size: int, etag: str | None) -> None:
        """Note that an object is stored completely."""
        self._stored[path] = _Stored(self._regions[path, size], size, etag)

    async def aclose(self) -> None:
        """Cancel downloads in flight and close the file. Idempotent."""
        self._is_closed = True
        tasks = [download.task for download in self._downloads.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self.close_file()

    def close_file(self) -> None:
        """Close the file, if the loop has ended and nothing can be in flight."""
        self._is_closed = True
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                file.close()

    def _opened(self) -> IO[bytes]:
        if self._is_closed:
            raise ValueError("closed")
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # without a name, if the system supports that
        return self._file

    def _read_at(self, at: int, length: int) -> memoryview:
        data = memoryview(bytearray(length))
        with self._lock:
            if length:
                self._opened().seek(at)
            done = 0
            while done < length:
                done += self._opened().readinto(data[done:])  # type: ignore[attr-defined]
        return data.toreadonly()

    def _write_at(self, at: int, data: Buffer) -> None:
        left = memoryview(data)
        with self._lock:
            self._opened().seek(at)
            while left:
                left = left[self._opened().write(left) :]

    def _unusable(self, path: str, error: Exception) -> Exception:
        if self._is_closed:
            return self._closed_error()
        why = getattr(error, "strerror", None) or type(error).__name__
        text = (
            f"{path!r} of source {self._source!r}, whose server sends no ranges, cannot be kept in a temporary file in "
            f"{tempfile.gettempdir()!r}: {why}; make room there, or set TMPDIR to a folder that has it"
        )
        return SourceError(text, path=path, source=self._source)

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"source {self._source!r} is closed; make a new one from its config", source=self._source)


def _copy_of(error: BaseException) -> BaseException:
    """Return a copy of an error for another reader, so that notes on one do not appear on the other."""
    again = copy.copy(error)
    again.__cause__ = error.__cause__
    return again
