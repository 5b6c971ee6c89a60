"""Logins and failures of GCS by both engines: what is sent, what a refusal means, and that no secret is shown."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import subprocess
import sys
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from streaming.core.runtime import Runtime
from streaming.core.source_config import DataSourceConfig
from streaming.errors import (
    AccessDenied,
    BadRequest,
    ConfigError,
    ObjectNotFoundError,
    SourceTimeout,
    SourceUnavailable,
    StreamingError,
    TruncatedRead,
)
from streaming.sources import GCSDataSource
from tests.fault_server import Answer, FaultServer, Request, hang_up, never, reset, respond

EMAIL = "reader@project.iam.gserviceaccount.com"
HEADERS: dict[str, Any] = {"ETag": '"1"', "Last_Modified": "Sat, 21 Nov 2026 08:00:00 GMT", "X_Goog_Generation": "7"}
FOUND = respond(body=b"x", **HEADERS)


@pytest.fixture(params=["obstore", "gcsfs"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def private_key() -> str:
    """An RSA key as service accounts have."""
    key = generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    """A server with object `x` of bucket `b`, that also hands out tokens for service accounts and for its machine."""
    async with FaultServer() as server:
        answer_with(server, FOUND)
        token = respond(body=json.dumps({"access_token": "machine-token", "expires_in": 3600}).encode())
        server.answers["/token"] = respond(
            body=json.dumps({"access_token": "account-token", "expires_in": 3600, "token_type": "Bearer"}).encode(),
            Content_Type="application/json",
        )
        server.answers["/computeMetadata/v1/instance/service-accounts/default/token"] = token
        yield server


def answer_with(server: FaultServer, answer: Answer) -> None:
    """Let both engines' requests for object `x` be answered so."""
    server.answers["/b/x"] = server.answers["/storage/v1/b/b/o/x?alt=media"] = answer


def account(server: FaultServer, private_key: str, email: str = EMAIL) -> dict[str, str]:
    """A service account whose tokens come from `server`."""
    names = {"type": "service_account", "client_email": email, "private_key_id": "1", "private_key": private_key}
    return {**names, "token_uri": f"{server.url}token", "client_id": "2", "project_id": "p"}


def make(server: FaultServer, engine: str, settings: dict[str, Any] | None = None, **options: Any) -> GCSDataSource:
    """A source over bucket `b` of the server."""
    options = {"endpoint_url": server.url, **options}
    config = DataSourceConfig("cloud", "gcs", "gs://b", engine=engine, storage_options=options, **(settings or {}))
    return GCSDataSource(config)


def logins_of(server: FaultServer) -> list[str | None]:
    """The login of the request: the account's email, a plain token, or None."""
    found = []
    for request in server.requests:
        if "token" not in request.target:
            login = request.headers.get("authorization", "").removeprefix("Bearer ")
            if login.count(".") == 2:  # a token that the client made and signed itself
                body = login.split(".")[1]
                login = json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4)))["iss"]
            found.append(login or None)
    return found


@pytest.mark.parametrize("way", ["credentials file", "credentials json", "token path", "token dict", "environment"])
async def test_a_service_account_logs_in(
    server: FaultServer,
    engine: str,
    private_key: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    way: str,
) -> None:
    """Given in any way, the account is used, before one that the environment names, and its key is never shown."""
    given, other = account(server, private_key), account(server, private_key, "other@project")
    file, others_file = tmp_path / "key.json", tmp_path / "other.json"
    file.write_text(json.dumps(given))
    others_file.write_text(json.dumps(other))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(others_file))
    settings: dict[str, Any] = {}
    options: dict[str, Any] = {}
    if way == "environment":
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        options["token"] = "google_default"
    elif way == "credentials file":
        settings["credentials"] = {"service_account_file": str(file)}
    elif way == "credentials json":
        settings["credentials"] = {"service_account_json": json.dumps(given)}
    else:
        options["token"] = str(file) if way == "token path" else given
    caplog.set_level(logging.DEBUG)
    async with make(server, engine, settings, **options) as source, pickle.loads(pickle.dumps(source)) as copy:
        for each in (source, copy):
            assert bytes((await each.read("x")).data) == b"x"
        answer_with(server, respond(403))
        with pytest.raises(AccessDenied) as caught:
            await source.read("x")
    assert logins_of(server) == ["account-token" if engine == "gcsfs" else EMAIL] * 3
    secret = private_key.splitlines()[3]
    shown = [repr(source), repr(source.config), str(source.config), repr(vars(source)), str(caught.value), caplog.text]
    assert not any(secret in text for text in shown)


