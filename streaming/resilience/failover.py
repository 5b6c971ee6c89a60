"""Replicas of the same objects as one source: where one cannot serve a read, the next one does."""

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
from streaming.resilience.history import Attempt, attach_attempts, attempts_from, with_history
from streaming.resilience.latency import Latencies
from streaming.resilience.listing_attempts import whole_listing
from streaming.resilience.race import Contender, Race
from streaming.resilience.wrapper import Wrapper
from streaming.sources.base import Blob, DataSource, Expected, FileInfo
from streaming.sources.status_codes import UnusableAnswer
from streaming.telemetry.skipped_objects import Skips

_log = get_logger(__name__)

_MOVES_ON = (ObjectNotFoundError, AccessDenied, ObjectChanged, TruncatedRead, UnusableAnswer)


class _Replica:
    """One replica and how it has served so far."""

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
        """Sort key of the next read: reads in flight times their median latency; failing replicas come last."""
        return self.is_failing, (self.in_flight + 1) * self.latencies.quantile(0.5)


class _Failures:
    """The failed attempts of one read, and the last error of each replica."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.errors: dict[_Replica, StreamingError] = {}


class Failover(Wrapper):
    """Reads from the first replica that can serve (`replica_selection="ordered"`), or from the least loaded one.

    The next replica is read when one is unavailable, times out, breaks off, denies access, lacks the object or has
    another one; other errors, such as a bad request, are final. When a replica is late (`Latencies`), the next one is
    read too, and the first answer wins. When all have failed, one error lists the attempts. Its class is:

    - that of the last error worth a retry, if there is one, with one exception: if replicas lack the object and the
      others are down, it is `ObjectNotFoundError`, which names the replicas that are down. It is worth a retry if the
      first replica is among them, as the others may lag behind it;
    - else `AccessDenied` if a replica denied access (it may have the object), else `ObjectChanged`, else
      `ObjectNotFoundError`.

    Args:
        sources: the replicas, in the order of preference; at least one. All are closed with this source.
        context: settings and clock.

    Attributes:
        failovers: reads that were served by another replica than the preferred one.
    """

    def __init__(self, sources: Sequence[DataSource], context: Context = DEFAULT_CONTEXT) -> None:
        if not sources:
            raise ConfigError("no replicas: give at least one source")
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
        is_passed_over = self._is_ordered and order[0] is not self._replicas[0]
        return await self._read(order, path, expect, start, end, is_passed_over)

    async def read_elsewhere(self, path: str, expect: Expected | None, start: int = 0, end: int | None = None) -> Blob:
        """Read while another read of the object is late: from the replicas that it does not prefer."""
        first, *others = self._order()
        others.sort(key=lambda replica: replica.is_failing)
        return await self._read([*others, first], path, expect, start, end)

    def _order(self) -> list[_Replica]:
        """Return the replicas in the order of preference; those with an open circuit breaker come last."""
        order = self._replicas if self._is_ordered else sorted(self._replicas, key=lambda replica: replica.load)
        if getattr(order[0].source, "is_circuit_open", False):
            return sorted(order, key=lambda replica: getattr(replica.source, "is_circuit_open", False))
        return order

    async def _read(
        self,
        order: list[_Replica],
        path: str,
        expect: Expected | None,
        start: int,
        end: int | None,
        is_passed_over: bool = False,
    ) -> Blob:
        """Read from one replica after the other; `is_passed_over` if the preferred one comes later."""
        race = _FailoverRead(self, order, path, expect, start, end)
        first = order[0]
        race.begin(first.latencies.stall_timeout_s(self.settings))
        try:
            try:
                blob = await self._read_from(first, path, expect, start, end, race)
            except BaseException as error:
                blob = await race.finish(error)
            else:
                if race.end():
                    await race.cancel_others()
        except asyncio.CancelledError as error:
            if race.failures is not None:
                attach_attempts(error, race.failures.attempts)
            raise
        except StreamingError as error:
            if _is_final(error):
                raise
            raise self._combined(race.ensure_failures(), path) from error
        self.failovers += is_passed_over or (race.failures is not None and bool(race.failures.attempts))
        return blob

    async def _read_from(
        self, replica: _Replica, path: str, expect: Expected | None, start: int, end: int | None, race: _FailoverRead
    ) -> Blob:
        now = self._now
        started = now()
        replica.in_flight += 1
        try:
            blob = await replica.source.read_expecting(path, expect, start, end)
        except asyncio.CancelledError:
            race.ensure_failures().attempts.append(Attempt(replica.source.name, "no answer", "", now() - started))
            raise
        except StreamingError as error:
            if not _is_final(error):
                failures = race.ensure_failures()
                failures.attempts.extend(attempts_from(replica.source.name, error, now() - started))
                failures.errors[replica] = error
                self._note_health(replica, error)
            raise
        finally:
            replica.in_flight -= 1
        replica.is_failing = False
        replica.latencies.add(now() - started)
        return blob

    def _note_health(self, replica: _Replica, error: StreamingError) -> None:
        if isinstance(error, AccessDenied) and not replica.was_denied:
            replica.was_denied = True
            _log.warning("replica_access_denied source=%s reason=%s", replica.source.name, error)
        if (error.retryable or isinstance(error, UnusableAnswer)) and not replica.is_failing:
            replica.is_failing = True
            _log.info("replica_unhealthy source=%s reason=%s", replica.source.name, error)

    def _combined(self, failures: _Failures, path: str) -> StreamingError:
        """Return the one error for a read that no replica could serve."""
        errors = failures.errors
        missing = [replica for replica, error in errors.items() if isinstance(error, ObjectNotFoundError)]
        down = [replica for replica, error in errors.items() if error.retryable]
        if missing and len(missing) + len(down) == len(errors):
            chosen: StreamingError = errors[missing[0]]
            names = ", ".join(repr(replica.source.name) for replica in down)
            why = f"was not found; could not be read from {names}" if down else "does not exist in any replica"
        else:
            chosen = _most_useful(list(errors.values()))
            why = "could not be read from any replica"
        whole = with_history(chosen, failures.attempts, why, path, self.name)
        if missing and any(replica.is_primary for replica in down):
            whole.retryable = True
        if whole.retryable:
            whole.__dict__["retry_after_s"] = _soonest(error for error in errors.values() if error.retryable)
        return whole

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        """List all objects of the first replica that lists them completely; listings are never mixed.

        A replica whose listing stalls for `listing_stall_timeout_s` is passed over, except the last one.
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
            stall_timeout_s = float("inf") if is_last else self.settings.listing_stall_timeout_s
            started = self._now()
            try:
                return await whole_listing(replica.source, prefix, self.context, stall_timeout_s)
            except StreamingError as error:
                if not isinstance(error, SourceError):
                    raise
                failures.attempts.extend(attempts_from(replica.source.name, error, self._now() - started))
                failures.errors[replica] = error
                self._note_health(replica, error)
        raise self._combined(failures, prefix)

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
    """One read, from one replica after the other."""

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

    def ensure_failures(self) -> _Failures:
        """Return the failures so far; made when the first is noted, as most reads have none."""
        if self.failures is None:
            self.failures = _Failures()
        return self.failures

    def next_contender(self, is_late: bool) -> Contender | float | None:
        if self._next >= len(self._order):
            return None
        replica = self._order[self._next]
        self._next += 1
        stall_timeout_s = replica.latencies.stall_timeout_s(self._failover.settings)
        return self._failover._read_from(replica, *self._request, self), stall_timeout_s

    def is_final(self, error: Exception) -> bool:
        return _is_final(error)


def _is_final(error: Exception) -> bool:
    """Whether reading another replica would not help."""
    return not (isinstance(error, _MOVES_ON) or (isinstance(error, SourceError) and error.retryable))


def _most_useful(errors: list[StreamingError]) -> StreamingError:
    """Return the last error worth a retry, else a refused access, else a changed object, else the last error."""
    for error in reversed(errors):
        if error.retryable:
            return error
    for kind in (AccessDenied, ObjectChanged):
        for error in errors:
            if isinstance(error, kind):
                return error
    return errors[-1]


def _soonest(errors: Iterator[StreamingError]) -> float:
    """Return the seconds until a replica may be read again: the least that one asks for, 0 if one asks for none."""
    return min(getattr(error, "retry_after_s", None) or 0.0 for error in errors)
