"""The proxy that the environment names."""

from __future__ import annotations

from urllib.request import getproxies, proxy_bypass

import yarl

__all__ = ["proxy_for"]


def proxy_for(origin: yarl.URL) -> str | None:
    """The proxy that the environment names for a server (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`), or None.

    Looked up once: aiohttp's own `trust_env` does so for each request, and reads netrc too.
    """
    return None if proxy_bypass(origin.host or "") else getproxies().get(origin.scheme)
