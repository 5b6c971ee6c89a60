"""Requests to each replica and their outcomes, as numbers under the replica's name.

The numbers are kept by the parts of the stacks and only read here. A reading takes no lock, needs no loop and changes
nothing, so it may be taken in any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

from streaming.resilience.breaker import State
from streaming.resilience.failover import Failover
from streaming.resilience.guard import Guard
from streaming.resilience.hedge import Hedge
from streaming.resilience.retry import Retry
from streaming.resilience.wrapper import Wrapper
from streaming.sources.base import DataSource
from streaming.telemetry.counters import MetricsSnapshot, SourceCounters

__all__ = ["ReplicaMetrics", "counts_requests"]


class _Sum(NamedTuple):
    """A family that is the sum of a number over all wrappers of a kind."""

    family: str
    kind: type[Wrapper]
    number: Callable[[Any], int]


_SUMS: Final = (
    _Sum("source_retries", Retry, attrgetter("retries")),
    _Sum("source_deadline_exceeded", Retry, attrgetter("deadlines")),
    _Sum("source_hedges", Hedge, attrgetter("hedges")),
    _Sum("source_hedge_wins", Hedge, attrgetter("hedge_wins")),
    _Sum("source_failovers", Failover, attrgetter("failovers")),
    _Sum("source_integrity_failures", Guard, attrgetter("mismatches")),
    _Sum("source_breaker_opened", Guard, attrgetter("breaker.opened")),
    _Sum("source_queued_requests", Guard, attrgetter("waiting")),
)

_WORST_FIRST: Final = (State.OPEN, State.HALF_OPEN, State.CLOSED)


class _Number(NamedTuple):
    """A number of one replica; `labels` are the values of the labels after its name."""

    family: str
    labels: tuple[str, ...]
    value: Any


class _Replica:
    """One replica, and the wrappers of all stacks that are reported under its name."""

    def __init__(self, source: DataSource) -> None:
        self.source = source
        self.wrappers: list[Wrapper] = []
        self.counters: list[Sequence[SourceCounters]] = []

    @property
    def guards(self) -> list[Guard]:
        return [wrapper for wrapper in self.wrappers if isinstance(wrapper, Guard)]

    def numbers(self) -> Iterator[_Number]:
        """All numbers of this moment."""
        requests = SourceCounters.total([counters for each in self.counters for counters in tuple(each)])
        for outcome, count in requests.outcomes.items():
            yield _Number("source_requests", (outcome,), count)
        yield _Number("source_bytes", (), self._received(requests.nbytes))
        yield _Number("source_request_duration_seconds", (), [*requests.buckets, requests.seconds])
        yield _Number("source_in_flight", (), requests.in_flight)
        for family, kind, number in _SUMS:
            if found := [wrapper for wrapper in self.wrappers if isinstance(wrapper, kind)]:
                yield _Number(family, (), sum(map(number, found)))
        if guards := self.guards:
            states = {guard.breaker.state for guard in guards}
            worst = next(state for state in _WORST_FIRST if state in states)
            for state in State:
                yield _Number("source_breaker_state", (state.value,), int(state is worst))
            yield _Number("source_concurrency_limit", (), self._least_limit(guards))

    @property
    def nbytes(self) -> int:
        """Bytes that came from it."""
        return self._received(sum([counters.nbytes for each in self.counters for counters in tuple(each)]))

    def _received(self, answered: int) -> int:
        """Return the bytes that the source itself has counted, or else those of the answers."""
        received = self.source.received_bytes
        return answered if received is None else received

    @staticmethod
    def _least_limit(guards: Sequence[Guard]) -> int:
        """Return the lowest limit in force; before the first read, the one that it starts with."""
        limits = [limit.limit for guard in guards if (limit := guard.last_limit) is not None]
        return int(min(limits or [guard.settings.initial_concurrency for guard in guards]))


class ReplicaMetrics:
    """The numbers of all replicas below some sources.

    A wrapper is reported under the replica that it reads; one around several replicas, under the first of them. A
    replica in several stacks is one: its requests add up, and its breaker is the worst of its breakers. The first
    replica of a name keeps the name; others of the same name get "-2", "-3" and so on, in the order given.

    Args:
        sources: each source with the counters of its readers, a list that may grow; None for one that
            `counts_requests`.
    """

    def __init__(self, sources: Iterable[tuple[DataSource, Sequence[SourceCounters] | None]]) -> None:
        replicas: dict[int, _Replica] = {}
        for source, counters in sources:
            for part in _parts(source):
                _replica_below(part, replicas)  # in the order of the replicas, as the first keeps the name
            if counters is not None:
                _replica_below(source, replicas).counters.append(counters)
            for part in _parts(source):
                replica = _replica_below(part, replicas)
                if isinstance(part, Wrapper) and part not in replica.wrappers:
                    replica.wrappers.append(part)
                    if isinstance(part, Guard) and not counts_requests(part.source):
                        replica.counters.append((part.counters,))
        names = _unique([replica.source.name for replica in replicas.values()])
        self._replicas = dict(zip(names, replicas.values(), strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes that came from all replicas so far, also by failed attempts and by reads that were not needed."""
        return sum([replica.nbytes for replica in self._replicas.values()])

    def take(self) -> MetricsSnapshot:
        """Return the numbers of this moment: every family whose key begins with `source_` and that has any."""
        snapshot: MetricsSnapshot = {}
        for name, replica in self._replicas.items():
            for family, labels, value in replica.numbers():
                snapshot.setdefault(family, {})[name, *labels] = value
        return snapshot


def counts_requests(source: DataSource) -> bool:
    """Whether a source counts its requests itself, because it holds a `Guard`."""
    return any(isinstance(part, Guard) for part in _parts(source))


def _parts(source: DataSource) -> Iterator[DataSource]:
    """Yield a source and all sources that it wraps."""
    yield source
    inner = source.sources if isinstance(source, Failover) else (source.source,) if isinstance(source, Wrapper) else ()
    for each in inner:
        yield from _parts(each)


def _replica_below(source: DataSource, replicas: dict[int, _Replica]) -> _Replica:
    """Return the first replica that a source reads; it is added to `replicas`."""
    while isinstance(source, Wrapper):
        source = source.source
    return replicas.setdefault(id(source), _Replica(source))


def _unique(names: Sequence[str]) -> list[str]:
    """Make names differ: the first of a name keeps it, the others are numbered."""
    taken: set[str] = set()
    unique = []
    for own in names:
        number = 2
        name = own
        while name in taken or (name != own and name in names):
            name = f"{own}-{number}"
            number += 1
        taken.add(name)
        unique.append(name)
    return unique
