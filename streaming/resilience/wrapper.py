"""What all wrappers share: they are sources that own a source."""

from __future__ import annotations

import asyncio
import random
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Protocol, TypeAlias

from streaming.resilience.settings import DEFAULTS, ResilienceConfig
from streaming.resilience.timing import Clock, Sleep, Time
from streaming.sources.base import Blob, DataSource, FileInfo

Expected: TypeAlias = tuple[int | None, str | None, Mapping[str, str] | None]
"""Size (None or -1: unknown), ETag as this copy's own listing gave it, and `{"md5": hex}` or `{"sha256": hex}`."""

_RANDOM = random.SystemRandom()  # differs between forked processes, which must not retry in step


class Read(Protocol):
    """What a wrapper reads by: `Wrapper.read`, or `DataSource.read` without what it does not know."""

    def __call__(
        self, path: str, start: int = 0, end: int | None = None, *, expect: Expected | None = None
    ) -> Coroutine[Any, Any, Blob]: ...


def read_of(source: DataSource) -> Read:
    """Return how to read `source` with `expect`, which only a wrapper passes on."""
    return source.read if isinstance(source, Wrapper) else partial(_read_plain, source)


def _read_plain(
    source: DataSource, path: str, start: int = 0, end: int | None = None, *, expect: Expected | None = None
) -> Coroutine[Any, Any, Blob]:
    return source.read(path, start, end)


class Wrapper(DataSource):
    """A source over another one, which it closes; named and configured as that one.

    What a reader knows of an object goes down with each read, as `expect`: reads in flight share nothing.

    Args:
        source: what is read.
        settings: all constants.
        clock: seconds, as `time.monotonic`.
        sleep: waits seconds, as `asyncio.sleep`.
        rng: of the jitter; None: the system's.
    """

    def __init__(
        self,
        source: DataSource,
        settings: ResilienceConfig = DEFAULTS,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(source.config)
        self.source = source
        self._read_below = read_of(source)
        self.settings = settings
        self._time = Time(clock, sleep)
        self._given_rng = rng
        self._rng = rng or _RANDOM

    @abstractmethod
    async def read(self, path: str, start: int = 0, end: int | None = None, *, expect: Expected | None = None) -> Blob:
        """Read as `DataSource.read` does.

        Args:
            expect: what is known of the object; `Verify` holds the answer of each copy against it.
        """

    @property
    def is_throttled(self) -> bool:
        """Whether an endpoint below has lately asked for fewer requests."""
        return bool(getattr(self.source, "is_throttled", False))

    @property
    def is_resting(self) -> bool:
        """Whether a read would fail at once, unasked: a breaker below is open."""
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
        return type(self), (self.source, self.settings, self._time.now, self._time.sleep, self._given_rng)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source!r})"
