"""Read one answer to ListObjectsV2, whose XML may be anything: in one pass, and keeping what a listing needs alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from streaming.sources.base import FileInfo
from streaming.sources.header_values import iso_time, whole_number
from streaming.sources.http_status import plain_etag

__all__ = ["MAX_PAGE_BYTES", "KeyPage", "parse_keys"]

MAX_PAGE_BYTES = 16_000_000  # 1,000 keys of 1,024 bytes, each three characters long, take 4 MB
_DEEPEST = 8  # elements in each other; ListObjectsV2 has four
_LONGEST = 100_000  # characters of a key or token; a key of 1,024 bytes takes 3,072, percent-encoded


@dataclass(slots=True)
class KeyPage:
    """What one answer lists, below a root.

    Attributes:
        objects: without the empty ones `x/` that consoles make of folders.
        folders: with their final `/`.
        next_token: asks for the next page; empty if this is the last.
    """

    objects: list[FileInfo] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    next_token: str = ""


def parse_keys(body: bytes, skip: int) -> KeyPage:
    """Return what an answer lists.

    Args:
        skip: characters of each key that belong to the root.

    Raises:
        ValueError: if it is no answer to ListObjectsV2, or one without a key or size that can be used.
    """
    reader = _Reader()
    parser = ElementTree.XMLParser(target=reader)
    try:
        parser.feed(body)
        parser.close()
    except (ElementTree.ParseError, LookupError, OverflowError) as error:  # LookupError: of an unknown encoding
        raise ValueError(f"it is not XML: {error}") from error
    is_encoded = reader.told.get("EncodingType") == "url"

    def path(key: str) -> str:
        return (unquote_plus(key) if is_encoded else key)[skip:]

    page = KeyPage(folders=[path(folder) for folder in reader.folders])
    if reader.told.get("IsTruncated") == "true":
        page.next_token = reader.told.get("NextContinuationToken", "")
    for entry in reader.entries:
        name, size = path(entry.get("Key", "")), whole_number(entry.get("Size", ""))
        if size is None or "Key" not in entry:
            raise ValueError("an object has no key, or no size that a number could be")
        if size or (name and not name.endswith("/")):
            time = iso_time(entry.get("LastModified"))
            page.objects.append(FileInfo(name, size, plain_etag(entry.get("ETag")), time))
    return page


class _Reader:
    """What the parser calls for each element: keeps the fields of each object, the folders, and those of the page.

    A tree of all elements would take 30 times the memory of the body.
    """

    def __init__(self) -> None:
        self.told: dict[str, str] = {}
        self.entries: list[dict[str, str]] = []
        self.folders: list[str] = []
        self._open: list[str] = []
        self._text: list[str] = []
        self._length = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = tag.rpartition("}")[2]  # without its namespace, which some servers leave out
        if len(self._open) == _DEEPEST or (not self._open and name != "ListBucketResult"):
            raise ValueError(f"it has no place for an element {name[:100]!r}")
        self._open.append(name)
        if self._open[1:] == ["Contents"]:
            self.entries.append({})
        self._text, self._length = [], 0

    def data(self, text: str) -> None:
        self._length += len(text)
        if self._length > _LONGEST:
            raise ValueError(f"it has a text of more than {_LONGEST} characters")
        self._text.append(text)

    def end(self, tag: str) -> None:
        text = "".join(self._text)
        self._text, self._length = [], 0
        match self._open[1:]:
            case ["Contents", ("Key" | "Size" | "ETag" | "LastModified") as name]:
                self.entries[-1][name] = text
            case ["CommonPrefixes", "Prefix"]:
                self.folders.append(text)
            case [("EncodingType" | "IsTruncated" | "NextContinuationToken") as name]:
                self.told[name] = text
        self._open.pop()

    def doctype(self, name: str, public: str | None, system: str | None) -> NoReturn:
        """Refuse entities, which a few bytes make gigabytes of."""
        raise ValueError("it declares a document type")

    def close(self) -> None:
        """There is nothing to end."""
