"""Shares of a byte budget for loads that a reader waits for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

from streaming.prefetch.loads import Load, Releasable

__all__ = ["DemandedLoads", "Reserve"]

Reserve = Callable[[Any, bool], Releasable | None]
"""`reserve(key, demanded)` returns a share of the budget, or None if there is no room now."""


class DemandedLoads:
    """Gives demanded loads their share at once, or in the order of demand as others end. Belongs to one event loop.

    Args:
        reserve: gives the shares; None: there is no bound.
        drop_furthest: drops the load ahead that is needed last; False if there is none.

    Attributes:
        waiting: loads without room, each with the future that ends its wait, in the order of demand.
    """

    def __init__(self, reserve: Reserve | None, drop_furthest: Callable[[], bool]) -> None:
        self._reserve = reserve
        self._drop_furthest = drop_furthest
        self.waiting: deque[tuple[Hashable, Load, asyncio.Future[None]]] = deque()
        self._holders = 0  # loads that hold a share and release it when they end

    def has_room(self, key: Hashable, load: Load) -> bool:
        """Give a load its share, or let it go without one. False: it has to wait for another demanded load to end.

        Loads ahead are not dropped while a demanded one is in flight: that one ends soon, and they would be loaded
        twice.
        """
        if self._reserve is None:
            return True
        reservation = self._reserve(key, True)
        if reservation is None and self._holders:
            return False
        while reservation is None and self._drop_furthest():
            reservation = self._reserve(key, True)
        load.reservation = reservation
        self._holders += reservation is not None
        return True

    def hold(self, load: Load, reservation: Releasable | None) -> None:
        """Let a load hold a share until it ends."""
        load.reservation = reservation
        self._holders += reservation is not None

    def release(self, load: Load) -> None:
        """Release the share of a load that ended."""
        if load.reservation is not None:
            load.reservation.release()
            self._holders -= 1

    def turn_of(self, key: Hashable, load: Load) -> asyncio.Future[None]:
        """Return a future that is done when the load has its share."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((key, load, turn))
        return turn

    def grant(self) -> bool:
        """Start the loads that waited for room, in the order of demand. Whether none waits any more."""
        while self.waiting:
            key, load, turn = self.waiting[0]
            if not (turn.done() or load.task.done()):  # else it was cancelled
                try:
                    if not self.has_room(key, load):
                        return False
                    turn.set_result(None)
                except Exception as exc:
                    turn.set_exception(exc)
            self.waiting.popleft()
        return True
