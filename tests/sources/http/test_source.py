"""Faults of web servers, with both engines: every response ends in the right bytes or the right error."""

from __future__ import annotations

import asyncio
import gzip
import pickle
import ssl
import subprocess
import threading
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from streaming.core.source_config import DataSourceConfig
from streaming.errors import (
    AccessDenied,
    BadRequest,
    ConfigError,
    ObjectChanged,
    ObjectNotFoundError,
    ObjectTooLargeError,
    SourceError,
    SourceTimeout,
    SourceUnavailable,
    TruncatedRead,
)
from streaming.sources import HTTPDataSource
from streaming.sources.status_codes import UnusableAnswer
from tests.conftest import WebServer
from tests.fault_server import Answer, FaultServer, Request, hang_up, never, reset, respond, trickle

BODY = bytes(range(200))
Make = Callable[..., HTTPDataSource]


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    """A server whose answers each test sets."""
    async with FaultServer() as server:
        yield server


@pytest.fixture(params=["obstore", "aiohttp"])
async def make(request: pytest.FixtureRequest, server: FaultServer) -> AsyncIterator[Make]:
    """Makes sources over the server's root that read by one engine, and closes them."""
    made: list[HTTPDataSource] = []

    def make(url: str = "", **options: Any) -> HTTPDataSource:
        options = {"engine": request.param, "timeout_s": 10, **options}
        made.append(HTTPDataSource(DataSourceConfig("web", "http", url or server.url, **options)))
        made[-1]._is_plain = True  # else the first read of each test would be for aiohttp
        return made[-1]

    yield make
    for source in made:
        await source.aclose()


STATUSES = [
    (304, BadRequest),
    (400, BadRequest),
    (401, AccessDenied),
    (403, AccessDenied),
    (404, ObjectNotFoundError),
    (407, AccessDenied),
    (408, SourceTimeout),
    (410, ObjectNotFoundError),
    (412, ObjectChanged),
    (416, UnusableAnswer),
    (418, BadRequest),
    (429, SourceUnavailable),
    (500, SourceUnavailable),
    (503, SourceUnavailable),
]


@pytest.mark.parametrize(("status", "kind"), STATUSES)
@pytest.mark.parametrize("end", [None, 10])
async def test_statuses(make: Make, server: FaultServer, status: int, kind: type[SourceError], end: int | None) -> None:
    """A status that is not a success raises one kind of error, naming path, source and status."""
    server.answers["/a.bin"] = respond(status)
    with pytest.raises(kind, match=rf"'a\.bin'|{status}") as caught:
        await make().read("a.bin", 0, end)
    assert type(caught.value) is kind
    assert (caught.value.path, caught.value.source) == ("a.bin", "web")
    assert str(status) in str(caught.value)
    assert caught.value.retryable == (kind in (SourceUnavailable, SourceTimeout))


async def test_one_request_for_one_read(make: Make, server: FaultServer) -> None:
    """A failing read is not repeated here: retrying is for a layer that knows how long to wait."""
    server.answers["/a.bin"] = respond(503)
    with pytest.raises(SourceUnavailable):
        await make().read("a.bin")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_followed(make: Make, server: FaultServer, status: int) -> None:
    """A redirect leads to the object; one that leads back to itself ends as a bad request."""
    server.answers["/a.bin"] = respond(status, Location="/b/real.bin")
    server.answers["/b/real.bin"] = respond(body=BODY, ETag='"e"')
    server.answers["/loop.bin"] = respond(status, Location="/loop.bin")
    blob = await make().read("a.bin")
    assert (bytes(blob.data), blob.etag) == (BODY, "e")
    with pytest.raises(BadRequest, match=r"loop\.bin.*redirected endlessly"):
        await make().read("loop.bin")


async def test_redirect_to_a_folder_is_not_an_object(make: Make, server: FaultServer) -> None:
    """A folder whose listing answers for it is missing as an object."""
    server.answers["/folder"] = respond(301, Location="/folder/")
    server.answers["/folder/"] = respond(body=b"Index of", length=None)
    with pytest.raises(ObjectNotFoundError, match="folder"):
        await make().read("folder")


