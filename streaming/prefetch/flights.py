"""What `ReadAhead` keeps of each announced order, of each key loaded ahead, and of each load under way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Any, NamedTuple, Protocol

__all__ = ["Ahead", "AnnouncedOrder", "Flight", "Releasable"]


class Releasable(Protocol):
    """A share of a byte budget, held until it is released: the reservation of a cache."""

    def release(self) -> None:
        """Give the share back. Idempotent."""


class AnnouncedOrder:
    """One announced order: the keys not started yet, and how many are started and not yet used."""

    __slots__ = ("ahead", "keys")

    def __init__(self) -> None:
        self.keys: deque[Hashable] = deque()
        self.ahead = 0


class Ahead(NamedTuple):
    """A key that was started ahead, until it is used: whose it is, and its share of the budget."""

    plan: AnnouncedOrder
    reservation: Releasable | None


class Flight:
    """A load under way, ahead of its use or asked for, and the readers that wait for it."""

    __slots__ = ("is_ahead", "reservation", "task", "waiters")

    def __init__(self, is_ahead: bool) -> None:
        self.is_ahead = is_ahead
        self.reservation: Releasable | None = None  # of a load that a reader asked for; those ahead keep theirs
        self.waiters: list[asyncio.Future[Any]] = []
        self.task: asyncio.Future[Any]
