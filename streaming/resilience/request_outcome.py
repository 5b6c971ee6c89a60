"""The outcome of a failed request, as one of `streaming.telemetry.counters.OUTCOMES`."""

from __future__ import annotations

import asyncio
from typing import Final

from streaming.errors import BadRequest, ClosedError, InvalidPath, ObjectChanged, ObjectTooLargeError, TruncatedRead

_OUTCOMES: Final[dict[type[BaseException], str]] = {
    # Builtin parents of this library's own errors, so that a user's source may raise either.
    FileNotFoundError: "not_found",
    PermissionError: "denied",
    TimeoutError: "timeout",
    ConnectionError: "unavailable",
    TruncatedRead: "truncated",
    ObjectChanged: "changed",
    BadRequest: "refused",
    InvalidPath: "refused",
    ObjectTooLargeError: "refused",
    asyncio.CancelledError: "cancelled",
    GeneratorExit: "cancelled",
    ClosedError: "cancelled",
}


def is_throttle(error: BaseException) -> bool:
    """Whether an error asks for fewer requests: a status of 429 or 503, or `throttled` set on it."""
    return getattr(error, "status", None) in (429, 503) or bool(getattr(error, "throttled", False))


def request_outcome(error: BaseException) -> str:
    """Return the outcome of a request that raised `error`: `throttled`, or that of the nearest class that has one.

    A source that was closed meanwhile counts as cancelled: no one waits for the answer any more.
    """
    if is_throttle(error):
        return "throttled"
    for kind in type(error).__mro__:
        if kind in _OUTCOMES:
            return _OUTCOMES[kind]
    return "other"
