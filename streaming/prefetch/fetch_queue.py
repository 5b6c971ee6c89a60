"""Keys to fetch into a cache, and which of them may be fetched now."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sized

__all__ = ["PrefetchQueue"]


class PrefetchQueue:
    """Keys that are fetched in the order in which they were added, within bounds. Belongs to one event loop.

    Args:
        start: starts the fetch of a key; False if the key needs none. The fetch removes the key from `loading`.
        unread: keys that were fetched into the cache and not read yet.
        most_unread: most keys that are unread or in flight; None: no bound.
        most_loading: most keys in flight.

    Attributes:
        waiting: keys whose fetch has not started, in order.
        loading: keys in flight.
    """

    def __init__(
        self, start: Callable[[Hashable], bool], *, unread: Sized, most_unread: int | None, most_loading: int
    ) -> None:
        self._start = start
        self._unread = unread
        self._most_unread = most_unread
        self._most_loading = most_loading
        self.waiting: dict[Hashable, None] = {}
        self.loading: set[Hashable] = set()

    def add(self, keys: Iterable[Hashable]) -> None:
        """Append keys, each once, and start what may start."""
        self.waiting.update(dict.fromkeys(key for key in keys if key not in self.loading))
        self.fill()

    def fill(self) -> None:
        """Start as many fetches as there is room for."""
        while self.waiting and self._has_room():
            key = next(iter(self.waiting))
            del self.waiting[key]
            self.loading.add(key)
            if not self._start(key):
                self.loading.discard(key)

    def _has_room(self) -> bool:
        if len(self.loading) >= self._most_loading:
            return False
        return self._most_unread is None or len(self._unread) + len(self.loading) < self._most_unread

    def clear(self) -> None:
        """Remove the keys whose fetch has not started."""
        self.waiting.clear()
