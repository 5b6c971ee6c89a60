"""The bounds of one listing: a server that lists for ever, or too much, is left with an error that names the bound."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from streaming.errors import BadRequest, SourceTimeout

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig

__all__ = ["ListingLimits", "page_too_large"]


class ListingLimits:
    """Counts what one listing brings; made for each listing, and told of every answer of the server.

    Args:
        config: the bounds, and the name for messages.
        prefix: what is listed.
        clock: seconds since some moment.

    Attributes:
        entries: objects and folders so far.
    """

    def __init__(self, config: DataSourceConfig, prefix: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.entries = 0
        self._source = config.name
        self._prefix = prefix
        self._most_entries = config.max_listing_entries
        self._most_depth = config.max_listing_depth
        self._timeout_s = config.listing_timeout_s
        self._clock = clock
        self._progress_at = clock()

    @property
    def left(self) -> int:
        """Entries that may still come."""
        return self._most_entries - self.entries

    @property
    def left_s(self) -> float:
        """Seconds until another object has to be there."""
        return max(self._progress_at + self._timeout_s - self._clock(), 0.0)

    def go_on(self) -> None:
        """Take note that an object was listed, and that whoever lists has come back for more."""
        self._progress_at = self._clock()

    def count(self, objects: int, folders: int = 0) -> None:
        """Take note of an answer.

        Raises:
            BadRequest: if the listing has passed `max_listing_entries`.
            SourceTimeout: if no object came for `listing_timeout_s`.
        """
        self.entries += objects + folders
        if self.left < 0:
            raise self.too_many()
        if objects:
            self.go_on()
        elif not self.left_s:
            raise self.stalled()

    def check_depth(self, depth: int, folder: str) -> None:
        """Refuse a folder that lies too deep.

        Args:
            depth: folders between it and where the listing began.

        Raises:
            BadRequest: if that is more than `max_listing_depth`.
        """
        if depth > self._most_depth:
            text = f"source {self._source!r} has folders nested deeper than {self._most_depth}: {_short(folder)}"
            text = f"{text}; is there a link to itself? If not, raise max_listing_depth"
            raise BadRequest(text, path=folder, source=self._source)

    def too_many(self) -> BadRequest:
        """The error for a listing that names too much."""
        text = f"{self._listing()} names more than max_listing_entries={self._most_entries} objects and folders"
        return BadRequest(f"{text}; check the server, or raise that", path=self._prefix, source=self._source)

    def stalled(self) -> SourceTimeout:
        """The error for a listing that goes on and brings nothing; it would be the same when begun again."""
        text = f"{self._listing()} brought no object for listing_timeout_s={self._timeout_s:g}, {self.entries} entries"
        error = SourceTimeout(f"{text} so far; check the server, or raise that", path=self._prefix, source=self._source)
        error.__dict__["retryable"] = False
        return error

    def _listing(self) -> str:
        return f"the listing of source {self._source!r} under {_short(self._prefix)}"


def page_too_large(path: str, limit: int, source: str) -> BadRequest:
    """The error for a page of a listing beyond `max_listing_page_bytes`."""
    text = f"the listing page {_short(path)} of source {source!r} passes max_listing_page_bytes={limit}"
    return BadRequest(f"{text}; check the server, or raise that", path=path, source=source)


def _short(path: str) -> str:
    return repr(path) if len(path) <= 200 else f"{path[:100]!r}...{path[-100:]!r}"