async def test_length_that_is_too_long(make: Make, server: FaultServer) -> None:
    """A body that ends before its announced length is a truncated read, to be tried again."""
    server.answers["/a.bin"] = respond(body=BODY, length=1000)
    for end in (None, 500):
        with pytest.raises(TruncatedRead, match=r"a\.bin"):
            await make().read("a.bin", 0, end)


async def test_length_that_is_too_short(make: Make, server: FaultServer) -> None:
    """Bytes beyond the announced length are never taken for the object's (aiohttp refuses all), nor reach another."""
    server.answers["/a.bin"] = respond(body=BODY, length=50)
    server.answers["/b.bin"] = respond(body=b"next")
    source = make()
    try:
        assert bytes((await source.read("a.bin")).data) == BODY[:50]
    except SourceUnavailable:
        assert source.config.engine == "aiohttp"
    assert bytes((await source.read("b.bin")).data) == b"next"


@pytest.mark.parametrize("answer", [trickle(BODY, 0.05), never])
async def test_slow_answers_end_in_time(make: Make, server: FaultServer, answer: Answer) -> None:
    """A body that trickles, or an answer that never comes, ends after `timeout_s`."""
    server.answers["/a.bin"] = answer
    with pytest.raises(SourceTimeout, match=r"a\.bin.*0\.3 s.*timeout_s"):
        await make(timeout_s=0.3).read("a.bin")


@pytest.mark.parametrize(("answer", "kind"), [(hang_up, SourceUnavailable), (reset, TruncatedRead)])
async def test_connections_that_end_early(
    make: Make, server: FaultServer, answer: Answer, kind: type[SourceError]
) -> None:
    """An end without an answer is unavailable, an end within the body truncated; both may be tried again."""
    server.answers["/a.bin"] = answer
    with pytest.raises(kind, match=r"a\.bin") as caught:
        await make().read("a.bin")
    assert caught.value.retryable


