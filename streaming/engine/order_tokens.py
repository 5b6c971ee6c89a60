"""Integer tokens for announced orders: unlike the objects that stand for them, they can be sent to another process."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable

__all__ = ["OrderTokens", "new_token"]

_tokens = itertools.count(1)


def new_token() -> int:
    """Return a token that no order of this process has or had."""
    return next(_tokens)


class OrderTokens:
    """Tokens by order.

    An order is any object; two are the same if they are the same object. Python may give the memory of a dead object,
    and so its `id`, to the next one: a dead order is therefore unknown.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Callable[[], object], int]] = {}

    def of(self, order: object) -> int:
        """Return the token of an order, a new one at its first use."""
        known = self._known.get(id(order))
        if known is not None and known[0]() is order:
            return known[1]
        token = new_token()
        self._known[id(order)] = _reference(order), token
        return token

    def pop(self, order: object) -> int | None:
        """Forget an order and return its token; None if it is unknown."""
        known = self._known.pop(id(order), None)
        return known[1] if known is not None and known[0]() is order else None

    def pop_all(self) -> list[int]:
        """Forget all orders and return their tokens."""
        known, self._known = self._known, {}
        return [token for _, token in known.values()]


def _reference(order: object) -> Callable[[], object]:
    try:
        return weakref.ref(order)
    except TypeError:  # a plain object() cannot be referred to weakly, and is kept
        return lambda: order
