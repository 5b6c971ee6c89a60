"""Parse the XML answers of ListObjectsV2, which are not trusted, in one pass that keeps only what a listing needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from streaming.sources.base import FileInfo
from streaming.sources.header_values import iso_time, plain_etag, whole_number

__all__ = ["MAX_PAGE_BYTES", "ListingPage", "parse_list_objects"]

MAX_PAGE_BYTES = 16_000_000  # 1,000 keys of 1,024 bytes, each three characters long, take 4 MB
_OBJECT_FIELDS = ("Key", "Size", "ETag", "LastModified")
_PAGE_FIELDS = ("EncodingType", "IsTruncated", "NextContinuationToken")


@dataclass(slots=True)
class ListingPage:
    """One page of a listing, relative to a root.

    Attributes:
        objects: without the empty objects `x/` by which web consoles represent folders.
        folders: each ends in `/`.
        next_token: requests the next page; empty on the last one.
    """

    objects: list[FileInfo] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    next_token: str = ""


def parse_list_objects(body: bytes, skip: int) -> ListingPage:
    """Parse one page.

    Args:
        skip: length of the root, which is cut from each key.

    Raises:
        ValueError: if it is not such an answer, or an object has no valid key or size.
    """
    reader = _Reader()
    parser = ElementTree.XMLParser(target=reader)
    try:
        parser.feed(body)
        parser.close()
    except (ElementTree.ParseError, LookupError, OverflowError) as error:  # LookupError: of an unknown encoding
        raise ValueError(f"it is not XML: {error}") from error
    is_encoded = reader.fields.get("EncodingType") == "url"

    def path(key: str) -> str:
        return (unquote_plus(key) if is_encoded else key)[skip:]

    page = ListingPage(folders=[path(folder) for folder in reader.folders])
    if reader.fields.get("IsTruncated") == "true":
        page.next_token = reader.fields.get("NextContinuationToken", "")
    for entry in reader.entries:
        name, size = path(entry.get("Key", "")), whole_number(entry.get("Size", ""))
        if size is None or "Key" not in entry:
            raise ValueError("an object has no valid key or size")
        if size or (name and not name.endswith("/")):
            time = iso_time(entry.get("LastModified"))
            page.objects.append(FileInfo(name, size, plain_etag(entry.get("ETag")), time))
    return page


class _Reader:
    """Parser target that keeps the fields of the objects and of the page, and the folders.

    A tree of all elements would take 30 times the memory of the body.
    """

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.entries: list[dict[str, str]] = []
        self.folders: list[str] = []
        self._depth = 0
        self._section = ""  # the element of depth 2 that is open
        self._text: list[str] = []
        self.data = self._text.append

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._text.clear()
        if self._depth == 2:
            self._section = _name(tag)
            if self._section == "Contents":
                self.entries.append({})
        elif self._depth == 1 and _name(tag) != "ListBucketResult":
            raise ValueError(f"it begins with {_name(tag)[:100]!r}")

    def end(self, tag: str) -> None:
        self._depth -= 1
        if self._depth == 2:
            name = _name(tag)
            if self._section == "Contents" and name in _OBJECT_FIELDS:
                self.entries[-1][name] = "".join(self._text)
            elif self._section == "CommonPrefixes" and name == "Prefix":
                self.folders.append("".join(self._text))
        elif self._depth == 1 and self._section in _PAGE_FIELDS:
            self.fields[self._section] = "".join(self._text)

    def doctype(self, name: str, public: str | None, system: str | None) -> NoReturn:
        """Refuse entities, which expand a few bytes to gigabytes."""
        raise ValueError("it declares a document type")

    def close(self) -> None:
        """Do nothing; required by the parser."""


def _name(tag: str) -> str:
    """Return a tag without its namespace, which some servers leave out."""
    return tag.rpartition("}")[2]
