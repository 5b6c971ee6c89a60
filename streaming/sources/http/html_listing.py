"""Read listings that came over HTTP: autoindex pages (HTML of nginx, Apache, Python; JSON of nginx) and index files.

A listing is written by somebody else: an entry can only name what lies below the page that lists it.
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
from streaming.sources.header_values import LONGEST_LINK, http_time, json_of, size_in, size_of, stable_etag
from streaming.sources.path_filter import is_text

# Each search goes on where the last one ended, and none looks past the next `<`: a page takes time in proportion to it.
_TAG = re.compile(r"<a\s([^<>]*)>", re.IGNORECASE)
_HREF = re.compile(r"""href\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)
_END = re.compile(r"</a>([^<\n]*)", re.IGNORECASE)
_DETAILS = re.compile(r"\s*([0-9]{1,2})-([A-Za-z]{3})-([0-9]{4}) ([0-9]{2}):([0-9]{2})\s+([0-9]+)\s*")
_MONTHS = {name: number for number, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
_TITLE = re.compile(r"index of|directory listing", re.IGNORECASE)
_UP = re.compile(r"\.\./?")


class TooManyNames(Exception):
    """A page has more names than its listing may still have."""


class Names(NamedTuple):
    """What a listing names, relative to it.

    Attributes:
        files: with what the listing tells of them.
        folders: with their final `/`.
        odd: names with a hidden separator, a NUL or half a character, which no path below the listing can be made of.
    """

    files: list[FileInfo]
    folders: list[str]
    odd: list[str]

    def check(self, most: int) -> None:
        """Refuse more names than `most`."""
        if len(self.files) + len(self.folders) + len(self.odd) > most:
            raise TooManyNames


def parse_autoindex(body: bytes, content_type: str, url: str, source: str, most: int = 2**63) -> Names:
    """Return the names in the listing at `url`, in time and memory proportional to `body`.

    Args:
        most: names; a page with more is not read on.

    Raises:
        BadRequest: if `body` is no listing.
        TooManyNames: if it has more than `most`.
    """
    if content_type == "application/json":
        return _parse_json(body, url, source, most)
    text = body.decode("utf-8", "surrogateescape")
    names = Names([], [], [])
    is_listing = _TITLE.search(text) is not None
    for link, after in _links(text):
        is_listing = is_listing or _UP.fullmatch(link) is not None
        name = _below(url, link)
        if _is_odd(name):
            names.odd.append(name)
        elif name.endswith("/"):
            names.folders.append(name)
        elif name:
            names.files.append(_with_details(name, after))
        names.check(most)
    if not is_listing:
        raise _no_listing(url, source)
    return names


def _links(text: str) -> Iterator[tuple[str, str]]:
    """The target of each link, and what follows it up to the end of the line."""
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
    """A link without the entities of HTML; empty where they are garbage, as it is for one that is too long."""
    try:
        return html.unescape(link) if len(link) <= LONGEST_LINK else ""
    except ValueError:  # an entity of thousands of digits
        return ""


def _no_listing(url: str, source: str) -> BadRequest:
    text = f"{url} of source {source!r} is not a listing; turn on the server's autoindex, or set storage_options"
    return BadRequest(f"{text} urls or index", path=url, source=source)


def _below(url: str, link: str) -> str:
    """The name directly below `url` that a link leads to, which may be odd; empty for any other place, or a way to
    sort the page."""
    page = urlsplit(url)
    try:
        target = urlsplit(urljoin(url, link))
    except ValueError:  # a host that is none
        return ""
    if (target.scheme, target.netloc) != (page.scheme, page.netloc) or target.query or target.fragment:
        return ""
    if target.path.removesuffix("/").count("/") != page.path.count("/"):
        return ""
    folder = page.path[: page.path.rfind("/") + 1]
    if not target.path.startswith(folder):
        # The server may escape the names of the folder in another way than its link does.
        folder, path = unquote(folder, errors="surrogateescape"), unquote(target.path, errors="surrogateescape")
        return _entry(path.removeprefix(folder)) if path.startswith(folder) else ""
    return _entry(unquote(target.path.removeprefix(folder), errors="surrogateescape"))


def _entry(name: str) -> str:
    """`name`, unless it is that of the listing itself or of what is above it."""
    return "" if name.removesuffix("/") in ("", ".", "..") else name


def _is_odd(name: str) -> bool:
    return "/" in name.removesuffix("/") or "\0" in name or not (name.isascii() or is_text(name))


def _with_details(name: str, after: str) -> FileInfo:
    """A file with the time and size that follow its link; sizes as `1.2K` do not tell the number of bytes."""
    match = _DETAILS.fullmatch(after.rstrip("\r"))
    if match is None:
        return FileInfo(name, -1)
    day, month, year, hour, minute, size = match.groups()
    try:
        time = datetime(int(year), _MONTHS[month.lower()], int(day), int(hour), int(minute), tzinfo=UTC).timestamp()
    except (ValueError, KeyError):
        time = None
    return FileInfo(name, size_in(size), None, time)


def _parse_json(body: bytes, url: str, source: str, most: int) -> Names:
    names = Names([], [], [])
    for entry in _json_list(body, url, source):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise _no_listing(url, source)
        kind, name = entry.get("type"), _entry(entry["name"])
        if not name or kind not in ("directory", "file"):
            continue
        names.check(most - 1)
        if _is_odd(name):
            names.odd.append(name)
        elif kind == "directory":
            names.folders.append(f"{name}/")
        else:
            names.files.append(FileInfo(name, size_of(entry.get("size")), None, http_time(entry.get("mtime"))))
    return names


def _json_list(body: bytes, url: str, source: str) -> list[Any]:
    try:
        entries = json_of(body)
    except ValueError as error:
        raise _no_listing(url, source) from error
    if not isinstance(entries, list):
        raise _no_listing(url, source)
    return entries


def parse_index(body: bytes, url: str, root: str, source: str) -> Iterator[FileInfo]:
    """The objects that an index file at `url` names: a JSON list, or one path or URL a line.

    A JSON entry is a path or URL, or `{"path": ..., "size": bytes, "etag": ...}` of which only the path is needed. A
    path is relative to `root` and written as the name is; a URL is percent-encoded and lies below `root`.

    Raises:
        BadRequest: if the file is neither, or an entry leads elsewhere.
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
        size = size_of(details.get("size"))
        etag = stable_etag(etag, size) if isinstance(etag, str) else None
        yield FileInfo(_path_of_entry(path, url, root, source), size, etag)


def _path_of_entry(entry: str, url: str, root: str, source: str) -> str:
    path = entry
    if entry.startswith(("http://", "https://")):
        found = path_below(entry, root)
        if found is None:
            raise _bad_entry(entry, url, source, f"does not lie below {root}; list it in storage_options urls instead")
        path = found
    try:
        return check_path(path)
    except ValueError as error:
        raise _bad_entry(entry, url, source, str(error)[:300]) from error


def path_below(url: str, root: str) -> str | None:
    """The path relative to `root` of what `url` names; None if it lies elsewhere or has a query."""
    try:
        parts, base = urlsplit(url), urlsplit(root)
    except ValueError:  # a host that is none
        return None
    if (parts.scheme, parts.netloc) != (base.scheme, base.netloc) or parts.query or parts.fragment:
        return None
    path = unquote(parts.path, errors="surrogateescape")
    folder = unquote(base.path, errors="surrogateescape")
    return path.removeprefix(folder) if path.startswith(folder) and path != folder else None


def _bad_entry(entry: object, url: str, source: str, why: str) -> BadRequest:
    return BadRequest(f"entry {_shown(entry)} of index {url} of source {source!r} {why}", path=url, source=source)


def _shown(entry: object) -> str:
    """An entry for a message: one may be as long as its file, or nest deeper than Python writes out."""
    shown = reprlib.Repr()
    shown.maxstring = 200
    return shown.repr(entry)
