"""Who is read under which name, and what those counted that are gone."""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Callable, Container
from itertools import count
from time import monotonic

from streaming.core.logs import get_logger
from streaming.monitoring.metrics.flight import Flight
from streaming.monitoring.metrics.live import Entry, Live
from streaming.monitoring.metrics.totals import MetricsSnapshot, Sums, Track

__all__ = ["Member", "Roster"]

logger = get_logger(__name__)

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
        self._dataset: weakref.ref[object] = weakref.ref(entry.reader)
        with contextlib.suppress(TypeError):  # a list, say: nothing else has its numbers
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
            try:
                self.track.take(self._remains.metrics_snapshot())
            except Exception as exc:
                logger.debug("scrape_failed dataset=%s error=%s", self.name, exc)


class Roster:
    """Follows what opens and closes. Not safe in several threads at once, but for the news of what closes.

    A name goes on with its sums when another data set is opened under it; of two that are open at once the later one
    is called by the lowest free number from 2 up: `data`, `data-2`.

    Args:
        live: where to look.
        tell_news: is called when something closed, by the thread that closed it; may `follow`.
    """

    def __init__(self, live: Live, tell_news: Callable[[], None]) -> None:
        self._entries = live.entries
        self._members: list[Member] = []
        self._gone: deque[Member] = deque()
        self._closed: dict[str, Sums] = {}
        news: deque[tuple[float, str, MetricsSnapshot]] = deque()  # appended to by the threads that close data sets
        self._news = news

        def hear(name: str, reading: MetricsSnapshot) -> None:
            news.append((monotonic(), name, reading))
            tell_news()

        weakref.finalize(self, live.on_close(hear)).atexit = False

    @property
    def members(self) -> list[Member]:
        """Those that were open when it was followed last."""
        return self._members

    @property
    def news(self) -> int:
        """How many last readings wait to be booked."""
        return len(self._news)

    def follow(self) -> list[Member]:
        """Take note of what opened and closed since the last time; those that are open now."""
        told = len(self._news)
        entries = list(self._entries())  # after those were told
        news = [self._news.popleft() for _ in range(told)]
        found = [(entry, self._member_of(entry)) for entry in entries]
        stay = [member for _, member in found if member is not None]
        for member in self._members:
            if member not in stay:
                member.end()
                self._gone.append(member)
        self._members = stay
        for at, name, reading in news:
            self._settle(at, name, reading)
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

    def _settle(self, at: float, name: str, reading: MetricsSnapshot) -> None:
        """Book the last reading of one that closed, in place of the one that was asked for before."""
        for member in self._gone:
            if member.tells_end and member.entry_name == name:
                self._gone.remove(member)
                member.track.take(reading)
                self._fold(member)
                return
        if monotonic() - at < PATIENCE_S and any(member.entry_name == name for member in self._members):
            self._news.append((at, name, reading))  # it may be this one, just about to close
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
