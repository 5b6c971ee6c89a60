"""Check whether a saved index still matches its sources, in the background or on demand.

A check lists the sources and compares. It costs as much as a build: about 10 s of one core for 1,000,000 objects. The
current run keeps its order. Only a refresh saves the new index, for the next start. A check in the background does not
touch the file, so that an interrupted run resumes in the same order.
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
"""Delay of the check in the background, so that it does not compete with the first batches for the processor."""

_NAMED: Final = 3  # samples of each kind in a log line


class Revalidation:
    """Compares the index of a run with its sources. Used on one event loop.

    Args:
        index: of the run.
        sources: those of the index, in the same order; the caller closes them.
        path: where the index is saved; None if it is not.
        in_background: whether `start` begins a check.

    Attributes:
        counts: samples added, changed and removed, as of the last comparison; None before the first.
    """

    def __init__(
        self, index: SampleIndex, sources: Sequence[DataSource], path: Path | None, in_background: bool
    ) -> None:
        self.counts: tuple[int, int, int] | None = None
        self._in_background = in_background
        self._index = index
        self._sources = sources
        self._path = path
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def start(self) -> None:
        """Start the check in the background, if it is wanted. Do nothing after `aclose`."""
        if self._in_background and not self._is_closed:
            self._task = asyncio.ensure_future(self._check())

    async def refresh(self) -> Changes:
        """Compare now, and save the new index for the next start, if it differs.

        Raises:
            IndexBuildError, SourceError: as `SampleIndex.build`.
            OSError: if the index cannot be saved.
        """
        async with self._lock:
            changes = await self._compare()
            if changes:
                if self._path is not None:
                    await asyncio.to_thread(changes.index.save, self._path)
                    self._index.forget_path()
                _log_refreshed(self._path, changes)
            return changes

    async def aclose(self) -> None:
        """Cancel the check in the background. Idempotent."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _check(self) -> None:
        await asyncio.sleep(DELAY_S)
        try:
            async with self._lock:
                changes = await self._compare()
        except Exception as exc:
            logger.warning(
                "index_not_checked path=%s error=%s next_step=%s",
                self._path,
                exc,
                "the run continues with the saved index; fix the error before the next start",
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
            "this run keeps its order; to use them start with refresh='always', or call refresh_index() first",
        )

    async def _compare(self) -> Changes:
        changes = await self._index.revalidate(self._sources)
        self.counts = _counts(changes)
        return changes


async def refreshed(index: SampleIndex, sources: Sequence[DataSource], path: Path) -> SampleIndex:
    """Return `index` if the sources are unchanged, else a new index, saved at `path`.

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
