"""Read listings that came over HTTP: autoindex pages (HTML of nginx, Apache, Python; JSON of nginx) and index files.

A listing is written by somebody else: an entry can only name what lies below the page that lists it.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from streaming.errors import BadRequest
from streaming.sources.base import FileInfo, check_path
from streaming.sources.http_status import stable_etag

_LINK = re.compile(r"""<a\s[^>]*?href\s*=\s*(?:"([^"]*)"|'([^']*)')[^>]*>.*?</a>([^<\n]*)""", re.IGNORECASE | re.DOTALL)
_DETAILS = re.compile(r"\s*(\d{1,2}-[A-Za-z]{3}-\d{4} \d\d:\d\d)\s+(\d+)\s*")  # nginx: 21-Nov-2025 03:54   20480
_IS_LISTING = re.compile(r"index of|directory listing|<a\s[^>]*href\s*=\s*[\"']\.\./?[\"']", re.IGNORECASE)


class Names(NamedTuple):
    """What a listing names, relative to it.

    Attributes:
        files: with what the listing tells of them.
        folders: with their final `/`.
        odd: names with a hidden separator or a NUL, which no path below the listing can be made of.
    """

    files: list[FileInfo]
    folders: list[str]
    odd: list[str]


def parse_autoindex(body: bytes, content_type: str, url: str, source: str) -> Names:
    """Return the names in the listing at `url`.

    Raises:
        BadRequest: if `body` is no listing.
    """
    if content_type == "application/json":
        return _parse_json(body, url, source)
    text = body.decode("utf-8", "surrogateescape")
    if not _IS_LISTING.search(text):
        raise _no_listing(url, source)
    names = Names([], [], [])
    for double, single, after in _LINK.findall(text):
        name = _below(url, html.unescape(double or single))
        if _is_odd(name):
            names.odd.append(name)
        elif name.endswith("/"):
            names.folders.append(name)
        elif name:
            names.files.append(_with_details(name, after))
    return names


def _no_listing(url: str, source: str) -> BadRequest:
    text = f"{url} of source {source!r} is not a listing; turn on the server's autoindex, or set storage_options"
    return BadRequest(f"{text} urls or index", path=url, source=source)


def _below(url: str, link: str) -> str:
    """The name directly below `url` that a link leads to, which may be odd; empty for any other place, or a way to
    sort the page."""
    target = urlsplit(urljoin(url, link))
    page = urlsplit(url)
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
    return "/" in name.removesuffix("/") or "\0" in name


def _with_details(name: str, after: str) -> FileInfo:
    """A file with the time and size that follow its link; sizes as `1.2K` do not tell the number of bytes."""
    match = _DETAILS.fullmatch(after.rstrip("\r"))
    if match is None:
        return FileInfo(name, -1)
    try:
        time = datetime.strptime(match[1], "%d-%b-%Y %H:%M").replace(tzinfo=UTC).timestamp()
    except ValueError:
        time = None
    return FileInfo(name, int(match[2]), None, time)


def _parse_json(body: bytes, url: str, source: str) -> Names:
    names = Names([], [], [])
    for entry in _json_list(body, url, source):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise _no_listing(url, source)
        kind, name = entry.get("type"), _entry(entry["name"])
        if not name or kind not in ("directory", "file"):
            continue
        if _is_odd(name):
            names.odd.append(name)
        elif kind == "directory":
            names.folders.append(f"{name}/")
        else:
            names.files.append(FileInfo(name, _size(entry), None, _time(entry.get("mtime"))))
    return names


def _json_list(body: bytes, url: str, source: str) -> list[Any]:
    try:
        entries = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _no_listing(url, source) from error
    if not isinstance(entries, list):
        raise _no_listing(url, source)
    return entries


def _size(entry: dict[str, Any]) -> int:
    size = entry.get("size")
    return size if isinstance(size, int) and not isinstance(size, bool) and size >= 0 else -1


def _time(text: object) -> float | None:
    try:
        return parsedate_to_datetime(str(text)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


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
        size = _size(details)
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
        raise _bad_entry(entry, url, source, str(error)) from error


def path_below(url: str, root: str) -> str | None:
    """The path relative to `root` of what `url` names; None if it lies elsewhere or has a query."""
    parts, base = urlsplit(url), urlsplit(root)
    if (parts.scheme, parts.netloc) != (base.scheme, base.netloc) or parts.query or parts.fragment:
        return None
    path = unquote(parts.path, errors="surrogateescape")
    folder = unquote(base.path, errors="surrogateescape")
    return path.removeprefix(folder) if path.startswith(folder) and path != folder else None


def _bad_entry(entry: object, url: str, source: str, why: str) -> BadRequest:
    return BadRequest(f"entry {entry!r} of index {url} of source {source!r} {why}", path=url, source=source)
