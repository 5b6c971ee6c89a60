"""Translate the errors of boto."""

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
from streaming.sources.obstore.error_translation import error_for_answer
from streaming.sources.proxies import unreachable_reason
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
# What boto and its parsers raise for an answer that they cannot read.
_UNREADABLE = (ResponseParserError, ValueError, OverflowError, LookupError, TypeError, AttributeError)
_UNREADABLE_DATE = "timezone offset"  # in a plain RuntimeError
_UNREACHED = (boto.HTTPClientError, boto.ConnectionError, aiohttp.ClientError, OSError)


def code_of(error: BaseException | None) -> str:
    """Return the error code in an answer of S3; empty for other errors."""
    return str(error.response.get("Error", {}).get("Code", ""))[:100] if isinstance(error, boto.ClientError) else ""


def to_source_error(error: Exception, path: str, source: str, timeout_s: float) -> SourceError | None:
    """Return the error of this library for an error of boto; None if it is not one of boto's.

    Args:
        error: what was raised.
        path: the object, or the prefix of a listing.
        source: the name of the source.
        timeout_s: the time limit of a request.
    """
    if isinstance(error, boto.ClientError):
        return _of_answer(error, path, source)
    where = f"{path!r} of source {source!r}"
    kind: type[SourceError]
    if isinstance(error, _NO_LOGIN):
        kind, message = AccessDenied, "needs credentials, and none were found; set them, or anon"
    elif isinstance(error, _TRUNCATED):
        kind, message = TruncatedRead, "broke off before its announced end; read it again"
    elif isinstance(error, _TIMEOUTS):
        kind, message = SourceTimeout, f"did not come within {timeout_s} s (timeout_s); try again or raise that"
    elif isinstance(error, _UNREACHED):
        cause = getattr(error, "kwargs", {}).get("error")
        kind, message = (
            SourceUnavailable,
            unreachable_reason(f"{type(cause).__name__} {cause} {type(error).__name__}", "endpoint"),
        )
    elif isinstance(error, boto.BotoCoreError):
        kind, message = BadRequest, f"cannot be requested ({type(error).__name__}: {error}); correct that"
    elif _is_unreadable(error):
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        kind, message = UnusableAnswer, f"was answered with what boto cannot read ({reason}); choose the other engine"
    else:
        return None
    return kind(f"{where} {message}", path=path, source=source)


def _is_unreadable(error: Exception) -> bool:
    if isinstance(error, RuntimeError):
        return _UNREADABLE_DATE in str(error)
    return isinstance(error, _UNREADABLE) and not isinstance(error, StreamingError)


def _of_answer(error: Any, path: str, source: str) -> SourceError:
    answer = error.response.get("ResponseMetadata", {})
    headers = answer.get("HTTPHeaders", {})
    fields = error.response.get("Error", {})
    region = str(fields.get("Region") or headers.get("x-amz-bucket-region", ""))[:100]
    code = code_of(error)
    status = answer.get("HTTPStatusCode", 0)
    known = error_for_answer(status, "" if code.isdigit() else code, path, source, region)
    if (asked_s := retry_after_s(headers.get("retry-after"))) is not None:
        known.__dict__["retry_after_s"] = asked_s
    return known
