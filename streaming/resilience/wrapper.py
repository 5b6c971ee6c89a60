"""The half that all wrappers share: they are sources that own a source."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from streaming.resilience.context import DEFAULT_CONTEXT, Context
from streaming.resilience.endpoints import ENDPOINTS, Endpoint
from streaming.sources.base import Blob, DataSource, Expected, FileInfo


class Wrapper(DataSource):
    """A source over another one, which it closes; it has the name and the configuration of that one.

    A subclass writes `read_expecting`.

    Args:
        source: the source that is read.
        context: settings and clock.
    """

    def __init__(self, source: DataSource, context: Context = DEFAULT_CONTEXT) -> None:
        super().__init__(source.config)
        self.source = source
        self.context = context
        self.settings = context.settings
        self._now = context.clock
        self._endpoint: Endpoint | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def read(self, path: str, start: int = 0, end: int | None = None) -> Coroutine[Any, Any, Blob]:
        return self.read_expecting(path, None, start, end)

    @abstractmethod
    async def read_expecting(self, path: str, expect: Expected | None, start: int = 0, end: int | None = None) -> Blob:
        """Read like `DataSource.read_expecting`. What is expected goes down with each read, so reads share nothing."""

    @property
    def endpoint(self) -> Endpoint:
        """The limits of the source's host, on the running loop."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop or self._endpoint is None:
            self._endpoint = ENDPOINTS.of(self.config, self.context)
            self._loop = loop
        return self._endpoint

    @property
    def is_throttled(self) -> bool:
        """Whether an endpoint below has recently asked for fewer requests."""
        return bool(getattr(self.source, "is_throttled", False))

    @property
    def is_resting(self) -> bool:
        """Whether a read would fail at once because a circuit breaker below is open."""
        return bool(getattr(self.source, "is_resting", False))

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

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.source, self.context)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source!r})"
