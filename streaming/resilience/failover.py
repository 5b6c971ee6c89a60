"""Several copies of the same objects as one source: where one cannot serve, the next is asked."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from streaming.core.logs import get_logger
from streaming.errors import (
    AccessDenied,
    ConfigError,
    ObjectChanged,
    ObjectNotFoundError,
    SourceError,
    StreamingError,
    TruncatedRead,
)
from streaming.resilience.history import Attempt, carry, failed, told
from streaming.resilience.latency import Latencies
from streaming.resilience.listing_retry import whole_listing
from streaming.resilience.race import Contender, Race
from streaming.resilience.settings import DEFAULTS, ResilienceConfig
from streaming.resilience.timing import Clock, Sleep
from streaming.resilience.wrapper import Expected, Wrapper, read_of
from streaming.sources.base import Blob, DataSource, FileInfo
from streaming.sources.status_codes import UnusableAnswer
from streaming.telemetry.skipped_objects import Skips

_log = get_logger(__name__)

_MOVES_ON = (ObjectNotFoundError, AccessDenied, ObjectChanged, TruncatedRead, UnusableAnswer)


class _Copy:
    """One copy and what is known of it."""

    __slots__ = ("in_flight", "is_failing", "is_primary", "latencies", "read", "source", "was_denied")

    def __init__(self, source: DataSource, is_primary: bool) -> None:
        self.source = source
        self.read = read_of(source)
        self.is_primary = is_primary
        self.in_flight = 0
        self.latencies = Latencies()
        self.is_failing = False
        self.was_denied = False

    @property
    def load(self) -> tuple[bool, float]:
        """What the next read has before it: reads in flight times their median; failing copies come last."""
        return self.is_failing, (self.in_flight + 1) * self.latencies.quantile(0.5)


class _Failures:
    """What the copies said to one read, by copy, the last word of each."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.errors: dict[_Copy, StreamingError] = {}


