"""Serve other processes: their reads, and the other calls that arrive over the link."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

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
        metrics_snapshot: returns the current numbers of this process as metrics.
    """

    def __init__(self, engine: Engine, metrics_snapshot: Callable[[], MetricsSnapshot]) -> None:
        self.engine = engine
        self.metrics_snapshot = metrics_snapshot
        self._tokens: dict[bytes, dict[int, int]] = {}  # by client and its number: announced and not forgotten

    async def answer(self, message: Any) -> Any:
        """Return the reply to a read, or the pickled result of a call."""
        if not isinstance(message[0], str):
            return tuple(await self._read(Request._make(message)))
        name, *arguments = message
        result = CALLS[name](self, *arguments)
        return pickle.dumps(await result if isinstance(result, Awaitable) else result, protocol=5)

    def left(self, client: bytes) -> None:
        """Forget the announcements of a process that has ended or closed its adapter."""
        for token in self._tokens.pop(client, {}).values():
            self.engine.forget(token)

    def announce(self, client: bytes, order: int, positions: list[int]) -> None:
        """Announce reads of a client, under a token of this process instead of the client's."""
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
        inline = {at: await self._inline(positions[at]) for at in fleeting}
        for at in fleeting:
            places[at] = None
        reply = Reply(draws, places, inline, None)
        try:
            return await self._fetch(reply, positions, missing) if missing else reply
        finally:
            for position in held:  # not before: from then on they may be evicted for others
                engine.read_ahead.used(position)

    async def _fetch(self, reply: Reply, positions: Sequence[int], missing: Sequence[int]) -> Reply:
        """Fetch the samples that are missing, fill them in, and return the reply with the seconds waited."""
        started = time.perf_counter()
        engine, fetched = self.engine, [positions[at] for at in missing]
        engine.counters.late += sum([engine.read_ahead.is_coming(position) for position in fetched])
        await asyncio.gather(*(self._fetch_one(reply, at, positions[at]) for at in missing))
        return reply._replace(waited=engine.note_wait(fetched, started))

    async def _fetch_one(self, reply: Reply, at: int, position: int) -> None:
        cache = self.engine.cache
        try:
            sample = await self.engine.read_ahead.get(position)
            cache.unread.discard(position)
            place = None if cache.is_fleeting(position) else cache.place(position)
            if place is not None:
                reply.places[at] = place
            elif sample is IN_CACHE:
                reply.inline[at] = await self._inline(position)
            else:
                reply.inline[at] = False, self._pickled(position, sample)
        except Exception as exc:
            reply.inline[at] = True, pickle_error(exc)

    async def _inline(self, position: int) -> Inline:
        try:
            sample = self.engine.cache.get_nowait(position, MISS)
            if sample is MISS:
                sample = await self.engine.get(position)
            return False, self._pickled(position, sample)
        except Exception as exc:
            return True, pickle_error(exc)

    def _pickled(self, position: int, sample: Any) -> bytes:
        try:
            return pickle_sample(sample)
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
