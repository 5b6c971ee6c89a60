"""GET requests by aiohttp for one source: headers, redirects, and one session per event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

import aiohttp
import yarl

from streaming.errors import SourceUnavailable
from streaming.sources.http.error_translation import translate_errors
from streaming.sources.http.response import range_header
from streaming.sources.per_loop import PerLoop
from streaming.sources.proxies import proxy_for, proxy_url
from streaming.sources.redirects import MAX_REDIRECTS, REDIRECTS, GuardedResolver, RedirectPolicy, resolve_redirect
from streaming.sources.status_codes import UnusableAnswer

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig

__all__ = ["AiohttpRequests"]


class AiohttpRequests:
    """Sends the requests of one source, and follows redirects where its policy allows them.

    Args:
        config: time limits, allowed hosts, and the name for messages.
        root: URL whose scheme, host and port `headers` are for.
        headers: sent there, and to no other server.

    Attributes:
        redirects: whether any answer so far was a redirect.
    """

    def __init__(self, config: DataSourceConfig, root: str, headers: Mapping[str, str]) -> None:
        self._source = config.name
        self._headers = dict(headers)
        self._origin = yarl.URL(root, encoded=True).origin()
        self._redirect_policy = RedirectPolicy(config, self._origin)
        self.redirects = False
        self._proxy = proxy_for(self._origin.scheme, self._origin.host or "")
        self._timeout = aiohttp.ClientTimeout(total=config.timeout_s, sock_connect=config.connect_timeout_s)
        self._sessions = PerLoop(self._source, self._new_session, aiohttp.ClientSession.close)

    @contextlib.asynccontextmanager
    async def _send(self, target: yarl.URL, extra: dict[str, str], path: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and follow redirects; `answer.history` has the answers on the way.

        Args:
            extra: headers in addition to those configured for the server.
        """
        began = asyncio.get_running_loop().time()
        session = self._sessions.current() or await self._sessions.open()
        if target.origin() != self._origin:
            self._redirect_policy.check(target, path)
        answer = await session.get(target, headers=self._headers_for(target, extra), allow_redirects=False)
        if answer.status in REDIRECTS:
            answer = await self._followed(answer, session, extra, path, began)
        async with answer:
            yield answer

    async def _followed(
        self,
        answer: aiohttp.ClientResponse,
        session: aiohttp.ClientSession,
        extra: dict[str, str],
        path: str,
        began: float,
    ) -> aiohttp.ClientResponse:
        """Follow redirects. Each server gets the headers configured for it, and no Referer."""
        self.redirects = True
        hops: list[aiohttp.ClientResponse] = []
        while answer.status in REDIRECTS and (location := answer.headers.get("Location")) is not None:
            async with answer:
                hops.append(answer)
            if len(hops) > MAX_REDIRECTS:
                text = f"{path!r} of source {self._source!r} is redirected endlessly; check the URL of the source"
                raise UnusableAnswer(text, path=path, source=self._source)
            target = resolve_redirect(answer.url, location)
            if target is None:
                text = f"{path!r} of source {self._source!r} is redirected to an invalid URL"
                raise SourceUnavailable(f"{text}; try again, then check its server", path=path, source=self._source)
            self._redirect_policy.check(target, path, answer.url)
            left = (self._timeout.total or 0.0) - (asyncio.get_running_loop().time() - began)
            timeout = aiohttp.ClientTimeout(total=max(left, 0.001), sock_connect=self._timeout.sock_connect)
            answer = await session.get(
                target, headers=self._headers_for(target, extra), allow_redirects=False, timeout=timeout
            )
        answer._history = tuple(hops)  # as aiohttp does when it follows redirects
        return answer

    async def is_redirected(self, url: str, path: str) -> bool:
        """Whether a request for one byte of the object at `url` is redirected."""
        target, headers = yarl.URL(url, encoded=True), {"Accept-Encoding": "identity", **range_header(0, 1)}
        with self._translate_errors(path):
            session = self._sessions.current() or await self._sessions.open()
            async with session.get(target, headers=headers, allow_redirects=False) as answer:
                return answer.status in REDIRECTS

    async def _new_session(self) -> aiohttp.ClientSession:
        proxy = proxy_url(self._proxy, self._source)
        resolver = GuardedResolver([self._origin.host, proxy and yarl.URL(proxy).host])
        return aiohttp.ClientSession(
            # No limit here: the caller decides how many requests are in flight.
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, resolver=resolver),
            timeout=self._timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=proxy,
        )

    def _headers_for(self, url: yarl.URL, extra: dict[str, str]) -> dict[str, str]:
        own = self._headers if url.origin() == self._origin else {}
        return {**own, "Accept-Encoding": "identity", **extra}

    def _translate_errors(self, path: str) -> contextlib.AbstractContextManager[None]:
        return translate_errors(path, self._source, self._timeout.total, self._proxy)