async def test_answers_that_are_not_http(make: Make, server: FaultServer) -> None:
    """Bytes that are not an HTTP answer raise SourceUnavailable."""

    async def garbage(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n\r\n")

    server.answers["/a.bin"] = garbage
    with pytest.raises(SourceUnavailable, match=r"a\.bin"):
        await make().read("a.bin")


async def test_server_gone_between_listing_and_read(make: Make, server: FaultServer) -> None:
    """A server that stopped after it was listed is unavailable, worth a retry, and named."""
    server.answers["/"] = respond(body=b'Index of <a href="a.bin">a.bin</a>', Content_Type="text/html")
    source = make()
    assert await source.list_files() == ["a.bin"]
    await server.stop()
    for use in (source.read("a.bin"), source.list_files()):
        with pytest.raises(SourceUnavailable, match=r"source 'web'") as caught:
            await use
        assert caught.value.retryable


async def test_host_that_does_not_resolve(make: Make) -> None:
    """A host name without an address is unavailable."""
    with pytest.raises(SourceUnavailable, match="check host"):
        await make("http://nowhere.invalid/").read("a.bin")


@pytest.mark.parametrize("length", [-1, None])
@pytest.mark.parametrize(("start", "end"), [(0, 10), (5, 10), (150, None), (190, 500), (200, None), (0, 0), (7, 7)])
async def test_server_that_ignores_ranges(
    make: Make, server: FaultServer, start: int, end: int | None, length: int | None
) -> None:
    """A server that sends the whole object for a range, with or without its length, still gives the range."""
    server.answers["/a.bin"] = respond(body=BODY, length=length)
    blob = await make().read("a.bin", start, end)
    assert (bytes(blob.data), blob.size) == (BODY[start:end], len(BODY))


async def test_range_beyond_what_a_careless_server_has(make: Make, server: FaultServer) -> None:
    """Starting beyond the object is refused also where the server answers 200, or 416 without the size."""
    server.answers["/a.bin"] = respond(body=BODY)
    server.answers["/b.bin"] = respond(416)
    server.answers["/c.bin"] = respond(416, Content_Range="bytes */50")
    for path in ("a.bin", "b.bin", "c.bin"):
        with pytest.raises(BadRequest, match=path):
            await make().read(path, 300)
    assert (await make().read("c.bin", 50)).size == 50
    with pytest.raises(ObjectChanged):
        await make().read("c.bin", 10)


async def test_another_range_than_requested(make: Make, server: FaultServer) -> None:
    """A part other than the requested one is refused; a short part is a truncated read."""
    server.answers["/a.bin"] = respond(206, BODY[:10], Content_Range="bytes 0-9/200")
    with pytest.raises(BadRequest, match="another range"):
        await make().read("a.bin", 50, 60)
    for claimed in ("5-7", "5-9"):
        server.answers["/b.bin"] = respond(206, BODY[5:8], Content_Range=f"bytes {claimed}/200")
        with pytest.raises(TruncatedRead):
            await make().read("b.bin", 5, 10)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_encoded_bodies(make: Make, server: FaultServer, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    """No encoding is requested; bodies that a server compresses nevertheless are decompressed within limits."""
    server.answers["/a.bin"] = respond(body=pack(BODY), Content_Encoding=encoding)
    for start, end in ((0, None), (20, 30)):
        blob = await make().read("a.bin", start, end)
        assert (bytes(blob.data), blob.size) == (BODY[start:end], len(BODY))
    assert {request.headers["accept-encoding"] for request in server.requests} == {"identity"}
    with pytest.raises(BadRequest):
        await make().read("a.bin", 300)


async def test_hostile_encodings(make: Make, server: FaultServer) -> None:
    """A body that unpacks to too much, to nothing whole, or by an unknown method ends in an error."""
    server.answers["/bomb.bin"] = respond(body=gzip.compress(bytes(50_000_000)), Content_Encoding="gzip")
    server.answers["/cut.bin"] = respond(body=gzip.compress(BODY)[:-9], Content_Encoding="gzip")
    server.answers["/bad.bin"] = respond(body=b"no gzip", Content_Encoding="gzip")
    server.answers["/new.bin"] = respond(body=BODY, Content_Encoding="br")
    tracemalloc.start()
    with pytest.raises(ObjectTooLargeError, match=r"bomb\.bin"):
        await make(max_object_bytes=1_000_000).read("bomb.bin")
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    for path in ("cut.bin", "bad.bin"):
        with pytest.raises(TruncatedRead, match=path):
            await make().read(path)
    with pytest.raises(BadRequest, match="Content-Encoding 'br'"):
        await make().read("new.bin")


async def test_too_large_is_refused_before_the_body(make: Make, server: FaultServer) -> None:
    """An object beyond the limit is refused by its announced length, or when a body without one passes it."""
    server.answers["/announced.bin"] = respond(body=BODY, length=10**12)
    server.answers["/endless.bin"] = respond(body=bytes(2_000_000), length=None)
    source = make(max_object_bytes=1000)
    for path in ("announced.bin", "endless.bin"):
        with pytest.raises(ObjectTooLargeError, match=rf"{path}.*max_object_bytes=1000"):
            await source.read(path)
    server.answers["/part.bin"] = respond(206, BODY, Content_Range="bytes 0-199/1000000000000")
    assert (await source.read("part.bin", 0, 200)).size == 10**12


@pytest.mark.parametrize("path", ["a//b.bin", "./a.bin", "line\nbreak.bin", "not-utf8\udcff.bin"])
async def test_names_that_clients_normalise(make: Make, server: FaultServer, path: str) -> None:
    """Names that a client would change or refuse are read as they are, or are missing."""
    with pytest.raises(ObjectNotFoundError, match="does not exist"):
        await make().read(path)


async def test_logins(make: Make, server: FaultServer) -> None:
    """A token, a user with a password, those in the URL, and headers are sent, and never shown."""
    server.answers["/a.bin"] = respond(body=BODY)
    for options, expected in (
        ({"credentials": {"token": "secret-1"}}, "Bearer secret-1"),
        ({"credentials": {"username": "me", "password": "secret-1"}}, "Basic bWU6c2VjcmV0LTE="),
        ({"url": server.url.replace("//", "//me:secret-1@")}, "Basic bWU6c2VjcmV0LTE="),
        ({"storage_options": {"headers": {"Authorization": "Other secret-1"}}}, "Other secret-1"),
    ):
        source = make(**options)
        await source.read("a.bin")
        assert server.requests[-1].headers["authorization"] == expected
        server.answers["/b.bin"] = respond(403)
        with pytest.raises(AccessDenied) as caught:
            await source.read("b.bin")
        assert "secret-1" not in repr(source) + str(caught.value) + repr(source.config)
        async with pickle.loads(pickle.dumps(source)) as copy:
            assert (await copy.read("a.bin")).size == 200


async def test_logins_stay_with_their_host(make: Make, server: FaultServer) -> None:
    """A listed URL on another host gets no header that was meant for the root's."""
    async with FaultServer(**{"x.bin": respond(body=b"x")}) as other:
        source = make(credentials={"token": "secret-1"}, storage_options={"urls": [f"{other.url}x.bin"]})
        await source.read("x.bin")
        assert "authorization" not in other.requests[0].headers


async def test_query_goes_with_each_path(server: FaultServer) -> None:
    """A query in the root's URL, such as a signature, is added to each request, which selects aiohttp."""
    server.answers["/data/a%20b.bin?sig=secret%2B1"] = respond(body=BODY)
    config = DataSourceConfig("web", "http", f"{server.url}data?sig=secret%2B1")
    async with HTTPDataSource(config) as source:
        assert (await source.read("a b.bin")).size == 200
        assert "secret" not in repr(source)
    with pytest.raises(ConfigError, match="query"):
        HTTPDataSource(config.model_copy(update={"engine": "obstore"}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "curl"}, "engine 'curl'.*obstore"),
        ({"storage_options": {"url": []}}, "'url'.*did you mean 'urls'"),
        ({"storage_options": {"urls": [], "index": "x"}}, "keep one"),
        ({"credentials": {"user": "x", "password": "secret-1"}}, "token, or username and password"),
        ({"storage_options": {"urls": ["ftp://host/x"]}}, "not an HTTP URL"),
        ({"storage_options": {"urls": ["http://a/x.bin", "http://b/x.bin"]}}, r"two urls.*x\.bin"),
    ],
)
def test_settings_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    """A wrong engine, option, credential or list of URLs is refused when the source is made, without its secrets."""
    with pytest.raises(ConfigError, match=message) as caught:
        HTTPDataSource(DataSourceConfig("web", "http", "http://localhost/", **options))
    assert "secret-1" not in str(caught.value)


