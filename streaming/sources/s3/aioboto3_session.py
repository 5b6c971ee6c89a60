"""The HTTP session of aioboto3's clients: it follows no redirect, and takes in little of a refusal.

aiobotocore's own session lets aiohttp follow, with the session token in a header of its own kind, which aiohttp sends
to any host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from yarl import URL

from streaming.sources.redirects import REDIRECTS
from streaming.sources.response_bodies import of_aiohttp

__all__ = ["DirectSession", "stay"]

_REGION = re.compile(r"[a-z0-9-]{1,40}")
MAX_REFUSAL_BYTES = 1_000_000  # S3 explains itself in under 1 kB of XML


class DirectSession(AIOHTTPSession):  # type: ignore[misc]  # aiobotocore has no types
    """A session of aiobotocore whose answers come from the server that was asked."""

    async def _get_session(self, proxy_url: str | None) -> Any:
        return _Direct(await super()._get_session(proxy_url))


def stay(response: Any, request_dict: dict[str, Any], **_: Any) -> None:
    """A handler of botocore's event `needs-retry.s3`, to be called first.

    Where an answer redirects and names the bucket's region, as Amazon's do, botocore asks there, once. Where it names
    none, botocore would ask the same server for the region, whose answer redirects too, and so on for ever.
    """
    if response is None or response[0].status_code not in REDIRECTS:
        return
    region = response[0].headers.get("x-amz-bucket-region") or response[1].get("Error", {}).get("Region")
    if not _REGION.fullmatch(region or ""):
        request_dict["context"].setdefault("s3_redirect", {})["redirected"] = True


class _Direct:
    """What aiobotocore uses of a session of aiohttp."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, method: str, url: URL, **settings: Any) -> aiohttp.ClientResponse | _Taken:
        answer = await self._session.request(method, url, allow_redirects=False, **settings)
        if answer.status < 300:
            return answer
        async with answer:
            body = await of_aiohttp(answer.content, MAX_REFUSAL_BYTES)
        if len(body) > MAX_REFUSAL_BYTES:
            raise aiohttp.ClientPayloadError(f"an answer of status {answer.status} passes {MAX_REFUSAL_BYTES} bytes")
        return _Taken(answer.url, answer.status, answer.headers, answer.raw_headers, body)


@dataclass(frozen=True, slots=True)
class _Taken:
    """What aiobotocore uses of an answer whose body is here."""

    url: URL
    status: int
    headers: Any
    raw_headers: Any
    body: bytes

    async def read(self) -> bytes:
        return self.body
