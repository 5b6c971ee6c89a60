"""A listing as a whole, so that one which breaks off can be started anew without telling anything twice."""

from __future__ import annotations

import asyncio
import math

from streaming.errors import SourceTimeout
from streaming.resilience.context import Context, Timer
from streaming.resilience.interruption import Interruption
from streaming.sources.base import DataSource, FileInfo
from streaming.telemetry.skipped_objects import Skips


async def whole_listing(
    source: DataSource, prefix: str, context: Context, patience_s: float = math.inf
) -> tuple[list[FileInfo], Skips]:
    """All that a source lists, and what it skips; in memory (some 200 bytes for each object) until the last is there.

    Raises:
        SourceTimeout: if nothing came for `patience_s`.
        SourceError: as `iter_files`.
    """
    found: list[FileInfo] = []
    if patience_s == math.inf:
        return [info async for info in source.iter_files(prefix)], source.skipped
    cut = Interruption()
    watch = _Watch(context, patience_s, found, cut)
    try:
        async for info in source.iter_files(prefix):
            found.append(info)  # noqa: PERF401 - what was found is watched meanwhile
    except asyncio.CancelledError:
        if not cut.is_own():
            raise
        text = f"the listing of source {source.name!r} under {prefix!r} brought nothing for {patience_s:g} s"
        raise SourceTimeout(f"{text} after {len(found)} objects; try again", path=prefix, source=source.name) from None
    finally:
        watch.stop()
    return found, source.skipped


class _Watch:
    """Looks each `patience_s` whether the list has grown, and ends the listing if not."""

    def __init__(self, context: Context, patience_s: float, found: list[FileInfo], cut: Interruption) -> None:
        self._context = context
        self._patience_s = patience_s
        self._found = found
        self._cut = cut
        self._seen = 0
        self._timer: Timer = context.call_later(patience_s, self._look)

    def _look(self) -> None:
        if len(self._found) == self._seen:
            self._cut.fire()
            return
        self._seen = len(self._found)
        self._timer = self._context.call_later(self._patience_s, self._look)

    def stop(self) -> None:
        self._timer.cancel()
