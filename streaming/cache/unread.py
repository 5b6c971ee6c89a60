"""Keys that were fetched ahead of their reader and not read yet."""

from __future__ import annotations

from collections.abc import Callable, Hashable

__all__ = ["Unread"]


class Unread:
    """Keys that a prefetch stored in a cache, until they are read or removed.

    Changed under the cache's lock, except by `discard`, which any thread may call.
    """

    def __init__(self) -> None:
        self._keys: dict[Hashable, None] = {}
        self._callbacks: list[Callable[[], object]] = []

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._keys

    def add(self, key: Hashable) -> None:
        """Count a key as unread."""
        self._keys[key] = None

    def discard(self, key: Hashable) -> bool:
        """Note that a key was read or removed. Whether it was unread."""
        if key not in self._keys or self._keys.pop(key, self) is self:
            return False
        self._notify()
        return True

    def clear(self) -> None:
        """Note that all keys were removed."""
        if self._keys:
            self._keys.clear()
            self._notify()

    def listen(self, callback: Callable[[], object]) -> None:
        """Call `callback()` when a key is no longer unread, in any thread, with the cache's lock held."""
        if callback not in self._callbacks:
            self._callbacks.append(callback)

    def unlisten(self, callback: Callable[[], object]) -> None:
        """End `listen`. Idempotent."""
        if callback in self._callbacks:
            self._callbacks.remove(callback)

    def _notify(self) -> None:
        for callback in self._callbacks:
            callback()
