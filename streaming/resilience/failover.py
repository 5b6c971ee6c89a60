"""Several copies of the same objects as one source: where one cannot serve, the next is asked."""

from __future__ import annotations

import asyncio
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
from streaming.resilience.context import DEFAULT_CONTEXT, Context
from streaming.resilience.history import Attempt, carry, failed, told
from streaming.resilience.latency import Latencies
from streaming.resilience.listing_retry import whole_listing
from streaming.resilience.race import Contender, Race
from streaming.resilience.wrapper import Wrapper
from streaming.sources.base import Blob, DataSource, Expected, FileInfo
from streaming.sources.status_codes import UnusableAnswer
from streaming.telemetry.skipped_objects import Skips

_log = get_logger(__name__)

_MOVES_ON = (ObjectNotFoundError, AccessDenied, ObjectChanged, TruncatedRead, UnusableAnswer)


class _Replica:
    """One copy and what is known of it."""

    __slots__ = ("in_flight", "is_failing", "is_primary", "latencies", "source", "was_denied")

    def __init__(self, source: DataSource, is_primary: bool) -> None:
        self.source = source
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
        self.errors: dict[_Replica, StreamingError] = {}


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
        context: Context = DEFAULT_CONTEXT,
    ) -> None:
        if not sources:
            raise ConfigError("no copies: give at least one source")
        super().__init__(sources[0], context)
        self.sources = tuple(sources)
        self.failovers = 0
        self._replicas = [_Replica(source, place == 0) for place, source in enumerate(self.sources)]
        self._is_ordered = self.settings.replica_selection == "ordered"

    @property
    def is_throttled(self) -> bool:
        return any(getattr(source, "is_throttled", False) for source in self.sources)

    async def read_expecting(self, path: str, expect: Expected | None, start: int = 0, end: int | None = None) -> Blob:
        if self._closed:
            self._check_open()
        order = self._order()
        return await self._read(
            order, path, expect, start, end, moved=self._is_ordered and order[0] is not self._replicas[0]
        )

    async def read_elsewhere(self, path: str, expect: Expected | None, start: int = 0, end: int | None = None) -> Blob:
        """Read beside a first read: from the copies that it did not ask first, and from that one last."""
        first, *others = self._order()
        others.sort(key=lambda replica: replica.is_failing)
        return await self._read([*others, first], path, expect, start, end)

    def _order(self) -> list[_Replica]:
        """The copies in the order in which they are asked; those that would refuse unasked come last."""
        order = self._replicas if self._is_ordered else sorted(self._replicas, key=lambda replica: replica.load)
        if getattr(order[0].source, "is_resting", False):
            return sorted(order, key=lambda replica: getattr(replica.source, "is_resting", False))
        return order

    async def _read(
        self,
        order: list[_Replica],
        path: str,
        expect: Expected | None,
        start: int,
        end: int | None,
        *,
        moved: bool = False,
    ) -> Blob:
        """Ask one copy after the other; `moved` if the first of all is passed over."""
        race = _FailoverRead(self, order, path, expect, start, end)
        first = order[0]
        race.begin(first.latencies.stall_timeout_s(self.settings))
        try:
            try:
                blob = await self._ask(first, path, expect, start, end, race)
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
        self, replica: _Replica, path: str, expect: Expected | None, start: int, end: int | None, race: _FailoverRead
    ) -> Blob:
        now = self._now
        started = now()
        replica.in_flight += 1
        try:
            blob = await replica.source.read_expecting(path, expect, start, end)
        except asyncio.CancelledError:
            race.noted().attempts.append(Attempt(replica.source.name, "no answer", "", now() - started))
            raise
        except StreamingError as error:
            if not _is_final(error):
                failures = race.noted()
                failures.attempts.extend(failed(replica.source.name, error, now() - started))
                failures.errors[replica] = error
                self._judge(replica, error)
            raise
        finally:
            replica.in_flight -= 1
        replica.is_failing = False
        replica.latencies.add(now() - started)
        return blob

    def _judge(self, replica: _Replica, error: StreamingError) -> None:
        if isinstance(error, AccessDenied) and not replica.was_denied:
            replica.was_denied = True
            _log.warning("replica_access_denied source=%s reason=%s", replica.source.name, error)
        if (error.retryable or isinstance(error, UnusableAnswer)) and not replica.is_failing:
            replica.is_failing = True
            _log.info("replica_unhealthy source=%s reason=%s", replica.source.name, error)

    def _verdict(self, failures: _Failures, path: str) -> StreamingError:
        """The one error for a read that no copy could serve."""
        errors = failures.errors
        missing = [replica for replica, error in errors.items() if isinstance(error, ObjectNotFoundError)]
        down = [replica for replica, error in errors.items() if error.retryable]
        if missing and len(missing) + len(down) == len(errors):
            chosen: StreamingError = errors[missing[0]]
            unasked = ", ".join(repr(replica.source.name) for replica in down)
            why = "does not exist" + (f" where it could be asked for; not asked: {unasked}" if down else " in any copy")
        else:
            chosen = _heaviest(list(errors.values()))
            why = "could not be read from any copy"
        whole = told(chosen, failures.attempts, why, path, self.name)
        if missing and any(replica.is_primary for replica in down):
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
        for replica in self._replicas:
            is_last = replica is self._replicas[-1]
            patience_s = float("inf") if is_last else self.settings.listing_stall_timeout_s
            started = self._now()
            try:
                return await whole_listing(replica.source, prefix, self.context, patience_s)
            except StreamingError as error:
                if not isinstance(error, SourceError):
                    raise
                failures.attempts.extend(failed(replica.source.name, error, self._now() - started))
                failures.errors[replica] = error
                self._judge(replica, error)
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
        return type(self), (self.sources, self.context)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.sources))})"


class _FailoverRead(Race):
    """One read, by one copy after the other."""

    failures: _Failures | None = None

    def __init__(
        self,
        failover: Failover,
        order: list[_Replica],
        path: str,
        expect: Expected | None,
        start: int,
        end: int | None,
    ) -> None:
        self._context = failover.context
        self._failover = failover
        self._order = order
        self._request = path, expect, start, end
        self._next = 1

    def noted(self) -> _Failures:
        """What the copies said so far."""
        if self.failures is None:
            self.failures = _Failures()
        return self.failures

    def more(self, is_late: bool) -> Contender | float | None:
        if self._next >= len(self._order):
            return None
        replica = self._order[self._next]
        self._next += 1
        stall_timeout_s = replica.latencies.stall_timeout_s(self._failover.settings)
        return self._failover._ask(replica, *self._request, self), stall_timeout_s

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
