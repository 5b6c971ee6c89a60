"""What the errors of boto mean."""

from __future__ import annotations

from typing import Any

import aiohttp
import botocore.exceptions as boto
from botocore.parsers import ResponseParserError

from streaming.errors import (
    AccessDenied,
    BadRequest,
    SourceError,
    SourceTimeout,
    SourceUnavailable,
    StreamingError,
    TruncatedRead,
)
from streaming.sources.header_values import retry_after_s
from streaming.sources.obstore.errors import error_of_answer
from streaming.sources.proxies import unreached
from streaming.sources.status_codes import UnusableAnswer

_NO_LOGIN = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.NoAuthTokenError,
    boto.MetadataRetrievalError,
)
_TIMEOUTS = (TimeoutError, boto.ConnectTimeoutError, boto.ReadTimeoutError)
_TRUNCATED = (boto.IncompleteReadError, boto.ResponseStreamingError, aiohttp.ClientPayloadError)
# What boto says of an answer that it cannot read, and what its parsers stumble over.
_UNREADABLE = (ResponseParserError, ValueError, OverflowError, LookupError, TypeError, AttributeError)
_UNREADABLE_DATE = "timezone offset"  # in a plain RuntimeError
_UNREACHED = (boto.HTTPClientError, boto.ConnectionError, aiohttp.ClientError, OSError)


def code_of(error: BaseException | None) -> str:
    """The error code in an answer of S3; empty for other errors."""
    return str(error.response.get("Error", {}).get("Code", ""))[:100] if isinstance(error, boto.ClientError) else ""


def translated(error: Exception, path: str, source: str, timeout_s: float) -> SourceError | None:
    """The error of this library that says what boto's `error` does; None if it is none of boto's.

    Args:
        error: what was raised.
        path: the object, or the prefix of a listing.
        source: the name of the source.
        timeout_s: the longest that a request was allowed to take.
    """
    if isinstance(error, boto.ClientError):
        return _of_answer(error, path, source)
    where = f"{path!r} of source {source!r}"
    kind: type[SourceError]
    if isinstance(error, _NO_LOGIN):
        kind, told = AccessDenied, "is not asked for without credentials, and none were found; set them, or anon"
    elif isinstance(error, _TRUNCATED):
        kind, told = TruncatedRead, "broke off before its announced end; read it again"
    elif isinstance(error, _TIMEOUTS):
        kind, told = SourceTimeout, f"did not come within {timeout_s} s (timeout_s); try again or raise that"
    elif isinstance(error, _UNREACHED):
        cause = getattr(error, "kwargs", {}).get("error")
        kind, told = SourceUnavailable, unreached(f"{type(cause).__name__} {cause} {type(error).__name__}", "endpoint")
    elif isinstance(error, boto.BotoCoreError):
        kind, told = BadRequest, f"cannot be asked for ({type(error).__name__}: {error}); correct that"
    elif _is_unreadable(error):
        kind, told = UnusableAnswer, f"was answered with what boto cannot read ({type(error).__name__}: "
        told = f"{told}{str(error)[:200]}); choose the other engine"
    else:
        return None
    return kind(f"{where} {told}", path=path, source=source)


def _is_unreadable(error: Exception) -> bool:
    if isinstance(error, RuntimeError):
        return _UNREADABLE_DATE in str(error)
    return isinstance(error, _UNREADABLE) and not isinstance(error, StreamingError)


def _of_answer(error: Any, path: str, source: str) -> SourceError:
    answer = error.response.get("ResponseMetadata", {})
    headers = answer.get("HTTPHeaders", {})
    told = error.response.get("Error", {})
    region = str(told.get("Region") or headers.get("x-amz-bucket-region", ""))[:100]
    code = code_of(error)
    status = answer.get("HTTPStatusCode", 0)
    known = error_of_answer(status, "" if code.isdigit() else code, path, source, region)
    if (asked_s := retry_after_s(headers.get("retry-after"))) is not None:
        known.__dict__["retry_after_s"] = asked_s
    return known
