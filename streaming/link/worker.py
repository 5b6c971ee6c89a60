"""A reader in another process than the engine's: requests samples over the link and copies them out of the arena."""

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

READING_TIMEOUT_S = 1.0
"""How long the engine has to return its metrics, which takes a millisecond, so that a stopped process blocks neither a
scrape nor `close`."""


class Request(NamedTuple):
    """One read by a worker, of any number of samples.

    Attributes:
        positions: of the samples.
        is_stale: whether the samples were in the last reply and were evicted before they were copied.
        is_drawn: whether to count the reads of each sample.
    """

    positions: list[int]
    is_stale: bool
    is_drawn: bool


class Inline(NamedTuple):
    """A sample that has no place in the arena, or the error that its reader gets.

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
    """A `SampleReader` over the link to an engine in another process. Safe in any thread.

    A read is one message, whatever the number of samples. Used in DataLoader workers, in trainer ranks that got their
    adapter from their parent, and by `RemoteEngine`.

    Args:
        handle: from the engine's process, inherited by a fork or received at a spawn.

    Every method raises `EngineGoneError` if the engine's process has ended.
    """

    reports_metrics = False

    def __init__(self, handle: LinkHandle) -> None:
        self._handle = handle
        self._client = LinkClient(handle.hello_fd)
        self._arena = ArenaReader(handle.arena_fd)

    def handle(self) -> LinkHandle:
        """Return what a child process needs to read through the same engine."""
        return self._handle

    def as_worker(self) -> Worker:
        """In a forked child: return a reader through the same engine, with a connection of its own."""
        return Worker(self._handle)

    def read(self, position: int) -> Any:
        """Return one sample, owned by the caller.

        Raises:
            Exception: the error that the engine met when it fetched this sample.
        """
        return self.read_many([position])[0]

    def read_many(self, positions: Sequence[int]) -> list[Any]:
        """Return samples in the order of the positions, owned by the caller; missing ones are fetched together."""
        return self._read(positions, is_drawn=False)[0]

    def read_drawn(self, positions: Sequence[int]) -> tuple[list[Any], list[int]]:
        """Like `read_many`; also return how often each sample was read in this way before, by any process."""
        samples, draws = self._read(positions, is_drawn=True)
        assert draws is not None
        return samples, draws

    def _read(self, positions: Sequence[int], *, is_drawn: bool) -> tuple[list[Any], list[int] | None]:
        samples, draws = self._fetch(Request(list(positions), False, is_drawn))
        stale = [at for at, sample in enumerate(samples) if sample is STALE]
        if stale:
            again, _ = self._fetch(Request([positions[at] for at in stale], True, False))
            for at, sample in zip(stale, again, strict=True):
                samples[at] = sample
        return samples, draws

    @cached_property
    def length(self) -> int:
        """Number of samples."""
        return int(self._call("length"))

    @property
    def reads(self) -> int:
        """Samples that all processes have read through the engine since the last `reset_metrics`."""
        return int(self._call("reads"))

    def name_of(self, position: int) -> str:
        """Return the name of a sample, for messages."""
        return str(self._call("name_of", position))

    @property
    def announces(self) -> bool:
        """Whether this process announces what it will read; for a DataLoader worker its parent does."""
        return get_worker_info() is None

    def announce(self, positions: Iterable[int], order: int) -> None:
        """Announce which samples will be read next, in order; announcements under one token continue each other."""
        self._call("announce", self._client.client, order, list(positions))

    def forget(self, order: int) -> None:
        """Forget what was announced under this token and was not read."""
        self._call("forget", self._client.client, order)

    def stop_fetching(self) -> None:
        """Drop the samples that `fetch` has not begun to load, for all processes that share the cache."""
        self._call("stop_fetching")

    async def fetch(self, positions: Iterable[int]) -> None:
        """Load samples into the cache. Failures surface at the reads."""
        await self._request_async(("fetch", list(positions)))

    def stats(self) -> dict[str, Any]:
        """Return the numbers of `StreamingDatasetAdapter.get_cache_stats`."""
        result: dict[str, Any] = self._call("stats")
        return result

    def metrics_snapshot(self) -> MetricsSnapshot:
        """Return the current numbers as metrics, see `StreamingDatasetAdapter.metrics_snapshot`."""
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
        """The index: a mapping of the saved file, or else a copy from the engine."""
        result: SampleIndex = self._call("index")
        return result

    def refresh_index(self) -> Changes:
        """See `StreamingDatasetAdapter.refresh_index`."""
        result: Changes = self._call("refresh_index")
        return result

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the index."""
        return str(self._call("fingerprint"))

    @property
    def cache(self) -> SmartLRUCache:
        """Not available here.

        Raises:
            ConfigError: always, with the calls to use instead.
        """
        raise ConfigError(
            "adapter.cache is in another process, which reads for this one: use get_cache_stats, prefetch_batch and "
            "clear_cache, or read it in the process that made the adapter with owner='thread'"
        )

    def close_with(self, holder: object) -> weakref.finalize[Any, Any]:
        """Close when the holder is garbage collected or the interpreter exits; return the finalizer."""
        return weakref.finalize(holder, self.close)

    def close(self) -> None:
        """Close the link to the engine, which forgets what was announced here. Samples stay valid. Idempotent."""
        self._client.close()

    def _call(self, name: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        return pickle.loads(self._request((name, *arguments), timeout_s))

    def _request(self, message: Any, timeout_s: float | None = None) -> Any:
        return self._client.request(message, timeout_s)

    async def _request_async(self, message: Any) -> Any:
        return await self._client.request_async(message)

    def _fetch(self, request: Request) -> tuple[list[Any], list[int] | None]:
        started = perf_counter()
        reply = Reply.from_message(self._request(tuple(request)))
        answered = perf_counter()
        ACCOUNTS.mine.seconds[QUEUE] += max(answered - started - sum(reply.waited or ()), 0.0)
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