@pytest.mark.parametrize("engine", ["obstore", "aiohttp"])
async def test_each_loop_has_its_own_connections(nginx: WebServer, engine: str) -> None:
    """One source reads in several event loops side by side, and closing it in one closes all."""
    (nginx.root / "loops.bin").write_bytes(BODY)
    loops = [asyncio.new_event_loop() for _ in range(3)]
    threads = [threading.Thread(target=loop.run_forever) for loop in loops]
    for thread in threads:
        thread.start()
    async with HTTPDataSource(DataSourceConfig("web", "http", nginx.url, engine=engine)) as source:
        reads = [asyncio.run_coroutine_threadsafe(source.read("loops.bin"), loop) for loop in loops * 3]
        blobs = await asyncio.gather(source.read("loops.bin"), *map(asyncio.wrap_future, reads))
        assert [bytes(blob.data) for blob in blobs] == [BODY] * 10
    for loop, thread in zip(loops, threads, strict=True):
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.parametrize("engine", ["obstore", "aiohttp"])
def test_one_loop_after_another(python_server: WebServer, engine: str) -> None:
    """A source outlives the loops it was used in, and lets go of what they held."""
    (python_server.root / "a.bin").write_bytes(BODY)
    source = HTTPDataSource(DataSourceConfig("web", "http", python_server.url, engine=engine))
    for _ in range(3):
        assert asyncio.run(source.read("a.bin")).size == len(BODY)
        assert asyncio.run(source.list_files()) == ["a.bin"]
    asyncio.run(source.aclose())


async def test_a_refusal_says_its_status_and_when_to_come_back(server: FaultServer, make: Make) -> None:
    """What waits before another try reads both from the error; obstore keeps no headers of a refusal."""
    server.answers["/a.bin"] = respond(503, Retry_After="7")
    server.answers["/b.bin"] = respond(429, Retry_After="Mon, 01 Jan 2001 00:00:00 GMT")
    server.answers["/c.bin"] = respond(429, Retry_After="soon")
    source = make()
    errors = {}
    for name in "abc":
        with pytest.raises(SourceUnavailable) as caught:
            await source.read(f"{name}.bin")
        errors[name] = caught.value
    assert [error.status for error in errors.values()] == [503, 429, 429]
    waits = [error.retry_after_s for error in errors.values()]
    assert waits == ([None] * 3 if source.config.engine == "obstore" else [7, 0, None])


