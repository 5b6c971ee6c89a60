"""A sampler that announces its indices before it yields them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Protocol

from torch.utils.data import Sampler

from streaming.core.epoch_index import with_epoch
from streaming.prefetch.announce_window import AnnounceWindow
from streaming.prefetch.torch_datasets import leaves, reads, reads_of

__all__ = ["LookAhead", "ReadsAhead"]


class ReadsAhead(Protocol):
    """A data set that reads ahead what is announced to it."""

    @property
    def draws(self) -> bool:
        """Whether its samples depend on the epoch in which they are read."""

    @property
    def reads(self) -> int:
        """Number of samples read so far, by any process."""

    def announce(self, indices: list[int], order: object) -> None:
        """Expect these reads next, in order, after those announced under the same `order` before."""

    def forget(self, order: object) -> None:
        """Expect no more of the reads announced under this `order`."""


class LookAhead(Sampler[Any]):
    """Wraps a sampler, or a batch sampler, and announces its indices ahead of yielding them.

    The indices and their order are exactly those of the wrapped sampler. They are drawn in chunks, starting with the
    first use in each epoch, so a sampler that draws its whole order at the start (torch's own do) sees the same random
    state as without this wrapper. Other attributes are read from and set on the wrapped sampler: Accelerate gives every
    rank's sampler one generator in this way.

    Each iteration is an epoch, which is passed on with the indices. If the loader reads only a part of what is yielded
    here, such as one that divides batches among ranks, little is announced at first and nothing once this is detected.

    Args:
        sampler: yields indices, or lists of indices.
        dataset: data set that is read by these indices; or a data set inside torch's wrappers (`Subset` and the like)
            of it, if the sampler refers to the outermost one.
    """

    def __init__(self, sampler: Iterable[Any], dataset: ReadsAhead) -> None:
        self.sampler = sampler
        self._dataset = dataset
        self._outer = _sampled(sampler, dataset)
        self._window = AnnounceWindow(partial(reads, dataset))
        self._next_epoch = 0
        self._ended: list[_Order] = []  # announced completely, and not forgotten yet

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on to the wrapped sampler, where it has this method, and use it for the next iteration."""
        self._next_epoch = epoch
        inner = getattr(self.sampler, "set_epoch", None)
        if inner is not None:
            inner(epoch)

    def __iter__(self) -> Iterator[Any]:
        # An epoch begins when its first item is drawn: DataLoader makes two iterators and draws from the second.
        epoch, self._next_epoch = self._next_epoch, self._next_epoch + 1
        for ended in self._ended:
            self._dataset.forget(ended)
        self._ended.clear()
        order = _Order()  # of this pass alone: several may run at once
        window = self._window
        window.begin()
        items = iter(self.sampler)
        pending: deque[Any] = deque()
        announced = 0
        try:
            while True:
                if announced < window.size // 2 or not pending:
                    announced += self._draw(items, pending, max(window.size - announced, 1), order)
                if not pending:
                    return
                item = pending.popleft()
                announced -= _count(item)
                yield with_epoch(item, epoch) if self._dataset.draws else item
                if window.drawn(_count(item)):
                    self._dataset.forget(order)
        finally:
            if pending:
                self._dataset.forget(order)
            else:
                self._ended.append(order)  # its last samples may not be read yet

    def _draw(self, items: Iterator[Any], pending: deque[Any], wanted: int, order: object) -> int:
        drawn: list[int] = []
        for item in items:
            pending.append(item)
            drawn.extend(item if isinstance(item, list | tuple) else (item,))
            if len(drawn) >= wanted:
                break
        if drawn and self._window.admit(len(drawn)):
            for dataset, indices in reads_of(self._outer, drawn):
                if dataset is self._dataset:
                    dataset.announce(indices, order)
        return len(drawn)

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]  # TypeError where the sampler has no length, as without us

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "sampler":
            raise AttributeError(name)
        return getattr(self.sampler, name)

    def __setattr__(self, name: str, value: Any) -> None:
        is_own = name == "sampler" or name.startswith("_")
        object.__setattr__(self if is_own else self.sampler, name, value)


class _Order:
    """Identifies the announcements of one pass."""


def _sampled(sampler: Any, dataset: ReadsAhead) -> Any:
    """Return the data set whose indices a sampler yields: its own, if `dataset` is inside, else `dataset`."""
    while sampler is not None:
        for name in ("data_source", "dataset"):
            source = getattr(sampler, name, None)
            if any(leaf is dataset for leaf in leaves(source)):
                return source
        sampler = getattr(sampler, "sampler", None)
    return dataset


def _count(item: Any) -> int:
    return len(item) if isinstance(item, list | tuple) else 1
