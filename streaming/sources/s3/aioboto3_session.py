"""The HTTP session of aioboto3's clients. It follows no redirects and limits the size of error bodies.

aiobotocore lets aiohttp follow redirects, and aiohttp sends the header with the session token to any host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from yarl import URL

from streaming.sources.redirects import REDIRECTS
from streaming.sources.response_bodies import read_aiohttp_body

__all__ = ["NoRedirectSession", "stop_redirect_loop"]

_REGION = re.compile(r"[a-z0-9-]{1,40}")
MAX_REFUSAL_BYTES = 1_000_000  # an error of S3 has under 1 kB of XML


class NoRedirectSession(AIOHTTPSession):  # type: ignore[misc]  # aiobotocore has no types
    """A session of aiobotocore that does not follow redirects."""

    async def _get_session(self, proxy_url: str | None) -> Any:
        return _NoRedirects(await super()._get_session(proxy_url))


def stop_redirect_loop(response: Any, request_dict: dict[str, Any], **_: Any) -> None:
    """Handle botocore's event `needs-retry.s3`, before botocore's own handlers.

    If a redirect names the bucket's region, as Amazon's does, botocore retries there once. If it names none, botocore
    would ask the same server for the region, be redirected again, and never stop.
    """
    if response is None or response[0].status_code not in REDIRECTS:
        return
    region = response[0].headers.get("x-amz-bucket-region") or response[1].get("Error", {}).get("Region")
    if not _REGION.fullmatch(region or ""):
        request_dict["context"].setdefault("s3_redirect", {})["redirected"] = True


class _NoRedirects:
    """The part of an aiohttp session that aiobotocore uses."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, method: str, url: URL, **settings: Any) -> aiohttp.ClientResponse | _BufferedResponse:
        answer = await self._session.request(method, url, allow_redirects=False, **settings)
        if answer.status < 300:
            return answer
        async with answer:
            body = await read_aiohttp_body(answer.content, MAX_REFUSAL_BYTES)
        if len(body) > MAX_REFUSAL_BYTES:
            raise aiohttp.ClientPayloadError(f"an answer of status {answer.status} exceeds {MAX_REFUSAL_BYTES} bytes")
        return _BufferedResponse(answer.url, answer.status, answer.headers, answer.raw_headers, body)


@dataclass(frozen=True, slots=True)
class _BufferedResponse:
    """The part of an aiohttp response that aiobotocore uses, with its body read."""

    url: URL
    status: int
    headers: Any
    raw_headers: Any
    body: bytes

    async def read(self) -> bytes:
        return self.body