async def test_an_access_token_is_sent_as_it_is(server: FaultServer, engine: str) -> None:
    """A token is sent with each request, is not verified first, and is never shown."""
    tokens: tuple[dict[str, Any], ...] = ({"credentials": {"token": "s3cret"}}, {"token": "ya29.s3cret"})
    for number, given in enumerate(tokens):
        settings = given if number == 0 else {}
        async with make(server, engine, settings, **({} if number == 0 else given)) as source:
            assert (await source.read("x")).version == "7"
            assert "s3cret" not in repr(source) + repr(source.config) + repr(vars(source))
    assert logins_of(server) == ["s3cret", "ya29.s3cret"]


async def test_an_anonymous_source_sends_no_login(
    server: FaultServer, engine: str, private_key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anonymous reads send no login, and an ambient login is never sent without TLS."""
    (tmp_path / "key.json").write_text(json.dumps(account(server, private_key)))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    for options in ({"token": "anon"}, {"anon": True}, {}):
        async with make(server, engine, **options) as source:
            assert (await source.read("x")).size == 1
    assert logins_of(server) == [None, None, None]


MACHINE = """
import asyncio, sys
from streaming.core.source_config import DataSourceConfig
from streaming.sources import GCSDataSource

async def main():
    url, engine = sys.argv[1:]
    options = {"endpoint_url": url, "token": "cloud"}
    async with GCSDataSource(DataSourceConfig("c", "gcs", "b", engine=engine, storage_options=options)) as source:
        print((await source.read("x")).size)

asyncio.run(main())
"""


async def test_the_account_of_the_machine(server: FaultServer, engine: str) -> None:
    """`token="cloud"` asks the machine's own server for a token, also where a variable names another login."""
    info = json.dumps({"email": EMAIL, "scopes": [], "aliases": ["default"]}).encode()
    for query in ("", "?recursive=true", "?recursive=True"):
        path = f"/computeMetadata/v1/instance/service-accounts/default/{query}"
        server.answers[path] = respond(body=info, Content_Type="application/json", Metadata_Flavor="Google")
    token = respond(
        body=json.dumps({"access_token": "machine-token", "expires_in": 3600}).encode(),
        Content_Type="application/json",
        Metadata_Flavor="Google",
    )
    scopes = "?scopes=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fdevstorage.read_only"
    for query in ("", scopes):
        server.answers[f"/computeMetadata/v1/instance/service-accounts/default/token{query}"] = token
    host = server.url.removeprefix("http://").rstrip("/")
    environment = {**os.environ, "GCE_METADATA_HOST": host, "GOOGLE_APPLICATION_CREDENTIALS": "/no/such/file"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MACHINE, server.url, engine, env=environment, stdout=subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out == b"1\n", [request.target for request in server.requests]
    assert [each.headers.get("authorization") for each in server.requests][-1] == "Bearer machine-token"


async def test_the_paying_project_is_sent(server: FaultServer, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `requester_pays` the project goes along: named there, in `project`, or by `GOOGLE_CLOUD_PROJECT`."""
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "from-environment")
    given: list[dict[str, Any]] = [{}, {"project": "given"}]
    for options in ({"requester_pays": "named"}, *({**each, "requester_pays": True} for each in given), {}):
        project = str(options.get("project", "from-environment" if options else ""))
        project = "named" if options.get("requester_pays") == "named" else project
        if project:
            server.answers[f"/storage/v1/b/b/o/x?alt=media&userProject={project}"] = FOUND
        async with make(server, engine, **options) as source:
            await source.read("x")
        sent = server.requests[-1]
        message = sent.headers.get("x-goog-user-project") or sent.target.partition("userProject=")[2]
        assert message == project


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (401, AccessDenied, "401 .* credentials"),
        (403, AccessDenied, "403 .* credentials"),
        (404, ObjectNotFoundError, "does not exist"),
        (408, SourceTimeout, "try again"),
        (429, SourceUnavailable, "fewer requests"),
        (500, SourceUnavailable, "try again"),
        (503, SourceUnavailable, "try again"),
    ],
)
async def test_refusals(
    server: FaultServer, engine: str, status: int, kind: type[StreamingError], message: str
) -> None:
    """Each status raises its own kind of error, naming object and source, after one request."""
    answer_with(server, respond(status, b"no"))
    async with make(server, engine) as source:
        with pytest.raises(kind, match=message) as caught:
            await source.read("x")
    assert type(caught.value) is kind
    assert "'x'" in str(caught.value)
    assert "'cloud'" in str(caught.value)
    assert caught.value.retryable == (kind in (SourceTimeout, SourceUnavailable))
    assert len(server.requests) == 1


async def stall_in_body(request: Request, writer: asyncio.StreamWriter) -> None:
    """Send a part of the body and no more."""
    await respond(body=b"x" * 10, length=1000, **HEADERS)(request, writer)
    await never(request, writer)


@pytest.mark.parametrize(
    ("answer", "timeout_s", "kinds"),
    [
        (never, 0.5, (SourceTimeout,)),
        (stall_in_body, 0.5, (SourceTimeout,)),
        (reset, 60, (TruncatedRead, SourceUnavailable)),
        (hang_up, 60, (SourceUnavailable, TruncatedRead)),
        (respond(body=b"x" * 10, length=1000, **HEADERS), 60, (TruncatedRead,)),
    ],
)
async def test_failures_on_the_way(
    server: FaultServer, engine: str, answer: Answer, timeout_s: float, kinds: tuple[type[StreamingError], ...]
) -> None:
    """A server that is silent, slow, or ends early is an error worth a retry."""
    answer_with(server, answer)
    async with make(server, engine, {"timeout_s": timeout_s}) as source:
        with pytest.raises(kinds, match="'x' of source 'cloud'") as caught:
            await source.read("x")
        assert caught.value.retryable


async def test_a_server_that_is_down(engine: str) -> None:
    """A refused connection makes reads and listings fail with SourceUnavailable."""
    async with FaultServer() as server:
        pass
    async with make(server, engine) as source:
        for use in (source.read("x"), source.list_files()):
            with pytest.raises(SourceUnavailable, match=r"'cloud' cannot be reached|of source 'cloud'"):
                await use


async def test_names_that_are_not_utf_8(server: FaultServer) -> None:
    """A name that cannot be written in UTF-8 does not exist in GCS."""
    async with make(server, "gcsfs") as source:
        with pytest.raises(ObjectNotFoundError, match="valid UTF-8"):
            await source.read("\udcff.bin")
    assert not server.requests


async def test_answers_without_a_range_or_a_size(server: FaultServer) -> None:
    """The gcsfs engine refuses an answer with another range or without a length."""
    async with make(server, "gcsfs") as source:
        with pytest.raises(BadRequest, match="sent another range of 'x'"):
            await source.read("x", 0, 1)
        answer_with(server, respond(body=b"x", length=None, **HEADERS))
        with pytest.raises(BadRequest, match="does not give the size of 'x'"):
            await source.read("x")


async def test_a_read_is_cancelled_at_once(server: FaultServer, engine: str) -> None:
    """Cancelling a read that waits for its answer ends it, and the next read is served."""
    asked = asyncio.Event()

    async def never_answer(request: Request, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await never(request, writer)

    answer_with(server, never_answer)
    async with make(server, engine) as source:
        read = asyncio.ensure_future(source.read("x"))
        await asyncio.wait_for(asked.wait(), 10)
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read
        answer_with(server, FOUND)
        assert (await source.read("x")).size == 1


def test_one_loop_after_another(engine: str) -> None:
    """A source outlives the loops it was used in, and lets go of what they held."""
    runtime = Runtime()
    try:
        server = runtime.run(FaultServer().__aenter__())
        answer_with(server, FOUND)
        source = make(server, engine)
        for _ in range(3):
            assert asyncio.run(source.read("x")).size == 1
        asyncio.run(source.aclose())
        runtime.run(server.stop())
    finally:
        runtime.close()


async def test_a_refused_account_is_a_refused_login(server: FaultServer, private_key: str) -> None:
    """Where Google's server of tokens refuses the account, a read by gcsfs says so; where it is away, to try again."""
    credentials = {"service_account_json": json.dumps(account(server, private_key))}
    server.answers["/token"] = respond(400, b'{"error": "invalid_grant"}', Content_Type="application/json")
    async with make(server, "gcsfs", {"credentials": credentials}) as source:
        with pytest.raises(AccessDenied, match="the login of source 'cloud' for 'x' was refused"):
            await source.read("x")
    gone = {**account(server, private_key), "token_uri": "http://127.0.0.1:9/token"}
    async with make(server, "gcsfs", {"credentials": {"service_account_json": json.dumps(gone)}}) as source:
        with pytest.raises(SourceUnavailable, match="cannot be reached"):
            await source.read("x")


async def test_an_invalid_key_file(server: FaultServer, engine: str, tmp_path: Path) -> None:
    """A file that is missing or damaged is refused at the first read, without showing its content."""
    file = tmp_path / "key.json"
    for content in (None, "s3cret", '["s3cret"]', '{"private_key": "s3cret"}'):
        if content is not None:
            file.write_text(content)
        async with make(server, engine, {"credentials": {"service_account_file": str(file)}}) as source:
            with pytest.raises(ConfigError, match=r"key\.json' of source 'cloud'") as caught:
                await source.read("x")
            assert "s3cret" not in str(caught.value)
    credentials = {"service_account_json": json.dumps(account(server, "s3cret"))}
    async with make(server, engine, {"credentials": credentials}) as source:
        with pytest.raises(ConfigError, match="credentials of source 'cloud' cannot be used") as caught:
            await source.read("x")
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path_or_uri": "gs://"}, "names no bucket"),
        ({"path_or_uri": "s3://b/x"}, "names no bucket"),
        ({"path_or_uri": "gs://b/../x"}, "root of source 'cloud'"),
        ({"engine": "gcsf"}, "did you mean 'gcsfs'"),
        ({"storage_options": {"tokn": "s3cret"}}, "did you mean 'token'"),
        ({"storage_options": {"token": "s3cret"}}, "must be one of anon, cloud, google_default"),
        ({"storage_options": {"token": 5}}, "must be one of anon, cloud, google_default"),
        ({"storage_options": {"token": {"private_key": "s3cret"}}}, "has no 'client_email'"),
        ({"storage_options": {"anon": "maybe"}}, "anon='maybe'"),
        ({"storage_options": {"endpoint_url": "ftp://x"}}, "not an HTTP URL"),
        ({"storage_options": {"requester_pays": True}}, "set project"),
        ({"storage_options": {"anon": True, "token": "cloud"}}, "more than one"),
        ({"credentials": {"token": "s3cret"}, "storage_options": {"anon": True}}, "more than one"),
        ({"credentials": {"tokens": "s3cret"}}, "did you mean 'token'"),
        ({"credentials": {"service_account_json": "s3cret"}}, "not a JSON object"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are refused when the source is made, with the nearest name that is known and without any secret."""
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    config = DataSourceConfig(**{"name": "cloud", "source_type": "gcs", "path_or_uri": "gs://b", **settings})
    with pytest.raises(ConfigError, match=message) as caught:
        GCSDataSource(config)
    assert "s3cret" not in str(caught.value)


async def test_logins_that_obstore_cannot_distinguish(
    server: FaultServer, private_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """obstore's own variable next to a configured login, and a user's login as text, are refused with the next step."""
    user = {"type": "authorized_user", "client_id": "1", "client_secret": "2", "refresh_token": "3"}
    async with make(server, "obstore", {"credentials": {"service_account_json": json.dumps(user)}}) as source:
        with pytest.raises(ConfigError, match=r"'authorized_user' .* engine to 'gcsfs'"):
            await source.read("x")
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", "/elsewhere.json")
    async with make(server, "obstore", {}, token=account(server, private_key)) as source:
        with pytest.raises(ConfigError, match="GOOGLE_SERVICE_ACCOUNT; unset that"):
            await source.read("x")