class Failover(Wrapper):
    """Reads from the first copy that can (`replica_selection="ordered"`), or from the least loaded.

    It moves on where a copy is unavailable, times out, breaks off, denies, lacks the object or has another one; other
    errors, such as a bad request, are final. When a copy is late (`Latencies`) the next is asked too, and
    the first answer wins. When all have failed, one error tells what was tried. Its class:

    - that of the last error worth a retry, if there is one. But if the first copy lacks the object, or copies lack it
      and none that is down is the first, that is `ObjectNotFoundError`, and names the copies that could not be asked;
      if the first copy itself is down, `ObjectNotFoundError` is worth a retry, as the others may lag behind it;
    - else `AccessDenied` if a copy denied (so it may well have the object), else `ObjectChanged`, else
    `ObjectNotFoundError`.

    Args:
        sources: the copies, in the order in which they are asked; at least one. All are closed with this source.

    Attributes:
        failovers: reads that another copy served than the one asked first, or for which the first was passed over.
    """

    def __init__(
        self,
        sources: Sequence[DataSource],
        settings: ResilienceConfig = DEFAULTS,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        if not sources:
            raise ConfigError("no copies: give at least one source")
        super().__init__(sources[0], settings, clock, sleep, rng)
        self.sources = tuple(sources)
        self.failovers = 0
        self._copies = [_Copy(source, place == 0) for place, source in enumerate(self.sources)]
        self._is_ordered = settings.replica_selection == "ordered"

    @property
    def is_throttled(self) -> bool:
        return any(getattr(source, "is_throttled", False) for source in self.sources)

    async def read(self, path: str, start: int = 0, end: int | None = None, *, expect: Expected | None = None) -> Blob:
        if self._closed:
            self._check_open()
        order = self._order()
        return await self._read(
            order, path, start, end, expect, moved=self._is_ordered and order[0] is not self._copies[0]
        )

    async def read_elsewhere(
        self, path: str, start: int = 0, end: int | None = None, *, expect: Expected | None = None
    ) -> Blob:
        """Read beside a first read: from the copies that it did not ask first, and from that one last."""
        first, *others = self._order()
        others.sort(key=lambda copy: copy.is_failing)
        return await self._read([*others, first], path, start, end, expect)

    def _order(self) -> list[_Copy]:
        """The copies in the order in which they are asked; those that would refuse unasked come last."""
        order = self._copies if self._is_ordered else sorted(self._copies, key=lambda copy: copy.load)
        if getattr(order[0].source, "is_resting", False):
            return sorted(order, key=lambda copy: getattr(copy.source, "is_resting", False))
        return order

    async def _read(
        self,
        order: list[_Copy],
        path: str,
        start: int,
        end: int | None,
        expect: Expected | None,
        *,
        moved: bool = False,
    ) -> Blob:
        """Ask one copy after the other; `moved` if the first of all is passed over."""
        race = _Copies(self, order, path, start, end, expect)
        first = order[0]
        race.begin(first.latencies.stall_timeout_s(self.settings))
        try:
            try:
                blob = await self._ask(first, path, start, end, expect, race)
            except BaseException as error:
                blob = await race.go_on(error)
            else:
                if race.end():
                    await race.cancel_others()
        except asyncio.CancelledError as error:
            if race.failures is not None:
                carry(error, race.failures.attempts)
            raise
        except StreamingError as error:
            if _is_final(error):
                raise
            raise self._verdict(race.noted(), path) from error
        self.failovers += moved or (race.failures is not None and bool(race.failures.attempts))
        return blob

    async def _ask(
        self, copy: _Copy, path: str, start: int, end: int | None, expect: Expected | None, race: _Copies
    ) -> Blob:
        now = self._time.now
        started = now()
        copy.in_flight += 1
        try:
            blob = await copy.read(path, start, end, expect=expect)
        except asyncio.CancelledError:
            race.noted().attempts.append(Attempt(copy.source.name, "no answer", "", now() - started))
            raise
        except StreamingError as error:
            if not _is_final(error):
                failures = race.noted()
                failures.attempts.extend(failed(copy.source.name, error, now() - started))
                failures.errors[copy] = error
                self._judge(copy, error)
            raise
        finally:
            copy.in_flight -= 1
        copy.is_failing = False
        copy.latencies.add(now() - started)
        return blob

    def _judge(self, copy: _Copy, error: StreamingError) -> None:
        if isinstance(error, AccessDenied) and not copy.was_denied:
            copy.was_denied = True
            _log.warning("replica_access_denied source=%s reason=%s", copy.source.name, error)
        if (error.retryable or isinstance(error, UnusableAnswer)) and not copy.is_failing:
            copy.is_failing = True
            _log.info("replica_unhealthy source=%s reason=%s", copy.source.name, error)

    def _verdict(self, failures: _Failures, path: str) -> StreamingError:
        """The one error for a read that no copy could serve."""
        errors = failures.errors
        missing = [copy for copy, error in errors.items() if isinstance(error, ObjectNotFoundError)]
        down = [copy for copy, error in errors.items() if error.retryable]
        if missing and len(missing) + len(down) == len(errors):
            chosen: StreamingError = errors[missing[0]]
            unasked = ", ".join(repr(copy.source.name) for copy in down)
            why = "does not exist" + (f" where it could be asked for; not asked: {unasked}" if down else " in any copy")
        else:
            chosen = _heaviest(list(errors.values()))
            why = "could not be read from any copy"
        whole = told(chosen, failures.attempts, why, path, self.name)
        if missing and any(copy.is_primary for copy in down):
            whole.retryable = True
        if whole.retryable:
            whole.__dict__["retry_after_s"] = _soonest(error for error in errors.values() if error.retryable)
        return whole

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        """All objects, as the first copy lists them that can do so wholly; listings are never mixed.

        A copy whose listing brings nothing for `listing_stall_timeout_s` is passed over, except the last.
        """
        self._check_open()
        found, skipped = await self._list(prefix)
        for info in found:
            yield info
        self.skipped = skipped

    async def _list(self, prefix: str) -> tuple[list[FileInfo], Skips]:
        failures = _Failures()
        for copy in self._copies:
            is_last = copy is self._copies[-1]
            patience_s = float("inf") if is_last else self.settings.listing_stall_timeout_s
            started = self._time.now()
            try:
                return await whole_listing(copy.source, prefix, self._time, patience_s)
            except StreamingError as error:
                if not isinstance(error, SourceError):
                    raise
                failures.attempts.extend(failed(copy.source.name, error, self._time.now() - started))
                failures.errors[copy] = error
                self._judge(copy, error)
        raise self._verdict(failures, prefix)

    async def aclose(self) -> None:
        self._closed = True
        errors = [
            error
            for error in await asyncio.gather(*(source.aclose() for source in self.sources), return_exceptions=True)
            if error is not None
        ]
        if errors:
            raise errors[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.sources, self.settings, self._time.now, self._time.sleep, self._given_rng)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.sources))})"


class _Copies(Race):
    """One read, by one copy after the other."""

    failures: _Failures | None = None

    def __init__(
        self,
        failover: Failover,
        order: list[_Copy],
        path: str,
        start: int,
        end: int | None,
        expect: Expected | None,
    ) -> None:
        self._time = failover._time
        self._failover = failover
        self._order = order
        self._asked = path, start, end, expect
        self._next = 1

    def noted(self) -> _Failures:
        """What the copies said so far."""
        if self.failures is None:
            self.failures = _Failures()
        return self.failures

    def more(self, is_late: bool) -> Contender | float | None:
        if self._next >= len(self._order):
            return None
        copy = self._order[self._next]
        self._next += 1
        stall_timeout_s = copy.latencies.stall_timeout_s(self._failover.settings)
        return self._failover._ask(copy, *self._asked, self), stall_timeout_s

    def is_final(self, error: Exception) -> bool:
        return _is_final(error)


def _is_final(error: Exception) -> bool:
    """Whether no other copy can help."""
    return not (isinstance(error, _MOVES_ON) or (isinstance(error, SourceError) and error.retryable))


def _heaviest(errors: list[StreamingError]) -> StreamingError:
    """The last error worth a retry, else a refusal, else a change, else the last."""
    for error in reversed(errors):
        if error.retryable:
            return error
    for kind in (AccessDenied, ObjectChanged):
        for error in errors:
            if isinstance(error, kind):
                return error
    return errors[-1]


def _soonest(errors: Iterator[StreamingError]) -> float:
    """When a copy may be asked again: the least that they say, 0 for one that says nothing."""
    return min(getattr(error, "retry_after_s", None) or 0.0 for error in errors)
