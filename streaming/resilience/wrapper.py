"""The half that all wrappers share: settings and clock, and the limits of the source's host."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Coroutine
from typing import Any

from streaming.resilience.context import DEFAULT_CONTEXT, Context
from streaming.resilience.endpoints import ENDPOINTS, Endpoint
from streaming.sources.base import Blob, DataSource, Expected, WrapperSource


class Wrapper(WrapperSource):
    """A source over another one, with settings and a clock. A subclass writes `read_expecting`.

    Args:
        source: the source that is read.
        context: settings and clock.
    """

    def __init__(self, source: DataSource, context: Context = DEFAULT_CONTEXT) -> None:
        super().__init__(source)
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
    def is_circuit_open(self) -> bool:
        """Whether a read would fail at once because a circuit breaker below is open."""
        return bool(getattr(self.source, "is_circuit_open", False))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.source, self.context)
