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

READING_TIMEOUT_S = 0.5
"""How long the engine has to return its metrics, which takes a millisecond: half of the shortest usual time limit of a
scrape. A stopped process blocks neither a scrape nor `close`."""


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


Inline = tuple[bool, bytes]
"""For a sample without a place in the arena: whether it is an error, and the pickle of the error or of the sample.

Pickle crosses only the private link between a process and its own children, as it does for DataLoader workers anyway.
"""


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


class Worker:
    """A `SampleReader` over the link to an engine in another process.

    A read is one message, whatever the number of samples. Used in DataLoader workers, in trainer ranks that got their
    adapter from their parent, and by `RemoteEngine`.

    Args:
        handle: from the engine's process, inherited by a fork or received at a spawn.
    """

    def __init__(self, handle: LinkHandle) -> None:
        self._handle = handle
        self._client = LinkClient(handle.hello_fd)
        self._arena = ArenaReader(handle.arena_fd)

    def handle(self) -> LinkHandle:
        return self._handle

    def as_worker(self) -> Worker:
        return Worker(self._handle)

    def read(self, position: int) -> Any:
        return self.read_many([position])[0]

    def read_many(self, positions: Sequence[int]) -> list[Any]:
        return self._read(positions, is_drawn=False)[0]

    def read_drawn(self, positions: Sequence[int]) -> tuple[list[Any], list[int]]:
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
        return int(self._call("length"))

    @property
    def reads(self) -> int:
        return int(self._call("reads"))

    def name_of(self, position: int) -> str:
        return str(self._call("name_of", position))

    @property
    def announces(self) -> bool:
        return get_worker_info() is None

    def announce(self, positions: Iterable[int], order: int) -> None:
        self._call("announce", self._client.client, order, list(positions))

    def forget(self, order: int) -> None:
        self._call("forget", self._client.client, order)

    def stop_fetching(self) -> None:
        self._call("stop_fetching")

    async def fetch(self, positions: Iterable[int]) -> None:
        await self._request_async(("fetch", list(positions)))

    def stats(self) -> dict[str, Any]:
        result: dict[str, Any] = self._call("stats")
        return result

    def metrics_snapshot(self) -> MetricsSnapshot:
        result: MetricsSnapshot = self._call("metrics_snapshot", timeout_s=READING_TIMEOUT_S)
        return result

    def reset_metrics(self) -> None:
        self._call("reset_metrics")

    def clear(self) -> None:
        self._call("clear")

    @cached_property
    def index(self) -> SampleIndex:
        result: SampleIndex = self._call("index")
        return result

    def refresh_index(self) -> Changes:
        result: Changes = self._call("refresh_index")
        return result

    @cached_property
    def fingerprint(self) -> str:
        return str(self._call("fingerprint"))

    @property
    def cache(self) -> SmartLRUCache:
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
        reply = Reply._make(self._request(tuple(request)))  # `marshal` has plain tuples
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
