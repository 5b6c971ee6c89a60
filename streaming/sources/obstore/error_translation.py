"""Translate the errors of object stores, by status and error code; shared by all clients of S3 and GCS.

The class of an obstore error says little, so its text is parsed here, in one place. The text is never repeated in a
message, as it can contain whole answers of the server.
"""

from __future__ import annotations

import re

from streaming.errors import (
    AccessDenied,
    BadRequest,
    ObjectNotFoundError,
    SourceError,
    SourceTimeout,
    SourceUnavailable,
    TruncatedRead,
)
from streaming.sources.obstore.redirect_guard import is_blocked_redirect
from streaming.sources.proxies import unreachable_reason
from streaming.sources.status_codes import UnusableAnswer, error_for_status

_STATUS = re.compile(r"(?:Status \{\s*status: |returned non-2xx status code: )(\d{3})")
_CODE = re.compile(r"<Code>(\w{1,100})</Code>")
_REGION = re.compile(r"<Region>([\w-]{1,100})</Region>|'[\w-]{1,100}' is wrong; expecting '([\w-]{1,100})'")
_HEADER = re.compile(r"source: Header \{\s*source: (\w+)")
_KIND = re.compile(r"HttpError \{\s*kind: (\w+),")
_PYTHON_ERROR = re.compile(r"type: <class '([\w.]+)'>")  # in a credential provider
_ODD_KEY = re.compile(r'[Pp]ath "(.{0,1100}?)"(?: contained empty|: Encountered)', re.DOTALL)
_NO_LOGIN = re.compile(r"169\.254\.169\.254|metadata\.google\.internal|metadata/computeMetadata")

