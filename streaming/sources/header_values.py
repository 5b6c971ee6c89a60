"""Read the values that servers write: numbers, ranges, dates and links. Garbage reads as absent, whatever it is.

A server is not trusted to keep to any grammar. Each function takes time proportional to what it is given, and gives
None where a value cannot be used: digits without end, a date that no calendar has, a link that no URL can be made of.
"""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

__all__ = [
    "LARGEST",
    "ContentRange",
    "content_range",
    "http_time",
    "iso_time",
    "joined",
    "json_of",
    "next_link",
    "plain_etag",
    "retry_after_s",
    "size_in",
    "size_of",
    "stable_etag",
    "timestamp",
    "whole_number",
]

LARGEST = 2**63 - 1
"""The largest size in bytes that is believed: what an index and a file system can hold."""

LONGEST_DATE = 64
LONGEST_LINK = 16_384
_DIGITS = re.compile(r"[0-9]{1,19}")
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,19})-[0-9]{1,19}|\*)/([0-9]{1,19}|\*)")
_CODING = re.compile(r"(?:-{1,2}|;|:)(?:gzip|br|zstd|deflate)$")
_THREE_NUMBERS = re.compile(r"[0-9a-f]+-([0-9a-f]{1,16})-([0-9a-f]+)")
_IN_REQUEST = re.compile(r"[!-~]+")  # no space and no control character, which would end the line of a request
_NEXT = re.compile(r"""\brel\s*=\s*(?:"next"|'next'|next\b)""", re.IGNORECASE)
# What date parsers raise for dates out of the calendar, besides ValueError.
_NO_DATE = (ValueError, TypeError, OverflowError, OSError, IndexError, AttributeError)


class ContentRange(NamedTuple):
    """What `Content-Range` tells; None for what it does not.

    Attributes:
        first: the first byte of the part.
        size: bytes of the whole object.
    """

    first: int | None
    size: int | None


def json_of(body: bytes) -> Any:
    """Return what the JSON of a server holds.

    Raises:
        ValueError: if it is not JSON, nests too deep, or has a number of thousands of digits.
    """
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error


def whole_number(text: str) -> int | None:
    """Return the number that up to 19 ASCII digits write, if it is at most `LARGEST`."""
    if not _DIGITS.fullmatch(text):
        return None
    number = int(text)
    return number if number <= LARGEST else None


def size_of(value: object) -> int:
    """Return the size in bytes that an entry of a JSON listing gives as a number; -1 for anything else."""
    return value if type(value) is int and 0 <= value <= LARGEST else -1


def size_in(text: object) -> int:
    """Return the size in bytes that an entry of a listing gives as text; -1 for anything else."""
    size = whole_number(text) if isinstance(text, str) else None
    return -1 if size is None else size


def content_range(text: str | None) -> ContentRange:
    """Return what `Content-Range` tells; nothing for another unit, or numbers that no object has."""
    match = _CONTENT_RANGE.fullmatch(text or "")
    if match is None:
        return ContentRange(None, None)
    first, size = (None if part in (None, "*") else int(part) for part in match.groups())
    if max(first or 0, size or 0) > LARGEST:
        return ContentRange(None, None)
    return ContentRange(first, size)


def retry_after_s(text: str | None) -> float | None:
    """Return the seconds that `Retry-After` asks to wait, as a number or a date; they may be many."""
    if text is None:
        return None
    number = whole_number(text.strip())
    if number is not None:
        return float(number)
    moment = http_time(text)
    return None if moment is None else max(moment - time.time(), 0.0)


def http_time(text: object) -> float | None:
    """Return the seconds since the epoch of a date as HTTP and mail write it."""
    if not isinstance(text, str) or len(text) > LONGEST_DATE:
        return None
    try:
        return timestamp(parsedate_to_datetime(text))
    except _NO_DATE:
        return None


def iso_time(text: object) -> float | None:
    """Return the seconds since the epoch of a date as XML and JSON of object stores write it."""
    if not isinstance(text, str) or len(text) > LONGEST_DATE:
        return None
    try:
        return timestamp(datetime.fromisoformat(text))
    except _NO_DATE:
        return None


def timestamp(moment: object) -> float | None:
    """Return the seconds since the epoch of a `datetime`; one without a zone is in UTC."""
    try:
        if isinstance(moment, datetime):
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except _NO_DATE:
        pass
    return None


def next_link(values: list[str], url: str) -> str | None:
    """Return the URL of the next page from the `Link` headers of the page at `url`.

    Only http and https lead anywhere.
    """
    for value in values:
        for part in value.split("<")[1:]:
            target, bracket, parameters = part.partition(">")
            if bracket and _NEXT.search(parameters):
                target = target.strip()
                return joined(url, target) if _IN_REQUEST.fullmatch(target) else None
    return None


def joined(url: str, link: str) -> str | None:
    """Return the URL of http or https that a link on the page at `url` leads to."""
    if len(link) > LONGEST_LINK:
        return None
    try:
        target = urljoin(url, link)
        parts = urlsplit(target)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a host that is none, digits without end for a port
        return None
    return target if is_usable else None


def plain_etag(etag: str | None) -> str | None:
    """An ETag as all servers between would write it; None if there is none.

    Without quotation marks, which some leave out of listings, without the `W/` of a server that compresses, and without
    the coding that Apache and others join to it: all these are the same object.
    """
    if not etag:
        return None
    return _CODING.sub("", etag.removeprefix("W/").strip('"')) or None


def stable_etag(etag: str | None, size: int) -> str | None:
    """An ETag of a web server that is the same on each of its nodes.

    Apache's `inode-size-mtime` has another inode on each node that keeps the files; it is left out. Where the size is
    not known (-1), what may be such an ETag is None.
    """
    etag = plain_etag(etag)
    match = _THREE_NUMBERS.fullmatch(etag) if etag else None
    if etag is None or match is None or (size >= 0 and int(match[1], 16) != size):
        return etag
    return f"{match[1]}-{match[2]}" if size >= 0 else None
