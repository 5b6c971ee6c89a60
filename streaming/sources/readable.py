"""Which of the paths that a place lists can be read back from it. The others are left out of listings, and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from streaming.errors import InvalidPath
from streaming.skips import Skips
from streaming.sources.base import FileInfo, check_path

__all__ = ["Why", "is_plain", "readable", "why_unreadable"]

Why: TypeAlias = Callable[[str], str | None]
"""Why an object of this path cannot be read: one of `streaming.skips.REASONS`, or None if it can."""


def readable(infos: Iterable[FileInfo], skips: Skips, why: Why | None = None) -> list[FileInfo]:
    """Return the objects that can be read, and count the others.

    Args:
        why: the rule of the client; None is `why_unreadable`.
    """
    why = why or why_unreadable
    found = []
    for info in infos:
        if (reason := why(info.path)) is None:
            found.append(info)
        else:
            skips.add(reason, info.path)
    return found


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


def is_plain(path: str) -> bool:
    """Whether a path has nothing odd that a rule need look at: 0.5 us, where `check_path` and a pattern take 3."""
    return not (
        "//" in path or "/." in path or "\\" in path or path[:1] in "./" or path[-1:] == "/" or not path.isprintable()
    )
