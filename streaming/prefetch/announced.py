"""Announced orders of keys, and how far each is loaded ahead of its readers."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from typing import Final, NamedTuple

from streaming.prefetch.loads import Releasable

__all__ = ["MAX_DEPTH", "START_DEPTH", "Ahead", "AnnouncedOrder", "AnnouncedOrders"]

START_DEPTH: Final = 512
MAX_DEPTH: Final = 4096
"""Adaptive depth starts at eight batches of 64 and doubles each time a reader has to wait while it is the limit."""


class AnnouncedOrder:
    """One announced order.

    Attributes:
        name: any value.
        keys: keys that were not started yet, in order.
        ahead: number of keys that were started and not used yet.
    """

    __slots__ = ("ahead", "keys", "name")

    def __init__(self, name: Hashable) -> None:
        self.name = name
        self.keys: deque[Hashable] = deque()
        self.ahead = 0


class Ahead(NamedTuple):
    """A key that was started ahead and not used yet: its order, and its share of the budget."""

    order: AnnouncedOrder
    reservation: Releasable | None


class AnnouncedOrders:
    """Decides which key is started next. Belongs to one event loop, except where noted.

    Args:
        max_ahead: most keys of one order that are started and not used yet; None adapts.

    Attributes:
        depth: that number at this moment.
        started: keys that were started ahead and not used yet, oldest first.
    """

    def __init__(self, max_ahead: int | None) -> None:
        self.depth = START_DEPTH if max_ahead is None else max_ahead
        self.started: dict[Hashable, Ahead] = {}
        self._is_adaptive = max_ahead is None
        self._orders: dict[Hashable, AnnouncedOrder] = {}
        self._overtaken: set[Hashable] = set()  # demanded before their turn came

    def __len__(self) -> int:
        """Number of orders of which a key was not used yet."""
        return len(self._orders)

    @property
    def waiting(self) -> int:
        """Number of keys that were not started yet. Any thread."""
        return sum([len(order.keys) for order in list(self._orders.values())])  # which the loop may change meanwhile

    def extend(self, keys: Iterable[Hashable], name: Hashable) -> None:
        """Append keys to the order of this name."""
        self._orders.setdefault(name, AnnouncedOrder(name)).keys.extend(keys)

    def forget(self, name: Hashable) -> list[Hashable]:
        """Drop an order, and return its keys that were started and not used yet."""
        dropped = self._orders.pop(name, None)
        if not self._has_keys():
            self._overtaken.clear()
        return [key for key, ahead in self.started.items() if ahead.order is dropped]

    def clear(self) -> None:
        """Drop all orders."""
        self._orders.clear()

    def newest_first(self) -> list[AnnouncedOrder]:
        """Return the orders, the one that was announced last first."""
        return list(self._orders.values())[::-1]

    def end(self, order: AnnouncedOrder) -> None:
        """Forget an order that is over, as a long run has one for each epoch."""
        del self._orders[order.name]

    def start(self, key: Hashable, order: AnnouncedOrder, reservation: Releasable | None) -> None:
        """Count a key as started ahead."""
        self.started[key] = Ahead(order, reservation)
        order.ahead += 1

    def use(self, key: Hashable) -> Releasable | None:
        """Count a key as used, and return the share of the budget that it held."""
        ahead = self.started.pop(key, None)
        if ahead is None:
            return None
        ahead.order.ahead -= 1
        return ahead.reservation

    def overtake(self, key: Hashable) -> None:
        """Note that a key was demanded: it is not started when its turn comes."""
        if self._has_keys():
            if len(self._overtaken) >= MAX_DEPTH:  # most are of readers that follow no order
                self._overtaken.clear()
            self._overtaken.add(key)

    def skip(self, key: Hashable) -> bool:
        """Whether the key, whose turn has come, was demanded before. True once."""
        if key not in self._overtaken:
            return False
        self._overtaken.remove(key)
        return True

    def grow(self) -> bool:
        """Double an adaptive depth if it is what limits the loads ahead. Whether it was."""
        is_limit = any(order.keys and order.ahead >= self.depth for order in self._orders.values())
        if self._is_adaptive and is_limit:
            self.depth = min(2 * self.depth, MAX_DEPTH)
        return self._is_adaptive and is_limit

    def _has_keys(self) -> bool:
        return any(order.keys for order in self._orders.values())
