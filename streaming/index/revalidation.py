"""Whether a saved index still says what its sources hold: checked in the background, or when asked.

A check lists the sources and compares, at the price of a build: about 10 s of one processor for 1,000,000 objects. It
changes nothing in the run under way, whose order is that of the index it began with. Only a refresh saves the new
index, for the next start: a check in the background leaves the file alone, so that a run that is interrupted finds the
order again in which it began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from streaming.core.logs import get_logger
from streaming.index import Changes, SampleIndex

if TYPE_CHECKING:
    from streaming.sources.base import DataSource

__all__ = ["Revalidation", "refreshed"]

logger = get_logger(__name__)

DELAY_S: Final = 1.0
"""How long the check in the background waits, so that the first batches do not share the processor with it."""

_NAMED: Final = 3  # samples of each kind in a line of the log


class Revalidation:
    """Compares the index of a run with what its sources hold now. All on one event loop.

    Args:
        index: that of the run.
        sources: those that it was built over, in the same order; closed by whoever opened them.
        path: where it is saved; None if it is not.
        in_background: whether `start` begins a check.

    Attributes:
        counts: samples that the last comparison found to be added, changed and removed; None before the first.
    """

    def __init__(
        self, index: SampleIndex, sources: Sequence[DataSource], path: Path | None, in_background: bool
    ) -> None:
        self.counts: tuple[int, int, int] | None = None
        self._in_background = in_background
        self._index = index
        self._sources = sources
        self._path = path
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def start(self) -> None:
        """Begin the check in the background, if there is to be one; nothing after `aclose`."""
        if self._in_background and not self._is_closed:
            self._task = asyncio.ensure_future(self._check())

    async def refresh(self) -> Changes:
        """Compare now, and save the index of what is there, if it differs, for the next start.

        Raises:
            IndexBuildError, SourceError: as `SampleIndex.build`.
            OSError: if the index cannot be saved.
        """
        async with self._turn:
            changes = await self._compare()
            if changes:
                if self._path is not None:
                    await asyncio.to_thread(changes.index.save, self._path)
                    self._index.forget_path()
                _log_refreshed(self._path, changes)
            return changes

    async def aclose(self) -> None:
        """End the check in the background. Idempotent."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _check(self) -> None:
        await asyncio.sleep(DELAY_S)
        try:
            async with self._turn:
                changes = await self._compare()
        except Exception as exc:
            logger.warning(
                "index_not_checked path=%s error=%s next_step=%s",
                self._path,
                exc,
                "the run goes on with the saved index; see what the error says before the next start",
            )
            return
        if not changes:
            logger.debug("index_current path=%s samples=%d", self._path, len(self._index))
            return
        added, changed, removed = _counts(changes)
        logger.warning(
            "index_outdated path=%s added=%d changed=%d removed=%d first=%s next_step=%s",
            self._path,
            added,
            changed,
            removed,
            _names(changes),
            "this run keeps its order; to take them over start with refresh='always', or call refresh_index() first",
        )

    async def _compare(self) -> Changes:
        changes = await self._index.revalidate(self._sources)
        self.counts = _counts(changes)
        return changes


async def refreshed(index: SampleIndex, sources: Sequence[DataSource], path: Path) -> SampleIndex:
    """The index of what the sources hold now: `index` itself if that is unchanged, else a new one, saved at `path`.

    Raises:
        IndexBuildError, SourceError: as `SampleIndex.build`.
        OSError: if the index cannot be saved.
    """
    changes = await index.revalidate(sources)
    if not changes:
        return index
    await asyncio.to_thread(changes.index.save, path)
    _log_refreshed(path, changes)
    return changes.index


def _log_refreshed(path: Path | None, changes: Changes) -> None:
    added, changed, removed = _counts(changes)
    logger.info(
        "index_refreshed path=%s added=%d changed=%d removed=%d first=%s",
        path,
        added,
        changed,
        removed,
        _names(changes),
    )


def _counts(changes: Changes) -> tuple[int, int, int]:
    return len(changes.added), len(changes.changed), len(changes.removed)


def _names(changes: Changes) -> str:
    kinds = {"added": changes.added, "changed": changes.changed, "removed": changes.removed}
    return "; ".join(f"{kind} {', '.join(islice(names, _NAMED))}" for kind, names in kinds.items() if names)
