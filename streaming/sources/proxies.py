"""The proxy that the environment names, and the reason why a server cannot be reached."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from streaming.errors import ConfigError

__all__ = ["Proxy", "proxy_for", "proxy_url", "unreachable_reason"]


class Proxy(NamedTuple):
    """A proxy, and the variable that names it."""

    url: str
    variable: str

    @property
    def shown(self) -> str:
        """The address without a login, for messages."""
        return urlsplit(self.url).netloc.rpartition("@")[2] or "?"


def proxy_for(scheme: str, host: str) -> Proxy | None:
    """Return the proxy for a server: `HTTPS_PROXY` or `HTTP_PROXY`, else `ALL_PROXY`, unless `NO_PROXY` has the host.

    Used instead of aiohttp's `trust_env`, which looks for each request, and reads netrc too.
    """
    if proxy_bypass(host):
        return None
    known = getproxies()
    for name in (scheme, "all"):
        if url := known.get(name):
            return Proxy(url, f"{name.upper()}_PROXY")
    return None


def proxy_url(proxy: Proxy | None, source: str) -> str | None:
    """Return the URL of a proxy for aiohttp.

    Raises:
        ConfigError: for a SOCKS proxy, which it cannot use.
    """
    if proxy is None:
        return None
    if urlsplit(proxy.url).scheme.startswith("socks"):
        text = f"source {source!r}: {proxy.variable} names a SOCKS proxy, and aiohttp supports only HTTP proxies"
        raise ConfigError(f"{text}; name one of those, or add the host to NO_PROXY", source=source)
    return proxy.url


_REASONS = tuple(
    (re.compile(pattern), reason, step)
    for pattern, reason, step in (
        (
            "dns error|DNSError|failed to lookup|name resolution|getaddrinfo|Name or service",
            "its host name does not resolve",
            "name and DNS",
        ),
        (
            "[Cc]ertificate|CERTIFICATE",
            "its certificate is not trusted",
            "name, and the clock and certificates of this machine",
        ),
        (
            "WRONG_VERSION|InvalidContentType|SSLError",
            "it does not answer in TLS",
            "and port, and whether it is http or https",
        ),
        (
            "ConnectionRefused|Connection refused|Connect call failed",
            "the connection was refused",
            "and port, and that the server runs",
        ),
        (
            "Disconnected|ConnectionClosed|ConnectionReset|reset by peer",
            "the connection was ended without an answer",
            "and port, and try again",
        ),
    )
)


def unreachable_reason(cause: str, what: str = "host", proxy: Proxy | None = None) -> str:
    """Return why a server cannot be reached, and the next step.

    Args:
        cause: the text of the client library's error.
        what: the name of the setting that names the server.
        proxy: the proxy in use.
    """
    reason, check = "its server does not answer", ", port and network"
    for pattern, known, step in _REASONS:
        if pattern.search(cause):
            reason, check = known, f" {step}"
            break
    if proxy is not None:
        reason = reason.removeprefix("its ").removeprefix("it ")
        text = f"cannot be reached through the proxy {proxy.shown} that {proxy.variable} names ({reason})"
        return f"{text}; check the proxy, or add the host to NO_PROXY"
    return f"cannot be reached, {reason}; check {what}{check}"
