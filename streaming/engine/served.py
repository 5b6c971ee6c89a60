"""What an owner does for another process: the calls that come over the link beside reads."""

from __future__ import annotations

import pickle
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from streaming.telemetry.counters import MetricsSnapshot

if TYPE_CHECKING:
    from streaming.engine.engine import Engine

__all__ = ["Served"]


class Served:
    """Answers the requests of other processes: reads, and the calls of `SERVED` with their arguments.

    Args:
        owner: reads, and is told the calls.
        readings: the numbers of this process as metrics.
    """

    def __init__(self, owner: Engine, readings: Callable[[], MetricsSnapshot]) -> None:
        self.owner = owner
        self.metrics_snapshot = readings
        self._orders: dict[bytes, set[int]] = {}  # announced and not forgotten, by client

    async def answer(self, request: Any) -> Any:
        """The reply to a read, or the pickle of the result of a call."""
        if not isinstance(request[0], str):
            return await self.owner.answer(request)
        name, *arguments = request
        result = SERVED[name](self, *arguments)
        return pickle.dumps(await result if isinstance(result, Awaitable) else result, protocol=5)

    def left(self, client: bytes) -> None:
        """Forget what a process announced that has ended or closed its adapter."""
        for order in self._orders.pop(client, ()):
            self.owner.forget((client, order))

    def announce(self, client: bytes, order: int, positions: list[int]) -> None:
        self._orders.setdefault(client, set()).add(order)
        self.owner.serve_processes()  # before the first load: else it would be kept for a reader of this process
        self.owner.announce(positions, (client, order))

    def forget(self, client: bytes, order: int) -> None:
        self._orders.get(client, set()).discard(order)
        self.owner.forget((client, order))


SERVED: dict[str, Callable[..., Any]] = {
    "announce": Served.announce,
    "forget": Served.forget,
    "reads": lambda served: served.owner.reads,
    "name_of": lambda served, position: served.owner.name_of(position),
    "stop_fetching": lambda served: served.owner.stop_fetching(),
    "fetch": lambda served, positions: served.owner.fetch(positions),
    "stats": lambda served: served.owner.stats(),
    "metrics_snapshot": lambda served: served.metrics_snapshot(),
    "reset_metrics": lambda served: served.owner.reset_metrics(),
    "clear": lambda served: served.owner.clear(),
    "index": lambda served: served.owner.index,
    "refresh_index": lambda served: served.owner.revalidate(),
    "fingerprint": lambda served: served.owner.fingerprint,
}
"""The calls that a `Worker` makes, by name."""
