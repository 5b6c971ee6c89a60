"""What was read is held against what is known of the object: its size, its ETag, its checksum."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from streaming.errors import ConfigError, ObjectChanged, TruncatedRead
from streaming.resilience.breaker import Breaker
from streaming.resilience.concurrency_limit import ConcurrencyLimit
from streaming.resilience.settings import DEFAULTS, ResilienceConfig
from streaming.resilience.timing import Clock, Sleep
from streaming.resilience.wrapper import Expected, Wrapper
from streaming.sources.base import Blob, DataSource
from streaming.sources.header_values import plain_etag

CHECKSUMS = ("md5", "sha256")
INLINE_BYTES = 256_000  # up to here a checksum is taken on the loop: 0.4 ms of md5, where a thread costs 0.1 ms


class Verify(Wrapper):
    """Lets through only what belongs to the object that is known; belongs below `Failover`, as ETags differ by copy.

    Another size or ETag is `ObjectChanged`: to ask again would not help. Fewer or more bytes than announced, or bytes
    that their checksum denies, are a `TruncatedRead`: the same read may be whole the next time, or elsewhere. Checksums
    are of whole objects and say nothing on a part.

    Args:
        expected: gives what is always known of a path, or None, beside what comes with the read; it keeps no state.
            Must pickle if the source is to.

    Attributes:
        mismatches: reads that were refused.
    """

    def __init__(
        self,
        source: DataSource,
        settings: ResilienceConfig = DEFAULTS,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        rng: random.Random | None = None,
        *,
        expected: Callable[[str], Expected | None] | None = None,
    ) -> None:
        super().__init__(source, settings, clock, sleep, rng)
        self.mismatches = 0
        self._expected = expected
        self._guard: tuple[Breaker, ConcurrencyLimit] | None = None
        if type(source) is Breaker and type(source.source) is ConcurrencyLimit:
            self._guard = source, source.source

    async def read(self, path: str, start: int = 0, end: int | None = None, *, expect: Expected | None = None) -> Blob:
        if self._guard is None:
            blob = await self._read_below(path, start, end, expect=expect)
        else:
            breaker, limit = self._guard
            if breaker.is_closed:
                # As `Breaker.read` and `ConcurrencyLimit.read` do, without their two coroutines (2 us a read).
                gate, now = limit.gate, self._time.now
                started = now()
                try:
                    if not gate.enter_now():
                        await limit.wait_at(gate)
                    entered = now()
                    limit.counters.in_flight += 1
                    try:
                        blob = await limit.source.read(path, start, end)
                        ended = now()
                        limit.counters.answered(blob.data, ended - entered)
                    except BaseException as error:
                        limit.note_failed(gate, error, now() - entered)
                        raise
                    gate.leave(ended - entered)
                except BaseException as error:
                    breaker.note_failed(error, now() - started)
                    raise
                breaker.note_answered(ended - entered)
            else:
                blob = await self._read_below(path, start, end, expect=expect)
        data = blob.data
        stop = blob.size if end is None or end > blob.size else end
        nbytes = data.nbytes if type(data) is memoryview else len(data)
        if nbytes != stop - start:
            raise self._damaged(path, f"gave {nbytes} of {stop - start} bytes; read it again")
        for known in (expect, None if self._expected is None else self._expected(path)):
            if known is not None:
                size, etag, checksums = known
                self._check_identity(path, blob, size, etag)
                if checksums and nbytes == blob.size:
                    await self._check_content(path, blob, checksums)
        return blob

    def _check_identity(self, path: str, blob: Blob, size: int | None, etag: str | None) -> None:
        if size is not None and 0 <= size != blob.size:
            raise self._changed(path, f"has {blob.size} bytes and had {size} when it was listed")
        if etag and blob.etag and plain_etag(etag) != plain_etag(blob.etag):
            raise self._changed(path, f"has ETag {plain_etag(blob.etag)} and had {plain_etag(etag)} when it was listed")

    async def _check_content(self, path: str, blob: Blob, checksums: Mapping[str, str]) -> None:
        for name, expected in checksums.items():
            if name not in CHECKSUMS:
                raise ConfigError(
                    f"checksum {name!r} of {path!r} is not known: give {' or '.join(CHECKSUMS)}", path=path
                )
            if blob.size <= INLINE_BYTES:
                found = _digest(name, blob.data)
            else:
                found = await asyncio.to_thread(_digest, name, blob.data)
            if found != expected.lower():
                raise self._damaged(
                    path, f"was damaged on its way: {name} {found} in place of {expected}; read it again"
                )

    def _changed(self, path: str, what: str) -> ObjectChanged:
        self.mismatches += 1
        text = f"{path!r} of source {self.name!r} {what}; list the source anew to read the new object"
        return ObjectChanged(text, path=path, source=self.name)

    def _damaged(self, path: str, what: str) -> TruncatedRead:
        self.mismatches += 1
        return TruncatedRead(f"{path!r} of source {self.name!r} {what}", path=path, source=self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {"_expected": self._expected}
        return (*super().__reduce__(), state)


def _digest(name: str, data: bytes | bytearray | memoryview) -> str:
    return hashlib.new(name, data, usedforsecurity=False).hexdigest()
