"""Errors by HTTP status."""

from __future__ import annotations

from collections.abc import Mapping

from streaming.errors import (
    AccessDenied,
    BadRequest,
    ObjectChanged,
    ObjectNotFoundError,
    SourceError,
    SourceTimeout,
    SourceUnavailable,
)
from streaming.sources.header_values import retry_after_s


class UnusableAnswer(BadRequest):
    """An invalid answer. A retry would bring the same, but a mirror may work."""


_MEANINGS: dict[int, tuple[type[SourceError], str]] = {
    304: (BadRequest, "although no condition was sent; look for a proxy in between"),
    401: (AccessDenied, "so it needs a login; set credentials token, or username and password"),
    403: (AccessDenied, "so this login may not read it; check credentials, or that the server allows it"),
    404: (ObjectNotFoundError, "so it does not exist; list the source to see what does"),
    407: (
        AccessDenied,
        "so the proxy needs a login; add it to the variable that names it: http://USER:PASSWORD@HOST",
    ),
    408: (SourceTimeout, "so the request took too long; try again"),
    410: (ObjectNotFoundError, "so it was removed for good"),
    412: (ObjectChanged, "so it is not the object that was listed; list the source again"),
    416: (UnusableAnswer, "so it cannot serve this part; read it whole, or check the URL of the source"),
    425: (SourceUnavailable, "so the request came too early; try again"),
    429: (SourceUnavailable, "so it wants fewer requests; try again more slowly"),
}
_OTHER_REDIRECT = (UnusableAnswer, "which leads nowhere; check the URL of the source")
_OTHER_REFUSAL = (BadRequest, "so it cannot serve this request; check the URL of the source")
_SERVER_FAILED = (SourceUnavailable, "so it is failing or overloaded; try again")


def error_for_status(status: int, path: str, source: str, headers: Mapping[str, str] | None = None) -> SourceError:
    """Return the error for an answer that is not a success, with its status and `Retry-After`."""
    other = _SERVER_FAILED if status >= 500 else _OTHER_REFUSAL if status >= 400 else _OTHER_REDIRECT
    kind, text = _MEANINGS.get(status, other)
    error = kind(f"the server of source {source!r} answered {status} for {path!r}, {text}", path=path, source=source)
    error.status = status
    error.retry_after_s = retry_after_s(headers.get("Retry-After")) if headers is not None else None
    return error
