"""Rules for the redirects, and the URLs in listings, that a source follows.

The servers in a configuration may receive its headers and login. Other servers that these point to may not: no
configured header is sent, `https` does not become `http`, `allowed_hosts` limits the hosts, and link-local addresses,
where clouds serve the credentials of a machine, are never contacted.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver
from yarl import URL

from streaming.errors import AccessDenied

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 10

# Link-local, and the metadata servers of AWS over IPv6, Alibaba, Azure and Oracle.
_NEVER = tuple(
    ip_network(each)
    for each in (
        *("169.254.0.0/16", "fe80::/10"),
        *("fd00:ec2::254/128", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"),
    )
)
_NAT64 = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"))


class LinkLocalError(OSError):
    """A host name that resolves to a link-local address."""


def is_link_local(host: str) -> bool:
    """Whether `host` is a link-local address or that of a cloud's metadata server, in any notation."""
    address = _address(host)
    return address is not None and any(each in net for each in _with_embedded(address) for net in _NEVER)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """Return the address in any notation; None for a name."""
    try:
        return ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        pass  # not in the usual notation
    try:
        return IPv4Address(socket.inet_aton(host))  # also `2852039166`, `0xa9fea9fe` and `169.254.43518`
    except (OSError, UnicodeError):
        return None


def _with_embedded(address: IPv4Address | IPv6Address) -> Iterable[IPv4Address | IPv6Address]:
    """Yield the address, and the IPv4 addresses embedded in an IPv6 address."""
    yield address
    if isinstance(address, IPv6Address):
        for inner in (address.ipv4_mapped, address.sixtofour):
            if inner is not None:
                yield inner
        if any(address in net for net in _NAT64) or not int(address) >> 32:
            yield IPv4Address(int(address) & 0xFFFFFFFF)


def resolve_redirect(url: URL, location: str) -> URL | None:
    """Return the target of a `Location` header of `url`, without login and fragment; None if it is not a URL."""
    try:
        target = url.join(URL(location)).with_fragment(None)
        return target.with_user(None) if target.host else target
    except (ValueError, TypeError):
        return None


class RedirectPolicy:
    """Decides which URLs a source may be redirected to.

    Args:
        config: with `allowed_hosts`, and the name for messages.
        origin: the server that the configuration names.
    """

    def __init__(self, config: DataSourceConfig, origin: URL) -> None:
        self._source = config.name
        self._origin = origin
        self._allowed = None if config.allowed_hosts is None else [each.lower() for each in config.allowed_hosts]

    def check(self, target: URL, path: str, before: URL | None = None) -> None:
        """Refuse a URL that may not be requested.

        Args:
            target: the URL.
            path: the object, for messages.
            before: the URL whose answer led there, if any.

        Raises:
            AccessDenied: for a scheme other than HTTP, `http` after `https`, a link-local address, and a host that
                `allowed_hosts` does not name.
        """
        host = (target.host or "").rstrip(".").lower()
        if target.scheme not in ("http", "https") or not host:
            raise self._refused(target, path, "which is not an HTTP URL; check the URL of the source")
        if before is not None and before.scheme == "https" and target.scheme == "http":
            raise self._refused(target, path, "from https to http, which is not followed; check the URL of the source")
        if target.origin() == self._origin:
            return
        if is_link_local(host):
            raise self._refused(
                target, path, "a link-local address or a cloud's metadata server, which is never contacted"
            )
        if self._allowed is not None and not any(fnmatchcase(host, each) for each in self._allowed):
            raise self._refused(target, path, "which allowed_hosts does not name; add it there if it may be contacted")

    def _refused(self, target: URL, path: str, why: str) -> AccessDenied:
        # Without its path and query, which may be secret.
        shown = f"{target.scheme}://{target.host}:{target.port}" if target.host else f"{target.scheme or 'no'} scheme"
        text = f"{path!r} of source {self._source!r} leads to {shown}, {why}"
        return AccessDenied(text, path=path, source=self._source)


class GuardedResolver(AbstractResolver):
    """Resolves host names, and refuses link-local addresses.

    Args:
        trusted: hosts in the configuration and the environment; any address is accepted for these.
    """

    def __init__(self, trusted: Iterable[str | None]) -> None:
        self._trusted = frozenset(trusted)
        self._resolver = DefaultResolver()

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if host not in self._trusted and any(is_link_local(each["host"]) for each in found):
            raise LinkLocalError(f"{host} resolves to a link-local address")
        return found

    async def close(self) -> None:
        await self._resolver.close()
