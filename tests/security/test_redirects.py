"""Redirects: configured headers and logins stay with their server, and some addresses are never contacted."""

from __future__ import annotations

import contextlib
import json
import socket
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Iterator
from typing import Any

import pytest
from yarl import URL

from streaming.core.source_config import DataSourceConfig
from streaming.errors import AccessDenied, SourceError, StreamingError
from streaming.sources import create_data_source
from streaming.sources.redirects import RedirectPolicy, is_link_local
from tests.security.engines import ENGINES, each_engine
from tests.security.hostile_server import HostileServer, Request, redirect, respond

SECRETS = {
    "X-Api-Key": "secret-1",
    "PRIVATE-TOKEN": "secret-2",
    "Authorization": "Bearer secret-3",
    "Cookie": "secret-4",
}
HTTP = ("http-obstore", "http-aiohttp")
STORES = ("s3-obstore", "s3-aioboto3", "gcs-obstore", "gcs-gcsfs")
BODY = b"from elsewhere"

ELSEWHERE = pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"], ids=["other-port", "other-host"])


@pytest.fixture
def other(host: str) -> Iterator[HostileServer]:
    """Another server than the one that is configured: at another port, or at another address."""
    with HostileServer(respond(200, body=BODY), host) as server:
        yield server


def said(server: HostileServer) -> str:
    """All that a server was sent, but where it was reached."""
    return json.dumps([[each.target, {**each.headers, "host": ""}] for each in server.requests])


@ELSEWHERE
@pytest.mark.parametrize("engine", HTTP)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_nothing_configured_goes_elsewhere(engine: str, status: int, other: HostileServer) -> None:
    """Headers, cookies and logins are not sent to another server, nor the path of the object as Referer."""
    with HostileServer(redirect(f"{other.url}x", status)) as home:
        source = ENGINES[engine](home.url, storage_options={"headers": SECRETS})
        async with source:
            for _ in range(3):
                assert bytes((await source.read("private/a.bin")).data) == BODY
    assert "secret-1" in said(home)
    assert len(other.requests) == 3
    for word in ("secret", "referer", "private", "cookie", "authorization"):
        assert word not in said(other)


@ELSEWHERE
@pytest.mark.parametrize("engine", HTTP)
async def test_server_that_redirects_later(engine: str, other: HostileServer) -> None:
    """A server that starts to redirect after direct answers is handled like one that always redirects."""
    with HostileServer(respond(200, body=b"honest")) as home:
        source = ENGINES[engine](home.url, storage_options={"headers": SECRETS})
        async with source:
            for _ in range(3):
                assert bytes((await source.read("private/a.bin")).data) == b"honest"
            home.answer = redirect(f"{other.url}x")
            for _ in range(3):
                assert bytes((await source.read("private/a.bin")).data) == BODY
    assert "secret" not in said(other)
    assert "private" not in said(other)


@pytest.mark.parametrize("host", ["127.0.0.2"])
@pytest.mark.parametrize("engine", HTTP)
async def test_server_without_secrets_that_redirects_later(engine: str, other: HostileServer) -> None:
    """The same without configured headers: the path of the object is not sent to other hosts."""
    with HostileServer(respond(200, body=b"honest")) as home:
        async with ENGINES[engine](home.url) as source:
            for _ in range(3):
                assert bytes((await source.read("private/a.bin")).data) == b"honest"
            home.answer = redirect(f"{other.url}x")
            for _ in range(3):
                assert bytes((await source.read("private/a.bin")).data) == BODY
    assert "private" not in said(other)


@ELSEWHERE
@pytest.mark.parametrize("engine", HTTP)
async def test_secrets_come_back_home(engine: str, other: HostileServer) -> None:
    """A redirect to the same server, and one that leads back to it, take along what is for it."""

    def answer(request: Request) -> Any:
        return redirect("/root/real.bin")(request) if "a.bin" in request.target else respond(200, body=b"ok")(request)

    with HostileServer(answer) as home:
        async with ENGINES[engine](home.url, storage_options={"headers": SECRETS}) as source:
            assert bytes((await source.read("a.bin")).data) == b"ok"
            other.answer = redirect(f"{home.url}root/real.bin")
            home.answer = lambda asked: (redirect(other.url) if "b.bin" in asked.target else answer)(asked)
            assert bytes((await source.read("b.bin")).data) == b"ok"
        assert all(each.headers["x-api-key"] == "secret-1" for each in home.requests)
    assert "secret" not in said(other)


