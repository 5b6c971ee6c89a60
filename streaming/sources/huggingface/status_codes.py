"""What the Hub means by a status, told by its `X-Error-Code`."""

from __future__ import annotations

from collections.abc import Mapping

from streaming.errors import AccessDenied, ObjectNotFoundError, SourceError
from streaming.sources.huggingface.address import HubAddress
from streaming.sources.status_codes import error_of_status

_DISABLED = "Access to this resource is disabled."
_BAD_TOKEN = "Invalid credentials in Authorization header"


class EntryNotFound(ObjectNotFoundError):
    """The Hub knows the repository and the revision, and no such file or folder in them."""


class RepositoryNotFound(ObjectNotFoundError):
    """The Hub knows no such repository, or does not show it to this login."""


def revision_not_found(address: HubAddress, endpoint: str, path: str, source: str) -> ObjectNotFoundError:
    """The error for a branch, tag or commit that the repository does not have."""
    text = f"{path!r} of source {source!r}: {address.shown} has no revision {address.revision!r}"
    text = f"{text}; see its branches and tags at {address.page(endpoint)}"
    return ObjectNotFoundError(text, path=path, source=source)


def error_of_hub(
    status: int, headers: Mapping[str, str], address: HubAddress, endpoint: str, path: str, source: str, has_token: bool
) -> SourceError:
    """The error for an answer of the Hub that is not a success.

    Args:
        headers: of the answer, in any case.
        path: what was asked for, as messages name it.
        has_token: whether the request carried one.
    """
    code, text = headers.get("X-Error-Code"), headers.get("X-Error-Message")
    where = f"{path!r} of source {source!r}"
    page = address.page(endpoint)
    if code == "GatedRepo":
        told = f"accept the conditions at {page}" + (
            " with the account of this token" if has_token else ", then set a token of that account (HF_TOKEN)"
        )
        return AccessDenied(f"{where}: {address.shown} is gated; {told}", path=path, source=source)
    if text == _DISABLED:
        return AccessDenied(f"{where}: the Hub has disabled {address.shown}; see {page}", path=path, source=source)
    if text == _BAD_TOKEN:
        told = "the Hub does not know this token; make a new one, or run hf auth login"
        return AccessDenied(f"{where}: {told}", path=path, source=source)
    if code == "RepoNotFound":
        told = (
            "does not exist, or this token may not see it; check name and repo_type, then the token's rights"
            if has_token
            else "does not exist, or is private and no token was given; check name and repo_type, or set HF_TOKEN"
        )
        return RepositoryNotFound(f"{where}: {address.shown} {told}", path=path, source=source)
    if code == "RevisionNotFound":
        return revision_not_found(address, endpoint, path, source)
    if code == "EntryNotFound":
        told = f"does not exist in {address.shown}, revision {address.revision!r}; list the source to see what does"
        return EntryNotFound(f"{where} {told}", path=path, source=source)
    return error_of_status(status, path, source, headers)
