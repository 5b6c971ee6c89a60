"""Parse answers of the JSON API of GCS, which are not trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streaming.sources.base import FileInfo
from streaming.sources.header_values import iso_time, parse_json, plain_etag, size_from_text
from streaming.sources.listing_page import ListingPage

__all__ = ["ObjectMetadata", "parse_items", "parse_object"]


@dataclass(frozen=True, slots=True)
class ObjectMetadata:
    """Metadata of an object: its size in bytes, its ETag and its version."""

    size: int
    etag: str | None
    generation: str | None


def parse_items(body: bytes, skip: int) -> ListingPage:
    """Parse one page of a listing.

    Args:
        skip: length of the root, which is cut from each name.

    Raises:
        ValueError: if it is not such a page.
    """
    answer = parse_json(body)
    if not isinstance(answer, dict):
        raise ValueError("it is not an object")
    items, folders, token = answer.get("items", []), answer.get("prefixes", []), answer.get("nextPageToken", "")
    if not (isinstance(items, list) and isinstance(folders, list) and isinstance(token, str)):
        raise ValueError("its items, prefixes or nextPageToken have the wrong type")
    if not all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in items):
        raise ValueError("an item has no name")
    if not all(isinstance(folder, str) for folder in folders):
        raise ValueError("a prefix is not text")
    found = [_file_info(item["name"][skip:], item) for item in items]
    # Web consoles represent an empty folder by an empty object whose name ends in a slash.
    found = [info for info in found if info.size or not info.path or info.path[-1] != "/"]
    return ListingPage(found, [folder[skip:] for folder in folders], token)


def parse_object(body: bytes) -> ObjectMetadata | None:
    """Parse the metadata of an object; None if it is not JSON or has no size."""
    try:
        answer = parse_json(body)
    except ValueError:
        return None
    size = size_from_text(answer.get("size")) if isinstance(answer, dict) else -1
    if size < 0:
        return None
    return ObjectMetadata(size, plain_etag(_text(answer.get("etag"))), _text(answer.get("generation")))


def _file_info(path: str, item: dict[str, Any]) -> FileInfo:
    return FileInfo(
        path, size_from_text(item.get("size")), plain_etag(_text(item.get("etag"))), iso_time(item.get("updated"))
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
