"""Errors of the Hub, by status and `X-Error-Code`."""

from __future__ import annotations

from collections.abc import Mapping

from streaming.errors import AccessDenied, ObjectNotFoundError, SourceError
from streaming.sources.huggingface.address import HubAddress
from streaming.sources.status_codes import error_for_status

_DISABLED = "Access to this resource is disabled."
_BAD_TOKEN = "Invalid credentials in Authorization header"


class EntryNotFound(ObjectNotFoundError):
    """The repository and revision exist, but not the file or folder."""


class RepositoryNotFound(ObjectNotFoundError):
    """The repository does not exist, or this login may not see it."""


def revision_not_found(address: HubAddress, endpoint: str, path: str, source: str) -> ObjectNotFoundError:
    """Return the error for a branch, tag or commit that the repository does not have."""
    text = f"{path!r} of source {source!r}: {address.shown} has no revision {address.revision!r}"
    text = f"{text}; see its branches and tags at {address.page(endpoint)}"
    return ObjectNotFoundError(text, path=path, source=source)


def error_for_hub(
    status: int, headers: Mapping[str, str], address: HubAddress, endpoint: str, path: str, source: str, has_token: bool
) -> SourceError:
    """Return the error for an answer of the Hub that is not a success.

    Args:
        headers: of the answer; names in any case.
        path: the object, for messages.
        has_token: whether the request had one.
    """
    code, text = headers.get("X-Error-Code"), headers.get("X-Error-Message")
    where = f"{path!r} of source {source!r}"
    page = address.page(endpoint)
    if code == "GatedRepo":
        message = f"accept the conditions at {page}" + (
            " with the account of this token" if has_token else ", then set a token of that account (HF_TOKEN)"
        )
        return AccessDenied(f"{where}: {address.shown} is gated; {message}", path=path, source=source)
    if text == _DISABLED:
        return AccessDenied(f"{where}: the Hub has disabled {address.shown}; see {page}", path=path, source=source)
    if text == _BAD_TOKEN:
        message = "the Hub does not know this token; make a new one, or run hf auth login"
        return AccessDenied(f"{where}: {message}", path=path, source=source)
    if code == "RepoNotFound":
        message = (
            "does not exist, or this token may not see it; check name and repo_type, then the token's rights"
            if has_token
            else "does not exist, or is private and no token was given; check name and repo_type, or set HF_TOKEN"
        )
        return RepositoryNotFound(f"{where}: {address.shown} {message}", path=path, source=source)
    if code == "RevisionNotFound":
        return revision_not_found(address, endpoint, path, source)
    if code == "EntryNotFound":
        message = f"does not exist in {address.shown}, revision {address.revision!r}; list the source to see what does"
        return EntryNotFound(f"{where} {message}", path=path, source=source)
    return error_for_status(status, path, source, headers)
