"""Room in a cache for one read, from the moment it is reserved until its reader has the sample."""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable

__all__ = ["Reservation", "ReservationState"]


class ReservationState(enum.Enum):
    """State of a reservation."""

    RESERVED = "reserved"
    """Room for a sample that is being read, or that its reader keeps outside the cache."""

    STORED_UNREAD = "stored unread"
    """A stored sample that was read ahead. Its bytes count as read ahead, and "retain" does not evict it."""

    RELEASED = "released"
    """Nothing."""


class Reservation:
    """Room for one read: `reserve` makes it, the read carries it, `admit` stores the sample in it. Release it last.

    Attributes:
        state: changed by the cache, under its lock.
        nbytes: bytes held in this state.
        demanded: whether a reader waits for the sample.
        until_read: whether it lasts until the reader has the sample. Otherwise `admit` ends it.
        key: key of the sample that is stored unread.
    """

    __slots__ = ("_release", "demanded", "key", "nbytes", "state", "until_read")

    def __init__(
        self, release: Callable[[Reservation], None], nbytes: int, *, demanded: bool, until_read: bool
    ) -> None:
        self._release = release
        self.state = ReservationState.RESERVED
        self.nbytes = nbytes
        self.demanded = demanded
        self.until_read = until_read
        self.key: Hashable = None

    def has_reader(self, is_shared: bool) -> bool:
        """Whether the reader gets the sample from the read itself and not from the cache.

        A reader in this process does if the sample was read ahead. One in another process (`is_shared`) does if it
        waits for the read.
        """
        return self.state is ReservationState.RESERVED and self.until_read and self.demanded == is_shared

    def release(self) -> None:
        """Give the room back. Any thread; idempotent."""
        self._release(self)
