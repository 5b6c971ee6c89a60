"""The metrics in an application of the user's: WSGI and ASGI."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from prometheus_client import CollectorRegistry

from streaming.monitoring.metrics import asgi_app, wsgi_app


def call(method: str = "GET", query: str = "", **headers: str) -> tuple[str, dict[str, str], bytes]:
    """Call the WSGI application, check it against the specification, and return its response."""
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "QUERY_STRING": query, **headers}
    setup_testing_defaults(environ)
    said: list[Any] = []
    answer = validator(wsgi_app(CollectorRegistry()))(environ, lambda *given: said.extend(given))  # type: ignore[arg-type]
    try:
        body = b"".join(answer)
    finally:
        answer.close()  # type: ignore[attr-defined]
    return said[0], dict(said[1]), body


def test_wsgi_gives_the_metrics() -> None:
    """The application keeps to WSGI and answers as the server does."""
    status, headers, body = call()
    assert status == "200 OK"
    assert headers["Content-Type"].startswith("text/plain")
    assert b"streaming_build_info{" in body
    status, headers, body = call(query="name[]=streaming_build_info", HTTP_ACCEPT_ENCODING="gzip")
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body).startswith(b"# HELP streaming_build_info")


def test_wsgi_refuses_other_methods() -> None:
    """POST is not allowed; the response to HEAD has no body."""
    assert call("POST")[0] == "405 Method Not Allowed"
    assert call("HEAD")[::2] == ("200 OK", b"")


async def asgi(scope: dict[str, Any]) -> list[dict[str, Any]]:
    """Call the ASGI application and return the messages that it sends."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await asgi_app(CollectorRegistry())(scope, receive, send)
    return sent


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("HEAD", 200), ("POST", 405)])
async def test_asgi_gives_the_metrics(method: str, status: int) -> None:
    """One start and one body, with the length of what GET gives."""
    scope = {"type": "http", "method": method, "query_string": b"", "headers": [(b"accept", b"text/plain")]}
    start, body = await asgi(scope)
    assert (start["type"], start["status"], body["type"]) == ("http.response.start", status, "http.response.body")
    assert (b"streaming_build_info{" in body["body"]) == (method == "GET")
    assert method == "HEAD" or dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()


async def test_asgi_leaves_other_protocols_alone() -> None:
    """A lifespan scope is not a request for metrics and gets no response."""
    assert await asgi({"type": "lifespan"}) == []


async def test_asgi_does_not_block_the_loop() -> None:
    """Other tasks keep running while the metrics are read, and the read may be cancelled."""
    scope = {"type": "http", "method": "GET", "query_string": b"", "headers": []}
    reading = asyncio.ensure_future(asgi(scope))
    await asyncio.sleep(0)
    assert not reading.done()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
