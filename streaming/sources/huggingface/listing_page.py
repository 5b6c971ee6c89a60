"""Parse one page of a listing of the Hub, which is not trusted."""

from __future__ import annotations

from dataclasses import dataclass

from streaming.sources.base import FileInfo
from streaming.sources.header_values import size_from_json

__all__ = ["HubPage", "page_of"]


@dataclass(frozen=True, slots=True)
class HubPage:
    """One page of a listing.

    Attributes:
        files: with their paths from the root of the repository.
        entries: number of files and folders.
    """

    files: list[FileInfo]
    entries: int


def page_of(answer: object) -> HubPage:
    """Parse one page.

    Args:
        answer: the JSON of one page.

    Raises:
        ValueError: if it is not a list, or an entry has no type or path. An invalid size or content id counts as
            missing.
    """
    if not isinstance(answer, list):
        raise ValueError("it is not a list")
    files = []
    for entry in answer:
        if not (isinstance(entry, dict) and isinstance(entry.get("type"), str) and isinstance(entry.get("path"), str)):
            raise ValueError("an entry has no type or path")
        if entry["type"] == "file":
            stored = entry["lfs"] if isinstance(entry.get("lfs"), dict) else entry
            name = stored.get("oid")
            files.append(
                FileInfo(entry["path"], size_from_json(stored.get("size")), name if isinstance(name, str) else None)
            )
    return HubPage(files, len(answer))
