"""What was asked of each copy of the data and what came of it, as numbers under the copy's name.

The numbers stand in the parts of the stacks and are only looked at here, so a reading may be taken in any thread: it
takes no lock, needs no loop and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from streaming.resilience.breaker import Breaker, State
from streaming.resilience.concurrency_limit import ConcurrencyLimit
from streaming.resilience.failover import Failover
from streaming.resilience.hedge import Hedge
from streaming.resilience.retry import Retry
from streaming.resilience.verify import Verify
from streaming.resilience.wrapper import Wrapper
from streaming.sources.base import DataSource
from streaming.telemetry.counters import MetricsSnapshot, SourceCounters

__all__ = ["ReplicaMetrics", "counts_requests"]

_SUMS: Final[tuple[tuple[str, type[Wrapper], str], ...]] = (
    ("source_retries", Retry, "retries"),
    ("source_deadline_exceeded", Retry, "deadlines"),
    ("source_hedges", Hedge, "hedges"),
    ("source_hedge_wins", Hedge, "hedge_wins"),
    ("source_failovers", Failover, "failovers"),
    ("source_integrity_failures", Verify, "mismatches"),
    ("source_breaker_opened", Breaker, "opened"),
    ("source_queued_requests", ConcurrencyLimit, "waiting"),
)
"""Families that are the sum of an attribute over all parts of a kind."""

_WORST_FIRST: Final = (State.OPEN, State.HALF_OPEN, State.CLOSED)


class _Copy:
    """One copy, and the parts of all stacks that are reported under its name."""

    def __init__(self, source: DataSource) -> None:
        self.source = source
        self.parts: list[Wrapper] = []
        self.counted: list[Sequence[SourceCounters]] = []

    def numbers(self) -> Iterator[tuple[str, tuple[str, ...], Any]]:
        """Family, values of the labels after the name, number."""
        requests = SourceCounters.total([counters for each in self.counted for counters in tuple(each)])
        for outcome, count in requests.outcomes.items():
            yield "source_requests", (outcome,), count
        yield "source_bytes", (), self._bytes(requests.nbytes)
        yield "source_request_duration_seconds", (), [*requests.buckets, requests.seconds]
        yield "source_in_flight", (), requests.in_flight
        for family, kind, attribute in _SUMS:
            if found := [part for part in self.parts if isinstance(part, kind)]:
                yield family, (), sum(getattr(part, attribute) for part in found)
        yield from self._breaker_state()
        yield from self._limit()

    @property
    def nbytes(self) -> int:
        """Bytes that came from it."""
        return self._bytes(sum([counters.nbytes for each in self.counted for counters in tuple(each)]))

    def _bytes(self, answered: int) -> int:
        """What the source itself has counted, else the bytes of the answers."""
        received = self.source.received_bytes
        return answered if received is None else received

    def _breaker_state(self) -> Iterator[tuple[str, tuple[str, ...], int]]:
        states = {part.state for part in self.parts if isinstance(part, Breaker)}
        if states:
            worst = next(state for state in _WORST_FIRST if state in states)
            for state in State:
                yield "source_breaker_state", (state.value,), int(state is worst)

    def _limit(self) -> Iterator[tuple[str, tuple[str, ...], int]]:
        """The least of the gates in force; before the first read, where a gate begins."""
        limits = [part for part in self.parts if isinstance(part, ConcurrencyLimit)]
        if limits:
            gates = [gate for limit in limits if (gate := limit.last_gate) is not None]
            found = [gate.limit for gate in gates] or [limit.settings.initial_concurrency for limit in limits]
            yield "source_concurrency_limit", (), int(min(found))


class ReplicaMetrics:
    """The numbers of all copies below some sources.

    Each part of a stack is reported under the copy beneath it; what stands around several, under the first of them.
    A copy that lies in several stacks is one: its requests add up, its breaker is the worst of its breakers. A name
    that several copies have is the first one's; the others get "-2", "-3" and so on, in the order given.

    Args:
        sources: what is read, each with the counters of those who read it, a list that may grow; None where
            `counts_requests`.
    """

    def __init__(self, sources: Iterable[tuple[DataSource, Sequence[SourceCounters] | None]]) -> None:
        copies: dict[int, _Copy] = {}
        for source, counted in sources:
            for part in _parts(source):
                _copy_below(part, copies)  # in the order of the copies, as the first to come has the name
            if counted is not None:
                _copy_below(source, copies).counted.append(counted)
            for part in _parts(source):
                copy = _copy_below(part, copies)
                if isinstance(part, Wrapper) and part not in copy.parts:
                    copy.parts.append(part)
                    if isinstance(part, ConcurrencyLimit) and not counts_requests(part.source):
                        copy.counted.append((part.counters,))
        self._copies = dict(zip(_names([copy.source.name for copy in copies.values()]), copies.values(), strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes that came from all copies so far, also by attempts that failed and reads that were not needed."""
        return sum([copy.nbytes for copy in self._copies.values()])

    def take(self) -> MetricsSnapshot:
        """The numbers at this moment, of every family whose key begins with `source_` and that has any."""
        reading: MetricsSnapshot = {}
        for name, copy in self._copies.items():
            for family, labels, number in copy.numbers():
                reading.setdefault(family, {})[name, *labels] = number
        return reading


def counts_requests(source: DataSource) -> bool:
    """Whether requests are counted within a source, where it limits them."""
    return any(isinstance(part, ConcurrencyLimit) for part in _parts(source))


def _parts(source: DataSource) -> Iterator[DataSource]:
    """A source and all within it that wrappers of this package stand around."""
    yield source
    inner = source.sources if isinstance(source, Failover) else (source.source,) if isinstance(source, Wrapper) else ()
    for each in inner:
        yield from _parts(each)


def _copy_below(source: DataSource, copies: dict[int, _Copy]) -> _Copy:
    """The first copy that a source leads to, noted as one."""
    while isinstance(source, Wrapper):
        source = source.source
    return copies.setdefault(id(source), _Copy(source))


def _names(own: Sequence[str]) -> list[str]:
    """Different names: each its own for the first that has it, numbered for the others."""
    taken: set[str] = set()
    names = []
    for name in own:
        number = 2
        unique = name
        while unique in taken or (unique != name and unique in own):
            unique = f"{name}-{number}"
            number += 1
        taken.add(unique)
        names.append(unique)
    return names
