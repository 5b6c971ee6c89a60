"""A sampler that says what it will yield before it yields it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils.data import Sampler

__all__ = ["LookAhead"]

HORIZON = 8192
"""Indices announced and not yet yielded, at most; at least half of it, which is the deepest read-ahead."""


class LookAhead(Sampler[Any]):
    """Wraps a sampler, or a batch sampler, and announces its indices ahead of yielding them.

    The indices and their order stay exactly those of the wrapped sampler. It is drawn from in chunks, on first use in
    each epoch, so a sampler that draws its whole order at the start (torch's own do) sees the random state it would see
    without this wrapper. Other attributes are those of the wrapped sampler.

    Args:
        sampler: yields indices, or lists of indices.
        announce: called with the next indices, in order, and this object.
        forget: called with this object when announced indices will not be read.
        set_epoch: called with the number of each epoch that begins.
    """

    def __init__(
        self,
        sampler: Iterable[Any],
        announce: Callable[[list[int], object], None],
        forget: Callable[[object], None],
        set_epoch: Callable[[int], None],
    ) -> None:
        self.sampler = sampler
        self._announce = announce
        self._forget = forget
        self._set_epoch = set_epoch
        self._next_epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on to the wrapped sampler, where it has this method, and use it for the next iteration."""
        self._next_epoch = epoch
        inner = getattr(self.sampler, "set_epoch", None)
        if inner is not None:
            inner(epoch)

    def __iter__(self) -> Iterator[Any]:
        self._set_epoch(self._next_epoch)
        self._next_epoch += 1
        self._forget(self)
        indices = iter(self.sampler)
        pending: deque[Any] = deque()
        announced = 0
        try:
            while True:
                if announced < HORIZON // 2:
                    announced += self._draw(indices, pending, HORIZON - announced)
                if not pending:
                    return
                announced -= _count(pending[0])
                yield pending.popleft()
        finally:
            if pending:
                self._forget(self)

    def _draw(self, indices: Iterator[Any], pending: deque[Any], wanted: int) -> int:
        drawn: list[int] = []
        for item in indices:
            pending.append(item)
            drawn.extend(item if isinstance(item, (list, tuple)) else (item,))
            if len(drawn) >= wanted:
                break
        if drawn:
            self._announce(drawn, self)
        return len(drawn)

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]  # TypeError where the sampler has no length, as without us

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "sampler":
            raise AttributeError(name)
        return getattr(self.sampler, name)


def _count(item: Any) -> int:
    return len(item) if isinstance(item, (list, tuple)) else 1
