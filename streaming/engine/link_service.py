"""What an engine does for other processes: their reads, and the other calls that arrive over the link."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from streaming.cache.reading import PlaceTuple
from streaming.core.miss import MISS
from streaming.engine.fetch import IN_CACHE
from streaming.engine.order_tokens import new_token
from streaming.engine.sample_copies import Uncopyable, pickle_sample, uncopyable_sample
from streaming.link.pickled_errors import pickle_error
from streaming.link.worker import Inline, Reply, Request
from streaming.telemetry.counters import MetricsSnapshot

if TYPE_CHECKING:
    from streaming.engine.engine import Engine

__all__ = ["LinkService"]


class LinkService:
    """Answers the requests of other processes: reads, and the calls of `CALLS`. Runs on the runtime's loop.

    Args:
        engine: reads, and carries out the calls.
        metrics_snapshot: returns the numbers of this process as metrics.
    """

    def __init__(self, engine: Engine, metrics_snapshot: Callable[[], MetricsSnapshot]) -> None:
        self.engine = engine
        self.metrics_snapshot = metrics_snapshot
        self._tokens: dict[bytes, dict[int, int]] = {}  # by client and its number: announced and not forgotten

    async def answer(self, message: Any) -> Any:
        """Return the reply to a read, or the pickled result of a call."""
        if not isinstance(message[0], str):
            return (await self._read(Request._make(message))).message()
        name, *arguments = message
        result = CALLS[name](self, *arguments)
        return pickle.dumps(await result if isinstance(result, Awaitable) else result, protocol=5)

    def left(self, client: bytes) -> None:
        """Forget what a process announced that has ended or closed its adapter."""
        for token in self._tokens.pop(client, {}).values():
            self.engine.forget(token)

    def announce(self, client: bytes, order: int, positions: list[int]) -> None:
        """Announce reads of a client, under a token of this process in place of its own."""
        tokens = self._tokens.setdefault(client, {})
        if order not in tokens:
            tokens[order] = new_token()
        self.engine.serve_processes()  # before the first load: else it would be kept for a reader of this process
        self.engine.announce(positions, tokens[order])

    def forget(self, client: bytes, order: int) -> None:
        """Forget what a client announced under this order."""
        token = self._tokens.get(client, {}).pop(order, None)
        if token is not None:
            self.engine.forget(token)

    async def _read(self, request: Request) -> Reply:
        engine, cache, positions = self.engine, self.engine.cache, request.positions
        engine.serve_processes()
        if request.is_stale:  # evicted between the last reply and its reading: this time send the bytes
            samples = {at: await self._inline(position) for at, position in enumerate(positions)}
            return Reply(None, [None] * len(positions), samples, None)
        engine.counters.reads += len(positions)
        draws = engine.read_counts.count(positions) if request.is_drawn else None
        places = cache.places(positions)
        missing = [at for at, place in enumerate(places) if place is None]
        held = [position for position, place in zip(positions, places, strict=True) if place is not None]
        # Some would be gone before a worker has copied them.
        fleeting = [at for at, place in enumerate(places) if place and cache.is_fleeting(positions[at])]
        inline: dict[int, Inline] = {}
        for at in fleeting:
            inline[at], places[at] = await self._inline(positions[at]), None
        try:
            fetched, waited = await self._fetch([positions[at] for at in missing])
        finally:
            for position in held:  # not before: from then on they may be evicted for others
                engine.read_ahead.used(position)
        for at, found in zip(missing, fetched, strict=True):
            if isinstance(found, Inline):
                inline[at] = found
            else:
                places[at] = found
        return Reply(draws, places, inline, waited)

    async def _fetch(self, positions: Sequence[int]) -> tuple[list[PlaceTuple | Inline], list[float] | None]:
        """Fetch samples; return where they are, and what was waited for."""
        if not positions:
            return [], None
        started = time.perf_counter()
        engine = self.engine
        engine.counters.late += sum([engine.read_ahead.is_coming(position) for position in positions])
        fetched = await asyncio.gather(*(self._fetch_one(position) for position in positions))
        return fetched, engine.note_wait(positions, started)

    async def _fetch_one(self, position: int) -> PlaceTuple | Inline:
        cache = self.engine.cache
        try:
            sample = await self.engine.read_ahead.get(position)
            cache.unread.discard(position)
            place = None if cache.is_fleeting(position) else cache.place(position)
            if place is not None:
                return place
            return await self._inline(position) if sample is IN_CACHE else self._pickled(position, sample)
        except Exception as exc:
            return Inline(True, pickle_error(exc))

    async def _inline(self, position: int) -> Inline:
        try:
            sample = self.engine.cache.get_nowait(position, MISS)
            if sample is MISS:
                sample = await self.engine.get(position)
            return self._pickled(position, sample)
        except Exception as exc:
            return Inline(True, pickle_error(exc))

    def _pickled(self, position: int, sample: Any) -> Inline:
        try:
            return Inline(False, pickle_sample(sample))
        except Uncopyable as exc:
            raise uncopyable_sample(position, self.engine.name_of(position), exc) from exc


CALLS: dict[str, Callable[..., Any]] = {
    "announce": LinkService.announce,
    "forget": LinkService.forget,
    "length": lambda service: service.engine.length,
    "reads": lambda service: service.engine.reads,
    "name_of": lambda service, position: service.engine.name_of(position),
    "stop_fetching": lambda service: service.engine.stop_fetching(),
    "fetch": lambda service, positions: service.engine.fetch(positions),
    "stats": lambda service: service.engine.stats(),
    "metrics_snapshot": lambda service: service.metrics_snapshot(),
    "reset_metrics": lambda service: service.engine.reset_metrics(),
    "clear": lambda service: service.engine.clear(),
    "index": lambda service: service.engine.index,
    "refresh_index": lambda service: service.engine.revalidate(),
    "fingerprint": lambda service: service.engine.fingerprint,
}
"""The calls that a `Worker` makes, by name."""
