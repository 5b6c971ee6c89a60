"""Keep obstore from following redirects to other hosts.

obstore follows redirects with every configured header, the session token and a Referer, and has no option to turn that
off. But requests to all hosts except one can be sent through a proxy, here one that cannot exist: such a redirect fails
before anything is sent, and other reads cost nothing extra. The proxy is chosen by the host alone, so redirects to
another port of the host, and to its subdomains, are followed; there obstore leaves out the login, but no other header.
`https` never becomes `http`.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from streaming.sources.proxies import proxy_for

__all__ = ["is_blocked_redirect", "same_host_options"]

_DEAD_PROXY = "127.0.0.1:0"  # no server can listen at port 0


def same_host_options(url: str, also: Iterable[str] = ()) -> dict[str, Any]:
    """Return the `client_options` that let a store reach only the host of `url`, and the hosts that its login needs.

    If the environment names a proxy for that host, the proxy decides instead.

    Args:
        also: other hosts, by name (including subdomains) or address.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    is_plain = {"allow_http": parts.scheme == "http"}
    if proxy_for(parts.scheme, host) is not None:
        return is_plain
    return {**is_plain, "proxy_url": f"http://{_DEAD_PROXY}", "proxy_excludes": ",".join([*_spellings(host), *also])}


def _spellings(host: str) -> list[str]:
    """Return a host as written and as obstore normalizes it: `127.1`, and names beyond ASCII."""
    found = [host]
    # A host that is not an IPv4 address, or not a valid name, has one spelling.
    with contextlib.suppress(OSError, UnicodeError):
        found.append(socket.inet_ntoa(socket.inet_aton(host)))
    with contextlib.suppress(UnicodeError):
        found.append(host.encode("idna").decode())
    return found


def is_blocked_redirect(error: BaseException) -> bool:
    """Whether an error of obstore comes from a redirect that `same_host_options` blocked."""
    text = str(error)
    return f"{_DEAD_PROXY}," in text or "kind: Redirect," in text
