"""A listing that is held until it is complete, so that one which breaks off can start again without duplicates."""

from __future__ import annotations

import asyncio
import math

from streaming.errors import SourceTimeout
from streaming.resilience.context import Context, Timer
from streaming.resilience.interruption import Interruption
from streaming.sources.base import DataSource, FileInfo
from streaming.telemetry.skipped_objects import Skips


async def whole_listing(
    source: DataSource, prefix: str, context: Context, stall_timeout_s: float = math.inf
) -> tuple[list[FileInfo], Skips]:
    """Return all objects that a source lists, and what it skips; they take some 200 bytes of memory each.

    Raises:
        SourceTimeout: if no object came for `stall_timeout_s`.
        SourceError: as `iter_files`.
    """
    found: list[FileInfo] = []
    if stall_timeout_s == math.inf:
        return [info async for info in source.iter_files(prefix)], source.skipped
    interruption = Interruption()
    watch = _StallWatch(context, stall_timeout_s, found, interruption)
    try:
        async for info in source.iter_files(prefix):
            found.append(info)  # noqa: PERF401 - the watch looks at it meanwhile
    except asyncio.CancelledError:
        if not interruption.is_own():
            raise
        text = f"the listing of source {source.name!r} under {prefix!r} brought nothing for {stall_timeout_s:g} s"
        raise SourceTimeout(f"{text} after {len(found)} objects; try again", path=prefix, source=source.name) from None
    finally:
        watch.stop()
    return found, source.skipped


class _StallWatch:
    """Ends a listing if its list has not grown for some seconds."""

    def __init__(self, context: Context, seconds: float, found: list[FileInfo], interruption: Interruption) -> None:
        self._context = context
        self._seconds = seconds
        self._found = found
        self._interruption = interruption
        self._seen = 0
        self._timer: Timer = context.call_later(seconds, self._look)

    def _look(self) -> None:
        if len(self._found) == self._seen:
            self._interruption.fire()
            return
        self._seen = len(self._found)
        self._timer = self._context.call_later(self._seconds, self._look)

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()
