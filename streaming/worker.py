"""A worker process's side of the adapter: asks the owner, and copies samples out of the shared arena."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from torch.utils.data import get_worker_info

from streaming.cache.arena import ArenaReader
from streaming.cache.batch import read_batch
from streaming.cache.reading import STALE, PlaceTuple
from streaming.link import LinkClient, LinkHandle
from streaming.stages import ACCOUNTS, CACHE, QUEUE

__all__ = ["Other", "Reply", "Request", "Worker", "pickle_error"]

Request = tuple[list[int], bool, bool]
"""What a worker asks for: the positions, whether they were in the last answer and are gone from their places, and
whether these reads are to be counted sample by sample."""

Other = tuple[bool, bytes]
"""What has no place in the arena: whether it is an error, and the pickle of the error or of the sample.

Pickle crosses only the private line between a process and its own children, as it does for DataLoader workers anyway.
"""

Reply = tuple[list[int] | None, list[PlaceTuple | None], dict[int, Other], list[float] | None]
"""An owner's answer: how often each sample was counted before, if that was asked, where each sample is, those that are
nowhere by their number in the request, and what it waited for, in seconds by stage, if it had to."""


def pickle_error(error: Exception) -> bytes:
    """An error for another process; one of a library that does not pickle keeps its text alone."""
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
        return data
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))


class Worker:
    """Reads samples through the owner process. One message per call, whatever the number of samples.

    Args:
        handle: the owner's, inherited by a fork or received at a spawn.
    """

    def __init__(self, handle: LinkHandle) -> None:
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
        return self._read(positions, is_drawn=False)[0]

    def read_drawn(self, positions: Sequence[int]) -> tuple[list[Any], list[int]]:
        """As `read_many`, and how often each sample was asked for in this way before, by any process."""
        samples, draws = self._read(positions, is_drawn=True)
        assert draws is not None
        return samples, draws

    def _read(self, positions: Sequence[int], *, is_drawn: bool) -> tuple[list[Any], list[int] | None]:
        samples, draws = self._ask((list(positions), False, is_drawn))
        stale = [at for at, sample in enumerate(samples) if sample is STALE]
        if stale:
            again, _ = self._ask(([positions[at] for at in stale], True, False))
            for at, sample in zip(stale, again, strict=True):
                samples[at] = sample
        return samples, draws

    @property
    def reads(self) -> int:
        """Not counted in a worker."""
        return 0

    def name_of(self, position: int) -> str:
        """Name of a sample, for messages."""
        return str(position)

    def close(self) -> None:
        """End the line to the owner. What was read stays; idempotent."""
        self._client.close()

    def _ask(self, request: Request) -> tuple[list[Any], list[int] | None]:
        asked = perf_counter()
        reply: Reply = self._client.request(request)
        draws, places, others, waited = reply
        answered = perf_counter()
        ACCOUNTS.mine.seconds[QUEUE] += max(answered - asked - sum(waited or ()), 0.0)
        if waited is not None:
            ACCOUNTS.mine.add(waited)
        arena = self._arena
        placed = [place for place in places if place is not None] if others else places
        samples = read_batch(arena.memory, arena.generations, placed, shared=get_worker_info() is not None)  # type: ignore[arg-type]
        for at in sorted(others):
            is_error, pickled = others[at]
            value = pickle.loads(pickled)
            if is_error:
                raise value
            samples.insert(at, value)
        ACCOUNTS.mine.seconds[CACHE] += perf_counter() - answered
        return samples, draws
