"""Numbers for announced orders, which can cross to another process as the objects that stand for them cannot."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable

__all__ = ["OrderNumbers"]

_numbers = itertools.count(1)


class OrderNumbers:
    """Gives each order a number that no other order of this process has or had.

    An order is any object; two are the same if they are the same object. Python may give the memory of a dead object,
    and so its `id`, to the next one: an order that died is therefore not known any more.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Callable[[], object], int]] = {}

    def of(self, order: object) -> int:
        """Return the number of an order, a new one at first."""
        known = self._known.get(id(order))
        if known is not None and known[0]() is order:
            return known[1]
        number = next(_numbers)
        self._known[id(order)] = _reference(order), number
        return number

    def pop(self, order: object) -> int | None:
        """Forget an order, and return the number it had, if any."""
        known = self._known.pop(id(order), None)
        return known[1] if known is not None and known[0]() is order else None

    def pop_all(self) -> list[int]:
        """Forget all orders, and return their numbers."""
        known, self._known = self._known, {}
        return [number for _, number in known.values()]


def _reference(order: object) -> Callable[[], object]:
    try:
        return weakref.ref(order)
    except TypeError:  # a plain object() cannot be referred to weakly, and is kept
        return lambda: order
