"""Who is read under which name, and what those counted that are gone."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Container
from itertools import count
from time import monotonic

from streaming.metrics.flight import Flight
from streaming.metrics.live import Entry, Live
from streaming.metrics.totals import Reading, Sums, Track

__all__ = ["Member", "Roster"]

MOST_GONE = 16
"""Of those that are gone without a last reading so many are remembered one by one, in case that it comes late."""
PATIENCE_S = 1.0
"""How long a data set may be listed as open once its last reading has come: it is told just before the end."""


class Member:
    """One data set or loader.

    Attributes:
        entry_name: as it calls itself.
        name: as its numbers are exposed.
        track: what it counted.
        flight: reads it.
        tells_end: whether its last reading comes when it closes.
    """

    def __init__(self, entry: Entry, name: str) -> None:
        self.entry_name = entry.name
        self.name = name
        self.track = Track()
        self.flight = Flight(entry.reader)
        self.tells_end = entry.remains is None
        self._remains = entry.remains
        self._reader = weakref.ref(entry.reader)
        self._dataset = weakref.ref(entry.dataset)

    def is_for(self, entry: Entry) -> bool:
        """Whether this is the member for an entry."""
        return self._reader() is entry.reader

    def is_of(self, dataset: object) -> bool:
        """Whether this reads the numbers of that data set."""
        return self._dataset() is dataset

    def end(self) -> None:
        """Take note that it is gone, with what can still be read of it."""
        if self._remains is not None:
            self.track.take(self._remains.readings())


class Roster:
    """Follows what opens and closes. Not safe in several threads at once, but for the news of what closes.

    A name goes on with its sums when another data set is opened under it; of two that are open at once the later one
    is called by the lowest free number from 2 up: `data`, `data-2`.
    """

    def __init__(self, live: Live) -> None:
        self._entries = live.entries
        self._members: list[Member] = []
        self._gone: deque[Member] = deque()
        self._closed: dict[str, Sums] = {}
        news: deque[tuple[float, str, Reading]] = deque()  # appended to by the threads that close data sets
        self._news = news
        unsubscribe = live.on_close(lambda name, reading: news.append((monotonic(), name, reading)))
        weakref.finalize(self, unsubscribe).atexit = False

    def follow(self) -> list[Member]:
        """Take note of what opened and closed since the last time; those that are open now."""
        news = [self._news.popleft() for _ in range(len(self._news))]
        entries = list(self._entries())  # after the news
        found = [(entry, self._member_of(entry)) for entry in entries]
        stay = [member for _, member in found if member is not None]
        for member in self._members:
            if member not in stay:
                member.end()
                self._gone.append(member)
        self._members = stay
        for told, name, reading in news:
            self._settle(told, name, reading)
        while len(self._gone) > MOST_GONE:
            self._fold(self._gone.popleft())
        for entry, known in found:
            if known is None:
                self._members.append(Member(entry, self._name_for(entry)))
        return self._members

    def sums(self) -> dict[str, Sums]:
        """By name all that was ever counted under it."""
        totals: dict[str, Sums] = {}
        for name, sums in self._closed.items():
            totals.setdefault(name, Sums()).add(sums.values)
        for member in (*self._gone, *self._members):
            member.track.add_to(totals.setdefault(member.name, Sums()))
        return totals

    def _member_of(self, entry: Entry) -> Member | None:
        return next((member for member in self._members if member.is_for(entry)), None)

    def _settle(self, told: float, name: str, reading: Reading) -> None:
        """Book the last reading of one that closed, in place of the one that was asked for before."""
        for member in self._gone:
            if member.tells_end and member.entry_name == name:
                self._gone.remove(member)
                member.track.take(reading)
                self._fold(member)
                return
        if monotonic() - told < PATIENCE_S and any(member.entry_name == name for member in self._members):
            self._news.append((told, name, reading))  # it may be this one, just about to close
            return
        track = Track()  # opened and closed since the last time
        track.take(reading)
        track.add_to(self._closed.setdefault(name, Sums()))

    def _fold(self, member: Member) -> None:
        member.track.add_to(self._closed.setdefault(member.name, Sums()))

    def _name_for(self, entry: Entry) -> str:
        for member in self._members:
            if member.is_of(entry.dataset):
                return member.name
        return _free(entry.name, {member.name for member in self._members})


def _free(name: str, taken: Container[str]) -> str:
    if name not in taken:
        return name
    return next(other for number in count(2) if (other := f"{name}-{number}") not in taken)
