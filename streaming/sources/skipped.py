"""Objects that a listing leaves out because their source cannot read them: counted by reason, named in one warning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

from streaming.errors import InvalidPath
from streaming.logs import get_logger
from streaming.sources.base import FileInfo, check_path

if TYPE_CHECKING:
    from streaming.sources.base import DataSource

__all__ = ["Skips", "Why", "is_plain", "why_unreadable"]

EXAMPLES = 3
EXAMPLE_CHARACTERS = 120

Why: TypeAlias = Callable[[str], str | None]
"""Why an object of this path cannot be read: a reason, or None if it can."""

_log = get_logger(__name__)


def is_plain(path: str) -> bool:
    """Whether a path has nothing odd that a rule need look at: 0.5 us, where `check_path` and a pattern take 3."""
    return not (
        "//" in path or "/." in path or "\\" in path or path[:1] in "./" or path[-1:] == "/" or not path.isprintable()
    )


def why_unreadable(path: str) -> str | None:
    """Say why no source can read an object of this path.

    Returns:
        `"folder_name"` if the path ends in `/`, `"outside_root"` if `check_path` refuses it, else None.
    """
    if is_plain(path):
        return None
    if path.endswith("/"):
        return "folder_name"
    try:
        check_path(path)
    except InvalidPath:
        return "outside_root"
    return None


class Skips:
    """What one listing of a source leaves out.

    Args:
        source: its `skipped` is set by `report`.
        why: the rule of the source's client.
        next_step: what a user can do, for the warning.
    """

    def __init__(self, source: DataSource, why: Why = why_unreadable, next_step: str = "rename these objects") -> None:
        self._source = source
        self._why = why
        self._next_step = next_step
        self._reasons: Counter[str] = Counter()
        self._examples: list[str] = []

    def readable(self, infos: Iterable[FileInfo]) -> list[FileInfo]:
        """Return the objects that can be read, and note the others."""
        why, found = self._why, []
        for info in infos:
            if (reason := why(info.path)) is None:
                found.append(info)
            else:
                self.add(info.path, reason)
        return found

    def add(self, path: str, reason: str) -> None:
        """Note an object that is left out."""
        self._reasons[reason] += 1
        if len(self._examples) < EXAMPLES:
            shown = path if len(path) <= EXAMPLE_CHARACTERS else f"{path[:EXAMPLE_CHARACTERS]}..."
            self._examples.append(repr(shown))

    def report(self) -> None:
        """Set the source's `skipped`, and warn once if anything was left out. Call it when the listing is complete."""
        self._source.skipped = dict(self._reasons)
        if self._reasons:
            _log.warning(
                "objects_skipped source=%s count=%d reasons=%s examples=%s next_step=%s",
                self._source.name,
                self._reasons.total(),
                ",".join(f"{reason}:{count}" for reason, count in sorted(self._reasons.items())),
                ", ".join(self._examples),
                self._next_step,
            )
