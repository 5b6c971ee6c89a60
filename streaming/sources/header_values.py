"""Parse values from servers: numbers, ranges, dates, links and ETags. An invalid value counts as missing.

Servers are not trusted to follow any grammar. Each function takes linear time, and returns None for values that cannot
be used: endless digits, an impossible date, a link that is not a URL.
"""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

LARGEST = 2**63 - 1
"""The largest size in bytes that is accepted: the limit of an index and of file systems."""

LONGEST_DATE = 64
LONGEST_LINK = 16_384
_DIGITS = re.compile(r"[0-9]{1,19}")
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,19})-[0-9]{1,19}|\*)/([0-9]{1,19}|\*)")
_CODING = re.compile(r"(?:-{1,2}|;|:)(?:gzip|br|zstd|deflate)$")
_THREE_NUMBERS = re.compile(r"[0-9a-f]+-([0-9a-f]{1,16})-([0-9a-f]+)")
_IN_REQUEST = re.compile(r"[!-~]+")  # no space or control character, which would end the request line
_NEXT = re.compile(r"""\brel\s*=\s*(?:"next"|'next'|next\b)""", re.IGNORECASE)
# The errors of date parsers for impossible dates.
_NO_DATE = (ValueError, TypeError, OverflowError, OSError, IndexError, AttributeError)


class ContentRange(NamedTuple):
    """The values of `Content-Range`; None for those it does not have.

    Attributes:
        first: the first byte of the part.
        size: bytes of the whole object.
    """

    first: int | None
    size: int | None


def parse_json(body: bytes) -> Any:
    """Parse JSON from a server.

    Raises:
        ValueError: if it is not JSON, nests too deep, or has a number of thousands of digits.
    """
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error


def whole_number(text: str) -> int | None:
    """Parse a number of up to 19 ASCII digits, at most `LARGEST`."""
    if not _DIGITS.fullmatch(text):
        return None
    number = int(text)
    return number if number <= LARGEST else None


def size_from_json(value: object) -> int:
    """Return the size in bytes from a number in a JSON listing; -1 for anything else."""
    return value if type(value) is int and 0 <= value <= LARGEST else -1


def size_from_text(text: object) -> int:
    """Return the size in bytes from text in a listing; -1 for anything else."""
    size = whole_number(text) if isinstance(text, str) else None
    return -1 if size is None else size


def content_range(text: str | None) -> ContentRange:
    """Parse `Content-Range`; empty for another unit or impossible numbers."""
    match = _CONTENT_RANGE.fullmatch(text or "")
    if match is None:
        return ContentRange(None, None)
    first, size = (None if part in (None, "*") else int(part) for part in match.groups())
    if max(first or 0, size or 0) > LARGEST:
        return ContentRange(None, None)
    return ContentRange(first, size)


def retry_after_s(text: str | None) -> float | None:
    """Return the delay in seconds of `Retry-After`, a number or a date. It is not limited."""
    if text is None:
        return None
    number = whole_number(text.strip())
    if number is not None:
        return float(number)
    moment = http_time(text)
    return None if moment is None else max(moment - time.time(), 0.0)


def http_time(text: object) -> float | None:
    """Return the seconds since the epoch of a date in the format of HTTP and mail."""
    if not isinstance(text, str) or len(text) > LONGEST_DATE:
        return None
    try:
        return timestamp(parsedate_to_datetime(text))
    except _NO_DATE:
        return None


def iso_time(text: object) -> float | None:
    """Return the seconds since the epoch of a date in the format of object stores."""
    if not isinstance(text, str) or len(text) > LONGEST_DATE:
        return None
    try:
        return timestamp(datetime.fromisoformat(text))
    except _NO_DATE:
        return None


def timestamp(moment: object) -> float | None:
    """Return the seconds since the epoch of a `datetime`, in UTC if it has no zone; None for anything else."""
    try:
        if isinstance(moment, datetime):
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except _NO_DATE:
        return None
    return None


def next_link(values: list[str], url: str) -> str | None:
    """Return the http or https URL of the next page, from the `Link` headers of the page at `url`."""
    for value in values:
        for part in value.split("<")[1:]:
            target, bracket, parameters = part.partition(">")
            if bracket and _NEXT.search(parameters):
                target = target.strip()
                return resolve_link(url, target) if _IN_REQUEST.fullmatch(target) else None
    return None


def resolve_link(url: str, link: str) -> str | None:
    """Return the http or https URL of a link on the page at `url`."""
    if len(link) > LONGEST_LINK:
        return None
    try:
        target = urljoin(url, link)
        parts = urlsplit(target)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an invalid host or port
        return None
    return target if is_usable else None


def plain_etag(etag: str | None) -> str | None:
    """Return an ETag in normal form, so that ETags of one object are equal; None if there is none.

    Removes quotation marks, which some listings leave out, the `W/` of a server that compresses, and the coding that
    Apache and others append.
    """
    if not etag:
        return None
    return _CODING.sub("", etag.removeprefix("W/").strip('"')) or None


def stable_etag(etag: str | None, size: int) -> str | None:
    """Return an ETag of a web server in a form that is the same on all of its nodes.

    Apache's `inode-size-mtime` has another inode on each node, so the inode is removed. If the size is not known (-1),
    an ETag that may be of this form is None.
    """
    etag = plain_etag(etag)
    match = _THREE_NUMBERS.fullmatch(etag) if etag else None
    if etag is None or match is None or (size >= 0 and int(match[1], 16) != size):
        return etag
    return f"{match[1]}-{match[2]}" if size >= 0 else None