async def test_the_proxy_of_the_environment_is_used(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both engines send their requests to the proxy that HTTP_PROXY names, but for hosts in NO_PROXY."""
    server.answers["http://far.invalid/a.bin"] = respond(body=b"by proxy")
    server.answers["/a.bin"] = respond(body=b"direct")
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("http_proxy", server.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    for engine in ("obstore", "aiohttp"):
        for url, expected in (("http://far.invalid/", b"by proxy"), (server.url, b"direct")):
            async with HTTPDataSource(DataSourceConfig("far", "http", url, engine=engine)) as source:
                assert bytes((await source.read("a.bin")).data) == expected


async def test_a_server_without_tls_is_not_read_by_https(nginx: WebServer, make: Make) -> None:
    """A handshake that fails is a server that cannot be reached, not a missing object."""
    engine = make().config.engine
    url = nginx.url.replace("http://", "https://")
    async with HTTPDataSource(DataSourceConfig("web", "http", url, engine=engine)) as source:
        with pytest.raises(SourceUnavailable, match=r"a\.bin"):
            await source.read("a.bin")


@pytest.mark.parametrize("date", ["yesterday", "", "Mon, 99 Foo 2025 25:61:61 GMT", "-1"])
async def test_an_invalid_date_costs_nothing(make: Make, server: FaultServer, date: str) -> None:
    """An invalid Last-Modified neither fails a read nor causes repeated requests."""
    server.answers["/a.bin"] = respond(body=BODY, Last_Modified=date)
    server.answers["/b.bin"] = respond(body=BODY, Last_Modified=date)
    source = make()
    for path in ("a.bin", "b.bin"):
        assert bytes((await source.read(path)).data) == BODY
    assert len(server.requests) <= 3


def signed(kind: str, since: timedelta) -> str:
    """The query of a signed URL that was valid for a minute and ended so long ago."""
    ended = datetime.now(UTC) - since
    begun = (ended - timedelta(minutes=1)).strftime("%Y%m%dT%H%M%SZ")
    return {
        "S3": f"X-Amz-Date={begun}&X-Amz-Expires=60&X-Amz-Signature=secret-1",
        "GCS": f"X-Goog-Date={begun}&X-Goog-Expires=60&X-Goog-Signature=secret-1",
        "S3 before version 4": f"AWSAccessKeyId=x&Expires={int(ended.timestamp())}&Signature=secret-1",
        "CloudFront": f"Expires={int(ended.timestamp())}&Signature=secret-1&Key-Pair-Id=k",
        "Azure": f"se={ended.strftime('%Y-%m-%dT%H:%M:%SZ').replace(':', '%3A')}&sp=r&sig=secret-1",
    }[kind]


SIGNED = ["S3", "GCS", "S3 before version 4", "CloudFront", "Azure"]


@pytest.mark.parametrize("kind", SIGNED)
@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_signed_url_that_has_expired(server: FaultServer, kind: str, status: int) -> None:
    """The refusal names the moment the signature ended, and says to sign again; it speaks of no credentials."""
    query = signed(kind, timedelta(hours=2))
    server.answers[f"/a.bin?{query}"] = respond(status)
    given: tuple[tuple[str, dict[str, Any]], ...] = (
        (server.url, {"storage_options": {"urls": [f"{server.url}a.bin?{query}"]}}),
        (f"{server.url}?{query}", {}),
    )
    for url, options in given:
        async with HTTPDataSource(DataSourceConfig("web", "http", url, **options)) as source:
            with pytest.raises(AccessDenied, match=r"'a\.bin'.*signed URL.*expired.*20\d\d-.*sign") as caught:
                await source.read("a.bin")
            assert "credentials" not in str(caught.value)
            assert "secret-1" not in str(caught.value)
            assert caught.value.status == status


@pytest.mark.parametrize("kind", SIGNED)
async def test_a_signed_url_that_is_refused_before_its_time(server: FaultServer, kind: str) -> None:
    """It is not called expired: signature, clock or rights are wrong."""
    query = signed(kind, timedelta(hours=-2))
    server.answers[f"/a.bin?{query}"] = respond(403)
    options = {"urls": [f"{server.url}a.bin?{query}"]}
    async with HTTPDataSource(DataSourceConfig("web", "http", server.url, storage_options=options)) as source:
        with pytest.raises(AccessDenied, match=r"signed URL.*signature.*clock") as caught:
            await source.read("a.bin")
    assert "expired" not in str(caught.value)


@pytest.fixture(scope="module")
def untrusted(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """TLS with a self-signed certificate."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", "1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def test_why_a_server_cannot_be_reached(make: Make, untrusted: ssl.SSLContext) -> None:
    """A name that does not resolve, a port that refuses and a certificate that is not trusted each have their words."""
    tls = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=untrusted)
    for url, message in (
        ("http://nowhere.invalid/", "host name does not resolve"),
        ("http://127.0.0.1:1/", "connection was refused"),
        (f"https://127.0.0.1:{tls.sockets[0].getsockname()[1]}/", "certificate is not trusted"),
    ):
        with pytest.raises(SourceUnavailable, match=rf"'a\.bin' of source 'web'.*{message}.*check"):
            await make(url).read("a.bin")
    tls.close()
    await tls.wait_closed()


