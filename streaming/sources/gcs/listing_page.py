"""Read the answers of the JSON API of GCS, which may be anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streaming.sources.base import FileInfo
from streaming.sources.header_values import iso_time, json_of, plain_etag, size_in
from streaming.sources.listing_page import ListingPage

__all__ = ["KnownObject", "parse_items", "parse_object"]


@dataclass(frozen=True, slots=True)
class KnownObject:
    """What the server knows of an object: its size in bytes, its ETag and its version."""

    size: int
    etag: str | None
    generation: str | None


def parse_items(body: bytes, skip: int) -> ListingPage:
    """Return what one answer to a listing lists.

    Args:
        skip: characters of each name that belong to the root.

    Raises:
        ValueError: if it is no such answer.
    """
    answer = json_of(body)
    if not isinstance(answer, dict):
        raise ValueError("it is not an object")
    items, folders, token = answer.get("items", []), answer.get("prefixes", []), answer.get("nextPageToken", "")
    if not (isinstance(items, list) and isinstance(folders, list) and isinstance(token, str)):
        raise ValueError("its items, prefixes or nextPageToken are of another type")
    if not all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in items):
        raise ValueError("an item has no name")
    if not all(isinstance(folder, str) for folder in folders):
        raise ValueError("a prefix is not text")
    found = [_file_info(item["name"][skip:], item) for item in items]
    # An empty object whose name ends in a slash is how consoles write down an empty folder.
    found = [info for info in found if info.size or not info.path or info.path[-1] != "/"]
    return ListingPage(found, [folder[skip:] for folder in folders], token)


def parse_object(body: bytes) -> KnownObject | None:
    """Return what one answer tells of an object; None if it tells no size."""
    try:
        answer = json_of(body)
    except ValueError:
        return None
    size = size_in(answer.get("size")) if isinstance(answer, dict) else -1
    if size < 0:
        return None
    return KnownObject(size, plain_etag(_text(answer.get("etag"))), _text(answer.get("generation")))


def _file_info(path: str, item: dict[str, Any]) -> FileInfo:
    return FileInfo(path, size_in(item.get("size")), plain_etag(_text(item.get("etag"))), iso_time(item.get("updated")))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
