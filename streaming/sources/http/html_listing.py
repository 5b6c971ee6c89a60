"""Parse listings from web servers: autoindex pages (HTML of nginx, Apache, Python; JSON of nginx) and index files.

A listing is not trusted: an entry can only name an object below the page that lists it.
"""

from __future__ import annotations

import html
import re
import reprlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from streaming.errors import BadRequest
from streaming.sources.base import FileInfo, check_path
from streaming.sources.header_values import (
    LONGEST_LINK,
    http_time,
    parse_json,
    size_from_json,
    size_from_text,
    stable_etag,
)
from streaming.sources.path_filter import is_encodable

# Each search starts where the last one ended, and none looks past the next `<`, so parsing takes linear time.
_TAG = re.compile(r"<a\s([^<>]*)>", re.IGNORECASE)
_HREF = re.compile(r"""href\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)
_END = re.compile(r"</a>([^<\n]*)", re.IGNORECASE)
_DETAILS = re.compile(r"\s*([0-9]{1,2})-([A-Za-z]{3})-([0-9]{4}) ([0-9]{2}):([0-9]{2})\s+([0-9]+)\s*")
_MONTHS = {name: number for number, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
_TITLE = re.compile(r"index of|directory listing", re.IGNORECASE)
_UP = re.compile(r"\.\./?")


class TooManyNames(Exception):
    """A page has more names than the listing may have."""


class Names(NamedTuple):
    """The names in a listing, relative to its folder.

    Attributes:
        files: with the metadata in the listing.
        folders: with their final `/`.
        odd: names with a hidden separator, a NUL or half a character, which cannot be part of a path.
    """

    files: list[FileInfo]
    folders: list[str]
    odd: list[str]

    def check(self, max_names: int) -> None:
        """Refuse more names than `max_names`."""
        if len(self.files) + len(self.folders) + len(self.odd) > max_names:
            raise TooManyNames


def parse_autoindex(body: bytes, content_type: str, url: str, source: str, max_names: int = 2**63) -> Names:
    """Return the names in the listing at `url`, in time and memory proportional to `body`.

    Args:
        max_names: the limit of names; parsing stops there.

    Raises:
        BadRequest: if `body` is not a listing.
        TooManyNames: if it has more than `max_names`.
    """
    if content_type == "application/json":
        return _parse_json(body, url, source, max_names)
    text = body.decode("utf-8", "surrogateescape")
    names = Names([], [], [])
    is_listing = _TITLE.search(text) is not None
    for link, after in _links(text):
        is_listing = is_listing or _UP.fullmatch(link) is not None
        name = _name_below(url, link)
        if _is_odd(name):
            names.odd.append(name)
        elif name.endswith("/"):
            names.folders.append(name)
        elif name:
            names.files.append(_with_details(name, after))
        names.check(max_names)
    if not is_listing:
        raise _no_listing(url, source)
    return names


def _links(text: str) -> Iterator[tuple[str, str]]:
    """Yield the target of each link, and the text after it on its line."""
    at = 0
    while tag := _TAG.search(text, at):
        at = tag.end()
        if href := _HREF.search(tag[1]):
            end = _END.search(text, at)
            if end is None:
                return
            at = end.end()
            yield _unescaped(href[1] or href[2] or ""), end[1]


def _unescaped(link: str) -> str:
    """Return a link with its HTML entities replaced; empty if they are invalid or the link is too long."""
    try:
        return html.unescape(link) if len(link) <= LONGEST_LINK else ""
    except ValueError:  # an entity of thousands of digits
        return ""


def _no_listing(url: str, source: str) -> BadRequest:
    text = f"{url} of source {source!r} is not a listing; turn on the server's autoindex, or set storage_options"
    return BadRequest(f"{text} urls or index", path=url, source=source)


def _name_below(url: str, link: str) -> str:
    """Return the name directly below `url` that a link leads to, which may be odd; empty for links to anything else,
    such as the same page in another order."""
    page = urlsplit(url)
    try:
        target = urlsplit(urljoin(url, link))
    except ValueError:  # an invalid host
        return ""
    if (target.scheme, target.netloc) != (page.scheme, page.netloc) or target.query or target.fragment:
        return ""
    if target.path.removesuffix("/").count("/") != page.path.count("/"):
        return ""
    folder = page.path[: page.path.rfind("/") + 1]
    if not target.path.startswith(folder):
        # The server may escape the folder in another way than its link does.
        folder, path = unquote(folder, errors="surrogateescape"), unquote(target.path, errors="surrogateescape")
        return _entry(path.removeprefix(folder)) if path.startswith(folder) else ""
    return _entry(unquote(target.path.removeprefix(folder), errors="surrogateescape"))


def _entry(name: str) -> str:
    """Return `name`, or nothing if it is the listing itself or a folder above it."""
    return "" if name.removesuffix("/") in ("", ".", "..") else name


def _is_odd(name: str) -> bool:
    return "/" in name.removesuffix("/") or "\0" in name or not (name.isascii() or is_encodable(name))


def _with_details(name: str, after: str) -> FileInfo:
    """Return a file with the time and size after its link. Sizes such as `1.2K` are not exact, and ignored."""
    match = _DETAILS.fullmatch(after.rstrip("\r"))
    if match is None:
        return FileInfo(name, -1)
    day, month, year, hour, minute, size = match.groups()
    try:
        time = datetime(int(year), _MONTHS[month.lower()], int(day), int(hour), int(minute), tzinfo=UTC).timestamp()
    except (ValueError, KeyError):
        time = None
    return FileInfo(name, size_from_text(size), None, time)


def _parse_json(body: bytes, url: str, source: str, max_names: int) -> Names:
    names = Names([], [], [])
    for entry in _json_list(body, url, source):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise _no_listing(url, source)
        kind, name = entry.get("type"), _entry(entry["name"])
        if not name or kind not in ("directory", "file"):
            continue
        names.check(max_names - 1)
        if _is_odd(name):
            names.odd.append(name)
        elif kind == "directory":
            names.folders.append(f"{name}/")
        else:
            names.files.append(FileInfo(name, size_from_json(entry.get("size")), None, http_time(entry.get("mtime"))))
    return names


def _json_list(body: bytes, url: str, source: str) -> list[Any]:
    try:
        entries = parse_json(body)
    except ValueError as error:
        raise _no_listing(url, source) from error
    if not isinstance(entries, list):
        raise _no_listing(url, source)
    return entries


def parse_index(body: bytes, url: str, root: str, source: str) -> Iterator[FileInfo]:
    """Yield the objects in an index file at `url`: a JSON list, or one path or URL per line.

    A JSON entry is a path or URL, or `{"path": ..., "size": bytes, "etag": ...}`, where only the path is required. A
    path is relative to `root` and not escaped; a URL is percent-encoded and below `root`.

    Raises:
        BadRequest: if the file is neither, or an entry is not below `root`.
    """
    if body.lstrip()[:1] == b"[":
        entries = _json_list(body, url, source)
    else:
        entries = [line for line in body.decode("utf-8", "surrogateescape").splitlines() if line.strip()]
    for entry in entries:
        details = entry if isinstance(entry, dict) else {"path": entry}
        path = details.get("path")
        if not isinstance(path, str):
            raise _bad_entry(entry, url, source, "has no path")
        etag = details.get("etag")
        size = size_from_json(details.get("size"))
        etag = stable_etag(etag, size) if isinstance(etag, str) else None
        yield FileInfo(_path_of_entry(path, url, root, source), size, etag)


def _path_of_entry(entry: str, url: str, root: str, source: str) -> str:
    path = entry
    if entry.startswith(("http://", "https://")):
        found = path_below(entry, root)
        if found is None:
            raise _bad_entry(entry, url, source, f"is not below {root}; list it in storage_options urls instead")
        path = found
    try:
        return check_path(path)
    except ValueError as error:
        raise _bad_entry(entry, url, source, str(error)[:300]) from error


def path_below(url: str, root: str) -> str | None:
    """Return the path of `url` relative to `root`; None if it is not below it, or has a query."""
    try:
        parts, base = urlsplit(url), urlsplit(root)
    except ValueError:  # an invalid host
        return None
    if (parts.scheme, parts.netloc) != (base.scheme, base.netloc) or parts.query or parts.fragment:
        return None
    path = unquote(parts.path, errors="surrogateescape")
    folder = unquote(base.path, errors="surrogateescape")
    return path.removeprefix(folder) if path.startswith(folder) and path != folder else None


def _bad_entry(entry: object, url: str, source: str, why: str) -> BadRequest:
    return BadRequest(f"entry {_shown(entry)} of index {url} of source {source!r} {why}", path=url, source=source)


def _shown(entry: object) -> str:
    """Return an entry, shortened, for a message. It may be as long as its file, or nest too deep for `repr`."""
    shown = reprlib.Repr()
    shown.maxstring = 200
    return shown.repr(entry)