@ELSEWHERE
@pytest.mark.parametrize("options", [{}, {"index": "index.txt"}], ids=["autoindex", "index"])
async def test_listings_keep_secrets(options: dict[str, str], other: HostileServer) -> None:
    """The same for listings and index files."""
    other.answer = respond(200, "Content-Type: text/html", body=b'Index of <a href="a.bin">a.bin</a>')
    with HostileServer(redirect(f"{other.url}root/")) as home:
        config = DataSourceConfig("web", "http", f"{home.url}root/", storage_options={"headers": SECRETS, **options})
        async with create_data_source(config) as source:
            await source.list_files()
    assert other.requests
    assert "secret" not in said(other)
    assert "referer" not in said(other)


@ELSEWHERE
async def test_the_hub_keeps_its_token(other: HostileServer) -> None:
    """Storage that the Hub sends us to, and its listings elsewhere, get no token."""
    other.answer = respond(200, "Content-Type: application/json", body=b"[]")
    with HostileServer(redirect(f"{other.url}x")) as home:
        async with ENGINES["hub"](home.url) as source:
            await source.read("private.bin")
            assert await source.list_files() == []
            next_page = f'Link: <{other.url}next>; rel="next"'
            home.answer = respond(200, "Content-Type: application/json", next_page, body=b"[]")
            assert await source.list_files() == []
    assert len(other.requests) == 3
    assert "hf_secret" in said(home)
    assert "secret" not in said(other)
    assert "private" not in said(other)


@ELSEWHERE
@pytest.mark.parametrize("engine", STORES)
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_redirect_off_a_store_is_followed(engine: str, status: int, host: str, other: HostileServer) -> None:
    """A redirect of a store is not followed; no session token is sent elsewhere, by reads, parts or listings."""
    # obstore cannot be kept from another port of its host. It takes no login there, and here is no other secret.
    is_followed = (engine, host) == ("gcs-obstore", "127.0.0.1")
    with HostileServer(redirect(f"{other.url}x", status)) as home:
        async with ENGINES[engine](home.url) as source:
            for range_ in ((), (5, 10), (5, 5)):
                with contextlib.suppress(SourceError) if is_followed else pytest.raises(SourceError, match=r"a\.bin"):
                    await source.read("a.bin", *range_)
            with pytest.raises(SourceError):
                await source.list_files()
        assert home.requests
    assert bool(other.requests) == is_followed
    assert "secret" not in said(other)


@pytest.mark.parametrize("region", ["eu-west-1", "x.example.org/", "%", ""])
@pytest.mark.parametrize("host", ["127.0.0.2"])
async def test_region_that_a_store_names(region: str, other: HostileServer) -> None:
    """A store that redirects repeatedly, with a region or garbage, gets a few requests, and no other server does."""
    with HostileServer(respond(301, f"x-amz-bucket-region: {region}", f"Location: {other.url}x")) as home:
        async with ENGINES["s3-aioboto3"](home.url) as source:
            with pytest.raises(SourceError, match=r"a\.bin"):
                await source.read("a.bin")
        assert 1 <= len(home.requests) <= 4
    assert other.requests == []


def test_https_does_not_become_http() -> None:
    """What came over TLS does not lead out of it; the other way is open."""
    config = DataSourceConfig("web", "http", "https://h.org/")
    reach = RedirectPolicy(config, URL("https://h.org"))
    for target in ("http://h.org/a", "http://cdn.org/a", "http://h.org:443/a"):
        with pytest.raises(AccessDenied, match=r"'a\.bin'.*from https to http"):
            reach.check(URL(target), "a.bin", URL("https://h.org/a.bin"))
    reach.check(URL("https://cdn.org/a"), "a.bin", URL("http://h.org/a.bin"))
    reach.check(URL("https://cdn.org/a"), "a.bin", URL("https://h.org/a.bin"))


LOCAL_LINKS = [
    "169.254.169.254",
    "169.254.0.1",
    "[fe80::1]",
    "[::ffff:169.254.169.254]",
    "[::169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:a9fe:a9fe::1]",
    "[fd00:ec2::254]",
    "100.100.100.200",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "169.254.43518",
]


@pytest.mark.parametrize("address", LOCAL_LINKS)
async def test_addresses_of_the_local_link(address: str) -> None:
    """Where a cloud keeps the credentials of its machines no redirect leads, however it is written."""
    assert is_link_local(address)
    with HostileServer(redirect(f"http://{address}/latest/meta-data/")) as home:
        async with ENGINES["http-aiohttp"](home.url) as source:
            with pytest.raises(AccessDenied, match=r"'a\.bin'.*never contacted"):
                await source.read("a.bin")


