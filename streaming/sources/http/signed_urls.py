"""Signed URLs of S3 and its like, GCS, CloudFront and Azure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

__all__ = ["is_signed", "refusal_of_signature"]

_SIGNATURES = ("X-Amz-Signature", "X-Goog-Signature", "Signature", "sig")


def is_signed(query: Mapping[str, str]) -> bool:
    """Whether the query of a URL holds a signature."""
    return any(name in query for name in _SIGNATURES)


def refusal_of_signature(query: Mapping[str, str]) -> str:
    """Return why a signed URL was refused, and the next step, without secrets."""
    ended = _end_of(query)
    if ended is not None and ended < datetime.now(UTC):
        moment = ended.strftime("%Y-%m-%d %H:%M:%S")
        return f"its signed URL expired at {moment} UTC; sign it again, for longer than the run takes"
    return (
        "its signed URL was refused; check that the signature is for this object, and this machine's clock; sign again"
    )


def _end_of(query: Mapping[str, str]) -> datetime | None:
    """Return when the URL expires; None if its query does not say, or not in a known form."""
    try:
        for kind in ("Amz", "Goog"):
            if f"X-{kind}-Date" in query:
                begun = datetime.strptime(query[f"X-{kind}-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                return begun + timedelta(seconds=int(query[f"X-{kind}-Expires"]))
        if "Expires" in query:
            return datetime.fromtimestamp(int(query["Expires"]), UTC)
        ended = datetime.fromisoformat(query["se"])
        return ended if ended.tzinfo else ended.replace(tzinfo=UTC)
    except (KeyError, ValueError, OverflowError, OSError):
        return None
