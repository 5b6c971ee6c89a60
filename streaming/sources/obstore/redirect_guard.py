"""What keeps obstore at the hosts that it was made for.

obstore follows redirects, with every configured header, the token of a session and a Referer, and has no option not
to. But all that leads to another host can be sent through a proxy, here one that nobody can be: such a redirect fails
before anything is sent, at no cost for the reads that are not redirected. A proxy is chosen by the host alone. So
another port of the same host, and names below it, are reached, where obstore leaves out the login, but no other header.
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

_NOBODY = "127.0.0.1:0"  # no server can listen at port 0


def same_host_options(url: str, also: Iterable[str] = ()) -> dict[str, Any]:
    """The `client_options` that let a store reach the host of `url`, and what the login needs, only.

    Where the environment names a proxy for that host, the proxy decides instead.

    Args:
        also: names and addresses; a name stands for those below it too.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    is_plain = {"allow_http": parts.scheme == "http"}
    if proxy_for(parts.scheme, host) is not None:
        return is_plain
    return {**is_plain, "proxy_url": f"http://{_NOBODY}", "proxy_excludes": ",".join([*_spellings(host), *also])}


def _spellings(host: str) -> list[str]:
    """A host as it is written, and as obstore writes it: `127.1` and names beyond ASCII."""
    found = [host]
    with contextlib.suppress(OSError, UnicodeError):
        found.append(socket.inet_ntoa(socket.inet_aton(host)))
    with contextlib.suppress(UnicodeError):
        found.append(host.encode("idna").decode())
    return found


def is_blocked_redirect(error: BaseException) -> bool:
    """Whether an error of obstore is that of a redirect which `same_host_options` stopped."""
    text = str(error)
    return f"{_NOBODY}," in text or "kind: Redirect," in text