def only_proxy(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Let these be the only variables that name a proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy"])
async def test_all_proxy_is_used(server: FaultServer, make: Make, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without a proxy for the scheme, ALL_PROXY is used, except for hosts in NO_PROXY."""
    server.answers["http://far.invalid/a.bin"] = respond(body=b"by proxy")
    server.answers["/a.bin"] = respond(body=b"direct")
    only_proxy(monkeypatch, **{name: server.url, "no_proxy": "127.0.0.1"})
    assert bytes((await make("http://far.invalid/").read("a.bin")).data) == b"by proxy"
    assert bytes((await make().read("a.bin")).data) == b"direct"
    only_proxy(monkeypatch, **{name: "http://127.0.0.1:1", "http_proxy": server.url})
    assert bytes((await make("http://far.invalid/").read("a.bin")).data) == b"by proxy"


async def test_a_proxy_that_fails_is_named(server: FaultServer, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that is down, opens no tunnel, or needs a login is reported as such; its login is not
    shown."""
    server.answers["http://far.invalid/a.bin"] = respond(407)
    only_proxy(monkeypatch, http_proxy="http://me:secret-1@127.0.0.1:1")
    with pytest.raises(SourceUnavailable, match=r"proxy.*127\.0\.0\.1:1.*HTTP_PROXY") as caught:
        await make("http://far.invalid/").read("a.bin")
    assert "secret-1" not in str(caught.value)
    only_proxy(monkeypatch, https_proxy=server.url)
    with pytest.raises(SourceUnavailable, match=r"proxy .*HTTPS_PROXY"):
        await make("https://far.invalid/").read("a.bin")
    only_proxy(monkeypatch, http_proxy=server.url)
    with pytest.raises(AccessDenied, match=r"proxy .*login"):
        await make("http://far.invalid/").read("a.bin")


async def test_a_proxy_that_aiohttp_cannot_use_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SOCKS proxy is not passed over in silence."""
    only_proxy(monkeypatch, ALL_PROXY="socks5://127.0.0.1:1")
    async with HTTPDataSource(DataSourceConfig("web", "http", "http://far.invalid/", engine="aiohttp")) as source:
        with pytest.raises(ConfigError, match=r"ALL_PROXY names a SOCKS proxy.*NO_PROXY"):
            await source.read("a.bin")


async def test_an_invalid_retry_after_is_ignored(server: FaultServer) -> None:
    """An impossible date or a negative delay in Retry-After counts as a missing header."""
    for number, value in enumerate(("Mon, 99 Foo 2025 25:61:61 GMT", "Mon, 01 Jan 99999 00:00:00 GMT", "-5", "")):
        server.answers[f"/{number}.bin"] = respond(503, Retry_After=value)
        async with HTTPDataSource(DataSourceConfig("web", "http", server.url, engine="aiohttp")) as source:
            with pytest.raises(SourceUnavailable) as caught:
                await source.read(f"{number}.bin")
        assert caught.value.retry_after_s is None
