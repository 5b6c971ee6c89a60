"""A load in flight, and the share of a byte budget that it holds."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

__all__ = ["Load", "Releasable"]


class Releasable(Protocol):
    """A share of a byte budget, held until it is released: the reservation of a cache."""

    def release(self) -> None:
        """Give the share back. Idempotent."""


class Load:
    """A load in flight, and the readers that wait for it.

    Attributes:
        is_ahead: whether it was announced, not demanded.
        reservation: its share of the budget while a reader waits for it; None where there is none, or where the key
            keeps the share until it is used.
        waiters: a future for each reader.
        task: runs the load.
    """

    __slots__ = ("is_ahead", "reservation", "task", "waiters")

    def __init__(self, is_ahead: bool) -> None:
        self.is_ahead = is_ahead
        self.reservation: Releasable | None = None
        self.waiters: list[asyncio.Future[Any]] = []
        self.task: asyncio.Future[Any]
