"""URLs that a browser shows for a repository or a bucket: nothing can be read from them, but they name a source."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["source_url"]

_HUB = ("huggingface.co", "www.huggingface.co", "hf.co")
_REPOSITORY = re.compile(
    r"(?P<kind>datasets/|spaces/|)(?P<id>[\w.-]+/[\w.-]+)(?:/(?P<view>tree|blob)/(?P<rest>.+))?", re.ASCII
)
_GCS = re.compile(r"storage/browser/(?P<place>[^;]+)")
_S3 = re.compile(r"s3/buckets/(?P<bucket>[^/]+)")


def source_url(url: str) -> str | None:
    """Return the URL of the source that this page shows; None for any other URL."""
    parts = urlsplit(url)
    host, path = parts.hostname or "", parts.path.strip("/")
    if host in _HUB and (match := _REPOSITORY.fullmatch(path)):
        return f"hf://{match['kind']}{match['id']}{_revision(match['view'], match['rest'])}"
    if host == "console.cloud.google.com" and (match := _GCS.match(path)):
        return f"gs://{unquote(match['place'])}"
    if host.endswith(".console.aws.amazon.com") and (match := _S3.match(path)):
        prefix = parse_qs(parts.query).get("prefix", [""])[0]
        return f"s3://{match['bucket']}" + (f"/{prefix}" if prefix else "")
    return None


def _revision(view: str | None, rest: str | None) -> str:
    if not rest:
        return ""
    revision, _, below = rest.partition("/")
    folder = below.rpartition("/")[0] if view == "blob" else below
    return f"@{revision}" + (f"/{folder}" if folder else "")