@pytest.mark.parametrize("address", ["8.8.8.8", "127.0.0.1", "10.0.0.1", "[2001:db8::1]", "example.org", "", "[::1]"])
def test_other_addresses_may_be_contacted(address: str) -> None:
    """Only link-local addresses and metadata servers are refused by default."""
    assert not is_link_local(address)


@each_engine
async def test_no_engine_follows_to_the_local_link(engine: str, connected: list[str]) -> None:
    """No engine so much as connects there."""
    with HostileServer(redirect("http://169.254.169.254/latest/")) as home:
        async with ENGINES[engine](home.url, timeout_s=5) as source:
            with pytest.raises(SourceError, match=r"'a\.bin'"):
                await source.read("a.bin")
            with pytest.raises(StreamingError):
                await source.list_files()
    assert not [each for each in connected if each.startswith("169.254.")]


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that sockets of Python were connected to."""
    seen: list[str] = []
    original = BaseSelectorEventLoop.sock_connect

    async def sock_connect(self: Any, sock: socket.socket, address: Any) -> None:
        seen.append(str(address[0]))
        await original(self, sock, address)

    monkeypatch.setattr(BaseSelectorEventLoop, "sock_connect", sock_connect)
    return seen


async def test_names_of_the_local_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host name does not bypass the check."""
    original = socket.getaddrinfo

    def resolve(host: str, port: int, *settings: Any, **more: Any) -> Any:
        return original("169.254.169.254" if host == "metadata.example.org" else host, port, *settings, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with HostileServer(redirect("http://metadata.example.org/latest/")) as home:
        async with ENGINES["http-aiohttp"](home.url) as source:
            with pytest.raises(AccessDenied, match=r"'a\.bin'.*never contacted"):
                await source.read("a.bin")


async def test_listed_urls_of_the_local_link() -> None:
    """A list of URLs may have come from anywhere."""
    options = {"urls": ["http://169.254.169.254/latest/a.bin"]}
    async with create_data_source(
        DataSourceConfig("web", "http", "http://127.0.0.1:9/", storage_options=options)
    ) as web:
        with pytest.raises(AccessDenied, match="never contacted"):
            await web.read("latest/a.bin")


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://127.0.0.1/a", "mailto:a@example.org", "http://", "http://[::1", "//", "gopher:x"],
)
@pytest.mark.parametrize("engine", [*HTTP, "hub"])
async def test_redirects_to_other_schemes(engine: str, url: str) -> None:
    """Other schemes and broken URLs are refused by an error of ours."""
    with HostileServer(redirect(url)) as home:
        async with ENGINES[engine](home.url) as source:
            with pytest.raises(SourceError, match=r"'a\.bin'"):
                await source.read("a.bin")


@pytest.mark.parametrize("host", ["127.0.0.2"])
@pytest.mark.parametrize("engine", [*HTTP, "hub"])
async def test_allowed_hosts(engine: str, other: HostileServer) -> None:
    """With `allowed_hosts` no other host is contacted; the configured one always is."""
    with HostileServer(redirect(f"{other.url}x")) as home:
        for allowed, is_followed in (
            ([], False),
            (["10.*", "example.org"], False),
            (["127.0.0.2"], True),
            (["127.*"], True),
        ):
            async with ENGINES[engine](home.url, allowed_hosts=allowed) as source:
                before = len(other.requests)
                if is_followed:
                    assert bytes((await source.read("a.bin")).data) == BODY
                else:
                    with pytest.raises(AccessDenied, match=r"'a\.bin'.*127\.0\.0\.2.*allowed_hosts"):
                        await source.read("a.bin")
                assert (len(other.requests) > before) == is_followed


@pytest.mark.parametrize("host", ["127.0.0.2"])
async def test_allowed_hosts_bound_listed_urls(other: HostileServer) -> None:
    """URLs in a list are bound by it too."""
    config = DataSourceConfig(
        "web", "http", "http://127.0.0.1:9/", storage_options={"urls": [f"{other.url}a.bin"]}, allowed_hosts=["x.org"]
    )
    async with create_data_source(config) as source:
        with pytest.raises(AccessDenied, match="allowed_hosts"):
            await source.read("a.bin")
    assert other.requests == []


def test_allowed_hosts_is_a_list() -> None:
    """One host may be written without a list."""
    assert DataSourceConfig("web", "http", "http://h/", allowed_hosts="*.example.org").allowed_hosts == (
        "*.example.org",
    )
