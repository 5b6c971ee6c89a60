"""Rules for ambient credentials, which come from the environment, a login file, a profile or a machine's role.

A configuration may come from someone else. So a server that only the configuration names receives only the login in the
configuration. Ambient credentials go to the provider's own endpoint, or to the one that the environment names, over
TLS. Loopback is always allowed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

__all__ = ["AMAZON", "GOOGLE", "HUGGING_FACE", "may_receive_ambient_credentials"]

_REGION = r"[a-z]{2,8}(?:-[a-z]+)+-\d{1,2}"
# Whole names, not suffixes: many customers have hosts that end in amazonaws.com, some with names of their choice.
AMAZON = re.compile(
    rf"s3(?:-fips|-accelerate)?(?:\.dualstack)?(?:[.-]{_REGION})?\.amazonaws\.com(?:\.cn)?"
    rf"|bucket\.vpce-[\w-]+\.s3\.{_REGION}\.vpce\.amazonaws\.com(?:\.cn)?"
)
GOOGLE = re.compile(r"storage(?:\.mtls|\.[a-z]+(?:-[a-z]+)+\d+\.rep|-[a-z0-9-]+\.p)?\.googleapis\.com")
HUGGING_FACE = re.compile(r"huggingface\.co")

# URLs that all clients parse alike; they differ for a backslash or a login.
_PLAIN_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::(?P<port>\d{1,5}))?(?P<path>/[\w.~%/-]*)?",
    re.IGNORECASE | re.ASCII,
)


def may_receive_ambient_credentials(endpoint: str, provider: re.Pattern[str], named: Iterable[str | None] = ()) -> bool:
    """Whether ambient credentials may be sent to a server.

    Args:
        endpoint: URL of the server.
        provider: matches the hosts of the provider's own servers.
        named: URLs that the environment gives for the server.
    """
    match = _PLAIN_URL.fullmatch(endpoint)
    if match is None:
        return False
    host = match["host"].lower()
    if _is_loopback(host):
        return True
    if match["scheme"].lower() != "https":
        return False
    return provider.fullmatch(host) is not None or _normal(endpoint) in {_normal(url or "") for url in named}


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a host name
        return False


def _normal(url: str) -> tuple[str, ...] | None:
    """Return a key that is equal for URLs of one server and folder; None for a URL that clients parse differently."""
    match = _PLAIN_URL.fullmatch(url)
    if match is None:
        return None
    scheme = match["scheme"].lower()
    port = match["port"] or ("443" if scheme == "https" else "80")
    return scheme, match["host"].lower(), port, (match["path"] or "").rstrip("/")