_CHECK_LOGIN = "check the credentials of the source"
_THROTTLED = (SourceUnavailable, "it wants fewer requests; try again more slowly")
_REGION_WRONG = (UnusableAnswer, "the bucket is in another region; set storage_options region to its region")
_MEANINGS: dict[str, tuple[type[SourceError], str]] = {
    "NoSuchBucket": (ObjectNotFoundError, "there is no such bucket; check its name and the endpoint"),
    "NoSuchKey": (ObjectNotFoundError, "it does not exist; list the source to see what does"),
    "NoSuchVersion": (ObjectNotFoundError, "that version does not exist; check storage_options versions"),
    "AccessDenied": (AccessDenied, f"this login may not read it; {_CHECK_LOGIN}, and what the bucket's policy allows"),
    "InvalidAccessKeyId": (AccessDenied, f"the server does not know the access key; {_CHECK_LOGIN}, and the endpoint"),
    "SignatureDoesNotMatch": (AccessDenied, f"the secret key is not that of the access key; {_CHECK_LOGIN}"),
    "ExpiredToken": (AccessDenied, "the session token has expired; log in again, or give a credential_provider"),
    "InvalidToken": (AccessDenied, f"the session token is not valid for this server; {_CHECK_LOGIN}"),
    "RequestTimeTooSkewed": (AccessDenied, "the clock of this machine is wrong; set it"),
    "AuthorizationHeaderMalformed": _REGION_WRONG,
    "PermanentRedirect": _REGION_WRONG,
    "TemporaryRedirect": _REGION_WRONG,
    "IllegalLocationConstraintException": _REGION_WRONG,
    "InvalidObjectState": (BadRequest, "it is archived; restore it first"),
    "InvalidBucketName": (BadRequest, "this is not a valid bucket name; check the URL of the source"),
    "RequestTimeout": (SourceTimeout, "the request took too long; try again"),
    "SlowDown": _THROTTLED,
    "Throttling": _THROTTLED,
    "TooManyRequests": _THROTTLED,
}
EXPIRED_LOGIN_CODES = frozenset({"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "TokenRefreshRequired"})


def error_for_answer(status: int, code: str, path: str, source: str, region: str = "") -> SourceError:
    """Return the error for a refused request.

    Args:
        status: the HTTP status; 0 if it is not known.
        code: the error code in the body of the answer, as S3 names it; empty if there is none.
        path: the object, or the prefix of a listing.
        source: the name of the source.
        region: of the bucket, if the answer gives it.
    """
    error = _error_of(status, code, path, source, region)
    error.__dict__["status"] = status  # for rate limiters, which slow down on some statuses
    return error


def _error_of(status: int, code: str, path: str, source: str, region: str) -> SourceError:
    meaning = _MEANINGS.get(code) or (_REGION_WRONG if status == 301 else None)
    if meaning is None:
        return error_for_status(status, path, source)
    kind, text = meaning
    if region and meaning is _REGION_WRONG:
        text = f"the bucket is in region {region!r}; set storage_options region to it"
    message = " ".join(str(part) for part in (status or "", code) if part)
    return kind(f"the server of source {source!r} answered {message} for {path!r}: {text}", path=path, source=source)


def code_of(error: BaseException) -> str:
    """Return the error code of the store in an error of obstore; empty if there is none."""
    match = _CODE.search(str(error))
    return match[1] if match else ""


def status_of(error: BaseException) -> int:
    """Return the HTTP status in an error of obstore; 0 if there was no answer."""
    match = _STATUS.search(str(error))
    return int(match[1]) if match else 0


def to_source_error(error: Exception, path: str, source: str, timeout_s: float) -> SourceError:
    """Return the error of this library for an error of obstore.

    Args:
        error: what obstore raised.
        path: the object, or the prefix of a listing.
        source: the name of the source.
        timeout_s: the time limit of a request.
    """
    text, status, code = str(error), status_of(error), code_of(error)
    where = f"{path!r} of source {source!r}"
    if _NO_LOGIN.search(text):
        message = f"no credentials were found for {path!r} of source {source!r}, nor a login of the machine"
        return AccessDenied(f"{message}; set them, or storage_options anon", path=path, source=source)
    if is_blocked_redirect(error):
        text = f"{where} is redirected to another server, which is not followed; check the endpoint and the region"
        return BadRequest(text, path=path, source=source)
    if "BareRedirect" in text or "redirect without LOCATION" in text:
        status = status or 301
    if status or code:
        region = _REGION.search(text)
        return error_for_answer(status, code, path, source, (region[1] or region[2]) if region else "")
    kind, message = _failure(error, text, timeout_s)
    return kind(f"{where} {message}", path=path, source=source)


def failure_of_request(text: str, timeout_s: float, setting: str) -> tuple[type[SourceError], str] | None:
    """Return the class and message for a request that got no complete answer; None for other errors of obstore.

    Args:
        text: of obstore's error.
        timeout_s: the time limit of a request.
        setting: the name of the setting that names the server.
    """
    match = _KIND.search(text)
    kind = match[1] if match else ""
    if kind == "Timeout":
        return SourceTimeout, f"did not come within {timeout_s} s (timeout_s); try again or raise that"
    if kind == "Interrupted" or "kind: Body," in text:
        return TruncatedRead, "broke off before its announced end; read it again"
    if kind == "Connect":
        return SourceUnavailable, unreachable_reason(text, setting)
    return None


def _failure(error: Exception, text: str, timeout_s: float) -> tuple[type[SourceError], str]:
    """Return the class and message for a request without an answer."""
    class_name = type(error).__name__
    if known := failure_of_request(text, timeout_s, "endpoint"):
        return known
    if class_name == "NotSupportedError" or "NotPartial" in text:
        message = "was sent whole where a part was requested; this store does not support ranges: read whole objects"
        return UnusableAnswer, message
    if match := _HEADER.search(text):
        message = f"was answered with headers that obstore cannot read ({match[1]})"
        if match[1].startswith("Missing"):  # perhaps the answer of a proxy
            return SourceUnavailable, f"{message}; try again, then choose the other engine"
        return UnusableAnswer, f"{message}; choose the other engine"
    if class_name in ("PermissionDeniedError", "UnauthenticatedError") or "credential" in text.lower():
        return (
            AccessDenied,
            f"was not requested, as no login was available ({_cause(text, class_name)}); {_CHECK_LOGIN}",
        )
    if isinstance(error, FileNotFoundError):
        return ObjectNotFoundError, "does not exist; list the source to see what does"
    if class_name == "InvalidPathError" or isinstance(error, ValueError):
        match = _ODD_KEY.search(text[:4_000])  # a key has up to 1,024 bytes
        named = f"contains {match[1]!r}, a name" if match else "is or contains a name"
        what = "with an empty folder, '.' or a control character, which obstore cannot read"
        return BadRequest, f"{named} {what}; choose the other engine, or rename the object"
    return SourceUnavailable, "was not answered, the server ended the connection; try again, then check the endpoint"


def _cause(text: str, class_name: str) -> str:
    match = _PYTHON_ERROR.search(text)
    return match[1] if match else class_name
