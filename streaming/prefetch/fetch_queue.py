"""The keys that shall be fetched into a cache, and which of them may be fetched now."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sized

__all__ = ["PrefetchQueue"]


class PrefetchQueue:
    """Keys in the order in which they were added, of which few enough are fetched at a time. Belongs to one loop.

    Args:
        start: begins the fetch of a key; False if the key needs none. Whoever fetches takes it out of `loading`.
        unread: what was fetched into the cache and not read yet.
        most_unread: most keys that are unread or on their way; None: no bound.
        most_loading: most keys on their way.

    Attributes:
        waiting: keys whose fetch has not begun, in order.
        loading: keys on their way.
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
        """Append keys, each once, and begin what may begin."""
        self.waiting.update(dict.fromkeys(key for key in keys if key not in self.loading))
        self.fill()

    def fill(self) -> None:
        """Begin as many fetches as there is room for."""
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
        """Forget the keys whose fetch has not begun."""
        self.waiting.clear()
