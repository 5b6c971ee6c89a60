"""Another process's side of the adapter: asks the owner, and copies samples out of the shared arena."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Iterable, Sequence
from functools import cached_property
from time import perf_counter
from typing import Any, NamedTuple

from torch.utils.data import get_worker_info

from streaming.cache.arena import ArenaReader
from streaming.cache.batch import read_batch
from streaming.cache.reading import STALE, PlaceTuple
from streaming.cache.sample import SmartLRUCache
from streaming.errors import ConfigError, PrepareError
from streaming.index import Changes, SampleIndex
from streaming.link.messages import LinkClient, LinkHandle
from streaming.telemetry.counters import MetricsSnapshot
from streaming.telemetry.stages import ACCOUNTS, CACHE, QUEUE

__all__ = ["Inline", "Reply", "Request", "Worker"]

READING_TIMEOUT_S = 0.5
"""How long the engine has to return its metrics, which takes a millisecond: half of the shortest usual time limit of a
scrape. A stopped process blocks neither a scrape nor `close`."""


class Request(NamedTuple):
    """A read by a worker; one message.

    Attributes:
        positions: of the samples.
        is_stale: whether they were in the last reply and had left their places before they were copied.
        is_drawn: whether these reads are counted sample by sample.
    """

    positions: list[int]
    is_stale: bool
    is_drawn: bool


class Inline(NamedTuple):
    """A sample without a place in the arena, or an error in its stead.

    Pickle crosses only the private line between a process and its own children, as it does for DataLoader workers.
    """

    is_error: bool
    pickled: bytes


class Reply(NamedTuple):
    """The reply of an engine to a `Request`.

    Attributes:
        draws: how often each sample had been counted before; None if that was not requested.
        places: where each sample is in the arena; None for those that are `inline`.
        inline: the samples without a place, by their number in the request.
        waited: seconds that the read waited, by stage; None if it did not wait.
    """

    draws: list[int] | None
    places: list[PlaceTuple | None]
    inline: dict[int, Inline]
    waited: list[float] | None

    def message(self) -> tuple[Any, ...]:
        """Return the reply in plain values, which `marshal` can write."""
        return self.draws, self.places, {at: tuple(each) for at, each in self.inline.items()}, self.waited

    @classmethod
    def from_message(cls, message: Any) -> Reply:
        """Return the reply that a message stands for."""
        draws, places, inline, waited = message
        return cls(draws, places, {at: Inline._make(each) for at, each in inline.items()}, waited)


class Worker:
    """Does what an `Engine` does by asking the owner in another process. Safe in any thread.

    Reads are one message per call, whatever the number of samples. Used in DataLoader workers, in trainer ranks that
    got their adapter from their parent, and by `RemoteEngine`.

    Args:
        handle: the owner's, inherited by a fork or received at a spawn.

    Every method raises `EngineGoneError` if the owner process has ended.
    """

    def __init__(self, handle: LinkHandle) -> None:
        self._handle = handle
        self._client = LinkClient(handle.hello_fd)
        self._arena = ArenaReader(handle.arena_fd)

    def handle(self) -> LinkHandle:
        """What a child of this process needs to read through the same owner."""
        return self._handle

    def as_worker(self) -> Worker:
        """In a forked child: what reads through the same owner, with a connection of its own."""
        return Worker(self._handle)

    def read(self, position: int) -> Any:
        """One sample, owned by the caller.

        Raises:
            Exception: what the owner met when it fetched this sample.
        """
        return self.read_many([position])[0]

    def read_many(self, positions: Sequence[int]) -> list[Any]:
        """Samples in the order asked, owned by the caller; those missing are fetched together."""
        return self._read(positions, is_drawn=False)[0]

    def read_drawn(self, positions: Sequence[int]) -> tuple[list[Any], list[int]]:
        """As `read_many`, and how often each sample was asked for in this way before, by any process."""
        samples, draws = self._read(positions, is_drawn=True)
        assert draws is not None
        return samples, draws

    def _read(self, positions: Sequence[int], *, is_drawn: bool) -> tuple[list[Any], list[int] | None]:
        samples, draws = self._ask(Request(list(positions), False, is_drawn))
        stale = [at for at, sample in enumerate(samples) if sample is STALE]
        if stale:
            again, _ = self._ask(Request([positions[at] for at in stale], True, False))
            for at, sample in zip(stale, again, strict=True):
                samples[at] = sample
        return samples, draws

    @cached_property
    def length(self) -> int:
        """Number of samples."""
        return int(self._call("length"))

    @property
    def reads(self) -> int:
        """Samples that were asked for since the last `reset_metrics`, by all processes that share the owner."""
        return int(self._call("reads"))

    def name_of(self, position: int) -> str:
        """Name of a sample, for messages."""
        return str(self._call("name_of", position))

    @property
    def announces(self) -> bool:
        """Whether this process says what it will read: for a DataLoader worker, its parent does."""
        return get_worker_info() is None

    def announce(self, positions: Iterable[int], order: int) -> None:
        """Say which samples will be read next, in order, under a number that this process gives the order."""
        self._call("announce", self._client.client, order, list(positions))

    def forget(self, order: int) -> None:
        """Say that what was announced under this order will not be read."""
        self._call("forget", self._client.client, order)

    def stop_fetching(self) -> None:
        """Drop what `fetch` was asked for and has not begun, by any process that shares the cache."""
        self._call("stop_fetching")

    async def fetch(self, positions: Iterable[int]) -> None:
        """Bring these samples into the cache. Failures surface at their reads."""
        await self._request_async(("fetch", list(positions)))

    def stats(self) -> dict[str, Any]:
        """The numbers of `StreamingDatasetAdapter.get_cache_stats`."""
        result: dict[str, Any] = self._call("stats")
        return result

    def metrics_snapshot(self) -> MetricsSnapshot:
        """The numbers of this moment as metrics, see `StreamingDatasetAdapter.readings`."""
        result: MetricsSnapshot = self._call("metrics_snapshot", timeout_s=READING_TIMEOUT_S)
        return result

    def reset_metrics(self) -> None:
        """Set every count back to zero."""
        self._call("reset_metrics")

    def clear(self) -> None:
        """Drop every cached sample."""
        self._call("clear")

    @cached_property
    def index(self) -> SampleIndex:
        """Which bytes are which sample: a map of the saved file, or else a copy from the owner."""
        result: SampleIndex = self._call("index")
        return result

    def refresh_index(self) -> Changes:
        """See `StreamingDatasetAdapter.refresh_index`."""
        result: Changes = self._call("refresh_index")
        return result

    @cached_property
    def fingerprint(self) -> str:
        """Of the index."""
        return str(self._call("fingerprint"))

    @property
    def cache(self) -> SmartLRUCache:
        """Refused, with the calls that take its place."""
        raise ConfigError(
            "adapter.cache lies in another process, which reads for this one: use get_cache_stats, prefetch_batch and "
            "clear_cache, or read it in the process that made the adapter with owner='thread'"
        )

    def close_with(self, holder: object) -> weakref.finalize[Any, Any]:
        """Close when the holder is dropped, or at interpreter exit; return what calls that off."""
        return weakref.finalize(holder, self.close)

    def close(self) -> None:
        """End the line to the owner, which forgets what was announced here. What was read stays; idempotent."""
        self._client.close()

    def _call(self, name: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        return pickle.loads(self._request((name, *arguments), timeout_s))

    def _request(self, message: Any, timeout_s: float | None = None) -> Any:
        return self._client.request(message, timeout_s)

    async def _request_async(self, message: Any) -> Any:
        return await self._client.request_async(message)

    def _ask(self, request: Request) -> tuple[list[Any], list[int] | None]:
        asked = perf_counter()
        reply = Reply.from_message(self._request(tuple(request)))
        answered = perf_counter()
        ACCOUNTS.mine.seconds[QUEUE] += max(answered - asked - sum(reply.waited or ()), 0.0)
        if reply.waited is not None:
            ACCOUNTS.mine.add(reply.waited)
        arena = self._arena
        placed = [place for place in reply.places if place is not None] if reply.inline else reply.places
        samples = read_batch(arena.memory, arena.generations, placed, shared=get_worker_info() is not None)  # type: ignore[arg-type]
        for at, (is_error, pickled) in sorted(reply.inline.items()):
            if is_error:
                raise pickle.loads(pickled)
            samples.insert(at, self._unpickled(request.positions[at], pickled))
        ACCOUNTS.mine.seconds[CACHE] += perf_counter() - answered
        return samples, reply.draws

    def _unpickled(self, position: int, sample: bytes) -> Any:
        try:
            return pickle.loads(sample)
        except Exception as exc:
            name = self.name_of(position)
            raise PrepareError(
                f"sample {position} ({name!r}) cannot be loaded in this process: {type(exc).__name__}: {exc}; "
                "define what prepare returns in a module that can be imported here",
                path=name,
            ) from exc
