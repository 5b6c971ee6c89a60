"""A worker process's side of the adapter: asks the owner, and copies samples out of the shared arena."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from streaming.cache.arena import ArenaReader
from streaming.cache.sample import STALE, read_place
from streaming.link import LinkClient, LinkHandle

__all__ = ["ERROR", "INLINE", "PLACE", "Worker"]

PLACE, INLINE, ERROR = 0, 1, 2
"""Kinds of answer: a place in the arena, a pickled sample (one that the cache cannot hold), a pickled error.

Pickle crosses only the private line between a process and its own children, as it does for DataLoader workers anyway.
"""


class Worker:
    """Reads samples through the owner process. One message per call, whatever the number of samples.

    Args:
        handle: the owner's, inherited by a fork or received at a spawn.
        epoch: the owner's at that moment; each answer brings the newest.
    """

    def __init__(self, handle: LinkHandle, epoch: int) -> None:
        self.epoch = epoch
        self._handle = handle
        self._client = LinkClient(handle.hello_fd)
        self._arena = ArenaReader(handle.arena_fd)

    def handle(self) -> LinkHandle:
        """What a child of this worker needs to read through the same owner."""
        return self._handle

    def read(self, position: int) -> Any:
        """One sample, owned by the caller.

        Raises:
            OwnerGone: the owner process has ended.
            Exception: what the owner met when it fetched this sample.
        """
        return self.read_many([position])[0]

    def read_many(self, positions: Sequence[int]) -> list[Any]:
        """Samples in the order asked, owned by the caller."""
        samples = self._ask(positions, False)
        stale = [at for at, sample in enumerate(samples) if sample is STALE]
        if stale:
            again = self._ask([positions[at] for at in stale], True)
            for at, sample in zip(stale, again, strict=True):
                samples[at] = sample
        return samples

    def _ask(self, positions: Sequence[int], is_stale: bool) -> list[Any]:
        self.epoch, items = self._client.request((list(positions), is_stale))
        return [self._open(item) for item in items]

    def _open(self, item: tuple[Any, ...]) -> Any:
        if item[0] == PLACE:
            return read_place(self._arena, item[1:])
        value = pickle.loads(item[1])
        if item[0] == ERROR:
            raise value
        return value
