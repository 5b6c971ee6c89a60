"""What both HTTP engines share: the meaning of a status, of a fork, and an ETag without its marks."""

from __future__ import annotations

import re
from collections.abc import Mapping

from streaming.errors import (
    AccessDenied,
    BadRequest,
    ClosedError,
    ObjectChanged,
    ObjectNotFoundError,
    SourceError,
    SourceTimeout,
    SourceUnavailable,
)
from streaming.sources.header_values import retry_after_s


class UnusableAnswer(BadRequest):
    """An answer of garbage. It would be the same when asked again, and a mirror may be well."""


_MEANINGS: dict[int, tuple[type[SourceError], str]] = {
    304: (BadRequest, "although no condition was sent; look for a proxy between"),
    401: (AccessDenied, "so it wants a login; set credentials token, or username and password"),
    403: (AccessDenied, "so this login may not read it; check credentials, or that the server allows it"),
    404: (ObjectNotFoundError, "so it does not exist; list the source to see what does"),
    407: (
        AccessDenied,
        "so the proxy wants a login; put it into the variable that names it: http://USER:PASSWORD@HOST",
    ),
    408: (SourceTimeout, "so the request took too long; try again"),
    410: (ObjectNotFoundError, "so it was removed for good"),
    412: (ObjectChanged, "so it is not the object that was listed; list the source anew"),
    416: (UnusableAnswer, "so it cannot serve this part; read it whole, or check the URL of the source"),
    425: (SourceUnavailable, "so it wants the request later; try again"),
    429: (SourceUnavailable, "so it wants fewer requests; try again more slowly"),
}
_CODING = re.compile(r"(?:-{1,2}|;|:)(?:gzip|br|zstd|deflate)$")
_THREE_NUMBERS = re.compile(r"[0-9a-f]+-([0-9a-f]{1,16})-([0-9a-f]+)")
_OTHER_REDIRECT = (UnusableAnswer, "which leads nowhere; check the URL of the source")
_OTHER_REFUSAL = (BadRequest, "so it cannot serve this request; check the URL of the source")
_SERVER_FAILED = (SourceUnavailable, "so it is failing or overloaded; try again")


def error_of_status(status: int, path: str, source: str, headers: Mapping[str, str] | None = None) -> SourceError:
    """The error for an answer whose status is not a success; it has the status, and what `Retry-After` asks for."""
    other = _SERVER_FAILED if status >= 500 else _OTHER_REFUSAL if status >= 400 else _OTHER_REDIRECT
    kind, text = _MEANINGS.get(status, other)
    error = kind(f"the server of source {source!r} answered {status} for {path!r}, {text}", path=path, source=source)
    error.status = status
    error.retry_after_s = retry_after_s(headers.get("Retry-After")) if headers is not None else None
    return error


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


def opened_before_fork(source: str, pid: int) -> ClosedError:
    """The error for a client that came along into a forked child, where it would hang."""
    text = f"source {source!r} was opened in process {pid}, before this one was forked from it"
    return ClosedError(f"{text}; read in the parent, or make a new source here", source=source)
