"""The limits of one listing, so that a server that lists forever, or too much, causes an error that names the limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from streaming.errors import BadRequest, SourceTimeout

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig

__all__ = ["ListingLimits", "page_too_large"]


class ListingLimits:
    """Counts the entries of one listing.

    Args:
        config: the limits, and the name for messages.
        prefix: the prefix that is listed.
        clock: returns seconds, like `time.monotonic`.

    Attributes:
        entries: objects and folders so far.
    """

    def __init__(self, config: DataSourceConfig, prefix: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.entries = 0
        self._source = config.name
        self._prefix = prefix
        self._max_entries = config.max_listing_entries
        self._max_depth = config.max_listing_depth
        self._timeout_s = config.listing_timeout_s
        self._clock = clock
        self._progress_at = clock()

    @property
    def remaining(self) -> int:
        """Number of entries that may still come."""
        return self._max_entries - self.entries

    @property
    def remaining_s(self) -> float:
        """Seconds until the next object must have come."""
        return max(self._progress_at + self._timeout_s - self._clock(), 0.0)

    def mark_progress(self) -> None:
        """Restart the time limit: objects were listed, and the caller has come back for more."""
        self._progress_at = self._clock()

    def count(self, objects: int, folders: int = 0) -> None:
        """Count the entries of an answer.

        Raises:
            BadRequest: if the listing exceeds `max_listing_entries`.
            SourceTimeout: if no object came for `listing_timeout_s`.
        """
        self.entries += objects + folders
        if self.remaining < 0:
            raise self.too_many_error()
        if objects:
            self.mark_progress()
        elif not self.remaining_s:
            raise self.stalled_error()

    def check_depth(self, depth: int, folder: str) -> None:
        """Refuse a folder that is nested too deep.

        Args:
            depth: number of folders above it, below the start of the listing.

        Raises:
            BadRequest: if that is more than `max_listing_depth`.
        """
        if depth > self._max_depth:
            text = f"source {self._source!r} has folders nested deeper than {self._max_depth}: {_short(folder)}"
            text = f"{text}; is there a link to itself? If not, raise max_listing_depth"
            raise BadRequest(text, path=folder, source=self._source)

    def too_many_error(self) -> BadRequest:
        """Return the error for a listing with too many entries."""
        text = f"{self._listing()} has more than max_listing_entries={self._max_entries} objects and folders"
        return BadRequest(f"{text}; check the server, or raise that", path=self._prefix, source=self._source)

    def stalled_error(self) -> SourceTimeout:
        """Return the error for a listing that continues without objects. Retrying would not help."""
        text = f"{self._listing()} brought no object for listing_timeout_s={self._timeout_s:g}, {self.entries} entries"
        error = SourceTimeout(f"{text} so far; check the server, or raise that", path=self._prefix, source=self._source)
        error.__dict__["retryable"] = False
        return error

    def _listing(self) -> str:
        return f"the listing of source {self._source!r} under {_short(self._prefix)}"


def page_too_large(path: str, limit: int, source: str) -> BadRequest:
    """Return the error for a page of a listing that exceeds `max_listing_page_bytes`."""
    text = f"the listing page {_short(path)} of source {source!r} exceeds max_listing_page_bytes={limit}"
    return BadRequest(f"{text}; check the server, or raise that", path=path, source=source)


def _short(path: str) -> str:
    return repr(path) if len(path) <= 200 else f"{path[:100]!r}...{path[-100:]!r}"
