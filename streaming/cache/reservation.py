"""Room in a cache for one read, from the moment it is reserved until its reader has the sample."""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable

__all__ = ["Reservation", "ReservationState"]


class ReservationState(enum.Enum):
    """What the bytes of a reservation are held for."""

    RESERVED = "reserved"
    """A sample that is being read, or that its reader keeps outside the cache."""

    STORED_UNREAD = "stored unread"
    """A sample that was read ahead and is stored. Its bytes count as read ahead, and it is not evicted."""

    RELEASED = "released"
    """Nothing."""


class Reservation:
    """Made by `reserve`, passed along with the read, given to `admit` with the sample. Release it in the end.

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
        """Whether the reader gets the sample from the read itself and leaves the cache's alone.

        A reader of this process does when the read was ahead of it. One of another process (`is_shared`: there are
        some) does when it waited for the read.
        """
        return self.state is ReservationState.RESERVED and self.until_read and self.demanded == is_shared

    def release(self) -> None:
        """Give the room back. Any thread; idempotent."""
        self._release(self)
