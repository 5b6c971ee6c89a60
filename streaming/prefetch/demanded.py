"""Loads that a reader waits for and that were not started yet, and their shares of a byte budget."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from streaming.prefetch.loads import Load, Releasable

__all__ = ["DemandedLoads", "Reserve"]

Reserve = Callable[[Any, bool], Releasable | None]
"""`reserve(key, demanded)` returns a share of the budget, or None if there is no room now."""


class DemandedLoads:
    """Gives demanded loads their share in the order of demand. Used under the lock of its `ReadAhead`.

    Args:
        reserve: gives the shares; None: there is no bound.
        drop_furthest: drops the load ahead that is needed last; False if there is none.

    Attributes:
        waiting: loads that were not started, in the order of demand.
    """

    def __init__(self, reserve: Reserve | None, drop_furthest: Callable[[], bool]) -> None:
        self._reserve = reserve
        self._drop_furthest = drop_furthest
        self.waiting: deque[Load] = deque()
        self._holders = 0  # loads that hold a share and release it when they end

    def has_room(self, load: Load) -> bool:
        """Give a load its share, or let it go without one. False: it has to wait for another demanded load to end.

        Loads ahead are not dropped while a demanded one is in flight: that one ends soon, and they would be loaded
        twice.
        """
        if self._reserve is None:
            return True
        reservation = self._reserve(load.key, True)
        if reservation is None and self._holders:
            return False
        while reservation is None and self._drop_furthest():
            reservation = self._reserve(load.key, True)
        self.hold(load, reservation)
        return True

    def hold(self, load: Load, reservation: Releasable | None) -> None:
        """Let a load hold a share until it ends."""
        load.reservation = reservation
        self._holders += reservation is not None

    def release(self, load: Load) -> None:
        """Release the share of a load that ended. Idempotent."""
        reservation, load.reservation = load.reservation, None
        if reservation is not None:
            reservation.release()
            self._holders -= 1
