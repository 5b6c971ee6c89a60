"""Where a login may go that was found on this machine: in the environment, a login file, a profile, the machine's role.

A configuration may come from somebody else. So a server that only it names gets no more than the login that it holds
itself. A found login goes to the provider's own endpoint, or to the one that the environment names, over TLS. Loopback
is this machine, and excepted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

__all__ = ["AMAZON", "GOOGLE", "HUGGING_FACE", "may_receive_ambient_credentials"]

_REGION = r"[a-z]{2,8}(?:-[a-z]+)+-\d{1,2}"
# Whole names and no ending: hosts of many customers end in amazonaws.com, some with names of their choice.
AMAZON = re.compile(
    rf"s3(?:-fips|-accelerate)?(?:\.dualstack)?(?:[.-]{_REGION})?\.amazonaws\.com(?:\.cn)?"
    rf"|bucket\.vpce-[\w-]+\.s3\.{_REGION}\.vpce\.amazonaws\.com(?:\.cn)?"
)
GOOGLE = re.compile(r"storage(?:\.mtls|\.[a-z]+(?:-[a-z]+)+\d+\.rep|-[a-z0-9-]+\.p)?\.googleapis\.com")
HUGGING_FACE = re.compile(r"huggingface\.co")

# What every client takes for the same host; a backslash or a login in it is read in more than one way.
_PLAIN_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::(?P<port>\d{1,5}))?(?P<path>/[\w.~%/-]*)?",
    re.IGNORECASE | re.ASCII,
)


def may_receive_ambient_credentials(endpoint: str, provider: re.Pattern[str], named: Iterable[str | None] = ()) -> bool:
    """Whether a found login may be sent to a server.

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
    except ValueError:
        return False


def _normal(url: str) -> tuple[str, ...] | None:
    """What makes two URLs the same server and folder; None for one that is not plain, which equals no plain one."""
    match = _PLAIN_URL.fullmatch(url)
    if match is None:
        return None
    scheme = match["scheme"].lower()
    port = match["port"] or ("443" if scheme == "https" else "80")
    return scheme, match["host"].lower(), port, (match["path"] or "").rstrip("/")
