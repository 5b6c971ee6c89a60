"""Reading and listing by obstore, for each store that it knows: S3 and GCS share this."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from obstore.exceptions import BaseError

from streaming.errors import BadRequest, ObjectChanged, StreamingError, TruncatedRead
from streaming.sources.base import Blob, FileInfo, beyond_object, too_large
from streaming.sources.http_status import opened_before_fork, plain_etag
from streaming.sources.object_errors import LOGIN_OUTDATED, code_of, status_of, translated
from streaming.sources.object_listing import PAGE, list_in_parallel
from streaming.sources.obstore_process import begin_read, claim, end_read

if TYPE_CHECKING:
    from streaming.config import DataSourceConfig

__all__ = ["ObjectStoreReader", "client_settings", "translated"]

REOPEN_AFTER_S = 10.0  # a refused login is asked for anew at most this often
_FAILURES = (BaseError, OSError, ValueError)


def client_settings(config: DataSourceConfig) -> dict[str, Any]:
    """`client_options` and `retry_config` for a store of obstore: the times of `config`, http allowed, no retries."""
    from datetime import timedelta

    return {
        "client_options": {
            "allow_http": True,
            "timeout": timedelta(seconds=config.timeout_s),
            "connect_timeout": timedelta(seconds=config.connect_timeout_s),
        },
        "retry_config": {"max_retries": 0, "retry_timeout": timedelta(0)},  # retrying is a layer of its own
    }


class ObjectStoreReader:
    """Reads and lists the objects below a prefix of a bucket. The store is made at the first use in a process.

    Args:
        config: limits, times, and the name for messages.
        make_store: makes the store of obstore, over the whole bucket. It is called again when the server says that
            the login has expired, to look for it anew.
        prefix: of the root in the bucket; with or without slashes around.
        receive: told of the bytes of each body, as soon as they are announced.
        versions: the version to read, by path, where not the newest.
    """

    def __init__(
        self,
        config: DataSourceConfig,
        make_store: Callable[[], Any],
        prefix: str,
        receive: Callable[[int], None],
        versions: Mapping[str, str] | None = None,
    ) -> None:
        self._source = config.name
        self._limit = config.max_object_bytes
        self._timeout_s = config.timeout_s
        self._make_store = make_store
        self._receive = receive
        self._root = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._versions = versions or {}
        self._pid = 0
        self._store: Any = None
        self._reopened_at = -REOPEN_AFTER_S

    async def get(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        """Read bytes `start` to `end` (half-open) of an object, in one request.

        Raises:
            BadRequest: if `start` lies beyond the object, or obstore cannot read such a name.
            TooLarge: if the answer would pass `max_object_bytes`; its body is not taken.
            TruncatedRead: if fewer bytes came than announced.
            SourceError: or one of its other kinds, as `translated` tells them apart.
            Closed: if obstore was used before this process was forked, or the interpreter ends.
        """
        store = self._store if self._pid == os.getpid() else self._open()
        if path.endswith("/"):  # obstore would read the name without it
            raise self._unreadable(path)
        begin_read(self._source)
        try:
            return await self._get(store, path, start, end)
        except StreamingError:
            raise
        except _FAILURES as error:
            if code_of(error) not in LOGIN_OUTDATED:
                raise self._translated(error, path) from error
            refused = error
        finally:
            end_read()
        again = self._reopened(store)
        if again is None:
            raise self._translated(refused, path) from refused
        return await self.get(path, start, end)

    def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        """All objects whose path below the root begins with `prefix`; folders are listed side by side."""
        if self._pid != os.getpid():
            self._open()
        return list_in_parallel(self, prefix)

    async def aclose(self) -> None:
        """Let go of the store."""
        self._pid = 0
        self._store = None

    def _open(self) -> Any:
        """Make the store, at the first use in a process."""
        if self._pid:
            raise opened_before_fork(self._source, self._pid)
        claim(self._source)
        self._store = self._make_store()
        self._pid = os.getpid()
        return self._store

    def _reopened(self, refused: Any) -> Any:
        """Another store than the one whose login was refused; None if that was made just now."""
        if self._store is refused:
            now = time.monotonic()
            if now < self._reopened_at + REOPEN_AFTER_S:
                return None
            self._reopened_at = now
            self._store = self._make_store()
        return self._store

    async def _get(self, store: Any, path: str, start: int, end: int | None) -> Blob:
        whole = start == 0 and end is None
        if start == end:
            return await self._empty(store, path, start, end)
        options: dict[str, Any] = {}
        if not whole:
            options["range"] = {"offset": start} if end is None else (start, end)
        if path in self._versions:
            options["version"] = self._versions[path]
        try:
            answer = await store.get_async(self._root + path, options=options or None)
            meta = answer.meta
            size = meta["size"]
            length = (size if end is None or end > size else end) - start
            if length > self._limit:
                raise too_large(path, length, self._limit, self._source)
            self._receive(length)
            data = await answer.bytes_async()
        except _FAILURES as error:
            if whole or status_of(error) != 416:
                raise
            return await self._empty(store, path, start, end)
        if len(data) != length:
            text = f"{path!r} of source {self._source!r}: {len(data)} of {length} bytes came; read it again"
            raise TruncatedRead(text, path=path, source=self._source)
        return Blob(memoryview(data), plain_etag(meta["e_tag"]), size, meta["version"], self._source)

    async def _empty(self, store: Any, path: str, start: int, end: int | None) -> Blob:
        """No bytes, of an object that is asked how large it is."""
        options: dict[str, Any] = {"head": True}
        if path in self._versions:
            options["version"] = self._versions[path]
        meta = (await store.get_async(self._root + path, options=options)).meta
        size = meta["size"]
        if start > size:
            raise beyond_object(path, start, size, self._source)
        if start < size and end != start:
            text = f"the server of source {self._source!r} refused bytes from {start} of {path!r}, which has {size}"
            raise ObjectChanged(f"{text}; list the source anew", path=path, source=self._source)
        return Blob(b"", plain_etag(meta["e_tag"]), size, meta["version"], self._source)

    def _translated(self, error: Exception, path: str) -> Exception:
        return translated(error, path, self._source, self._timeout_s)

    def _unreadable(self, path: str) -> BadRequest:
        text = f"{path!r} of source {self._source!r} is the name of a folder; name an object in it"
        return BadRequest(text, path=path, source=self._source)

    async def pages(self, folder: str) -> AsyncIterator[list[FileInfo]]:
        """All objects below a folder, in pages."""
        last: list[FileInfo] = []  # held back until the next is known: it may be the mark of the next one's folder
        stream = self._store.list((self._root + folder) or None, chunk_size=PAGE)
        while True:
            begin_read(self._source)
            try:
                metas = await anext(stream, None)
            except _FAILURES as error:
                raise self._translated(error, folder) from error
            finally:
                end_read()
            found = [*last, *self._infos(metas or ())]
            if metas is None:
                if found and not _is_mark(found[0], "", folder):
                    yield found
                return
            last = found[-1:]
            if page := [info for info, after in pairwise(found) if info.size or not _is_mark(info, after.path, folder)]:
                yield page

    async def level(self, folder: str, start: str) -> tuple[list[FileInfo], list[str]]:
        """The objects and folders just in a folder."""
        begin_read(self._source)
        try:
            found = await self._store.list_with_delimiter_async((self._root + folder) or None)
        except _FAILURES as error:
            raise self._translated(error, folder + start) from error
        finally:
            end_read()
        skip = len(self._root)
        objects = [info for info in self._infos(found["objects"]) if not _is_mark(info, "", folder)]
        return objects, [f"{each[skip:]}/" for each in found["common_prefixes"]]

    def _infos(self, metas: Iterable[Any]) -> list[FileInfo]:
        skip = len(self._root)
        return [
            FileInfo(meta["path"][skip:], meta["size"], plain_etag(meta["e_tag"]), meta["last_modified"].timestamp())
            for meta in metas
        ]


def _is_mark(info: FileInfo, after: str, folder: str) -> bool:
    """Whether this is the empty object `x/` that web consoles make of a folder; obstore names it `x`.

    Args:
        after: the path of the next object, as listings are sorted.
        folder: what is listed.
    """
    return not info.size and (not info.path or f"{info.path}/" == folder or after.startswith(f"{info.path}/"))
