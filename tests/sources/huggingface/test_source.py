"""Repositories of the Hub: pinned to a commit, refused for each reason, read through redirects, offline."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import zstandard

from streaming.adapter import StreamingDatasetAdapter
from streaming.core.source_config import DataSourceConfig
from streaming.errors import (
    AccessDenied,
    BadRequest,
    ClosedError,
    ConfigError,
    ObjectChanged,
    ObjectNotFoundError,
    SourceTimeout,
    SourceUnavailable,
)
from streaming.sources import HuggingFaceDataSource, create_data_source
from streaming.sources.base import DataSource
from tests.contracts.source import CONTENT, NO_FILE_NAME, Place, SourceContract, listed
from tests.fault_server import Answer, FaultServer, Request, in_turn, never, respond
from tests.sources.hub_server import Hub, running_hub

COMMIT = "c0ffee" * 6 + "0000"
SHA256 = "5" * 64
ASK_COMMIT = "/api/datasets/org/data/revision/main?expand=sha"
TREE = f"/api/datasets/org/data/tree/{COMMIT}?recursive=true&expand=false"
FILE = f"/datasets/org/data/resolve/{COMMIT}/a.bin"
PINNED = respond(200, json.dumps({"sha": COMMIT}).encode())


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The stand-in of the Hub."""
    with running_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the Hub in the environment."""
    for name in ("HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def repo(tmp_path: Path) -> str:
    """The name of a repository that no other test uses."""
    return f"test/{re.sub('[^A-Za-z0-9]+', '-', tmp_path.name)}"


@pytest.fixture
async def raw() -> AsyncIterator[FaultServer]:
    """A Hub of raw answers, which knows the commit of `main`."""
    async with FaultServer() as server:
        server.answers[ASK_COMMIT] = PINNED
        yield server


def over(endpoint: str | None, root: str = "org/data", /, **options: Any) -> HuggingFaceDataSource:
    """A source over a repository of the Hub at `endpoint`, without a token unless the options say so."""
    config = {name: options.pop(name) for name in ("credentials", "timeout_s", "engine") if name in options}
    given = {"endpoint": endpoint, **options} if endpoint else options
    if "credentials" not in config:
        given.setdefault("token", False)
    return HuggingFaceDataSource(DataSourceConfig("hub", "huggingface", root, storage_options=given, **config))


class TestContract(SourceContract):
    """A data set of the stand-in; what comes after the first use is another commit, which pinning keeps out."""

    cannot_hold: ClassVar = {  # git has no such names either
        **NO_FILE_NAME,
        **dict.fromkeys(("newline", "carriage_return"), "the stand-in takes it for the end of a line"),
    }

    @pytest.fixture
    def place(self, hub: Hub, repo: str) -> Place:
        """One commit for each object."""
        placed: dict[str, bytes | None] = {}

        def place(path: str, data: bytes | None) -> None:
            if path not in placed or placed[path] != data:
                hub.commit(repo, {path: data})
                placed[path] = data

        return place

    @pytest.fixture
    async def source(self, hub: Hub, repo: str) -> AsyncIterator[DataSource]:
        """A source over the repository."""
        async with over(hub.url, repo) as source:
            yield source

    async def test_the_etag_changes_with_the_object(self, source: DataSource, place: Place) -> None:
        """An ETag stays, in parts and in listings; a new commit is not seen until a new source, with another ETag."""
        place("a.bin", CONTENT)
        first = await source.read("a.bin")
        assert first.etag is not None
        assert (await source.read("a.bin", 3, 7)).etag == first.etag
        assert (await listed(source))[0].etag == first.etag
        place("a.bin", CONTENT + b"more")
        assert await source.read("a.bin") == first
        async with HuggingFaceDataSource(source.config) as fresh:
            changed = await fresh.read("a.bin")
        assert (bytes(changed.data), changed.size) == (CONTENT + b"more", len(CONTENT) + 4)
        assert changed.etag not in (first.etag, None)

    async def test_fetch_file_uses_the_compressed_object_if_only_that_exists(
        self, source: DataSource, place: Place
    ) -> None:
        """`x.json` comes from `x.json.zst` unless `x.json` exists, and at this commit it does not."""
        place("x.json.zst", zstandard.compress(b'"compressed"'))
        assert await source.fetch_file("x.json") == "compressed"
        place("x.json", b'"plain"')
        assert await source.fetch_file("x.json") == "compressed"
        async with HuggingFaceDataSource(source.config) as fresh:
            assert await fresh.fetch_file("x.json") == "plain"
        with pytest.raises(ObjectNotFoundError, match=r"'y\.json'"):
            await source.fetch_file("y.json")


async def test_branch_that_moves_is_read_at_its_first_commit(hub: Hub, repo: str) -> None:
    """After the first use a moved branch changes neither reads nor listings, also not of a copy from a pickle."""
    first = hub.commit(repo, {"a.bin": b"old", "gone.bin": b"x"})
    async with over(hub.url, repo) as source:
        assert source.revision is None
        assert (await source.read("a.bin")).version == first == source.revision
        second = hub.commit(repo, {"a.bin": b"newer", "gone.bin": None, "more.bin": b"y"})
        for reader in (source, pickle.loads(pickle.dumps(source))):
            async with reader:
                assert await reader.list_files() == ["a.bin", "gone.bin"]
                assert bytes((await reader.read("a.bin")).data) == b"old"
                assert bytes((await reader.read("gone.bin")).data) == b"x"
                assert reader.revision == first
    async with over(hub.url, repo) as source:
        assert await source.list_files() == ["a.bin", "more.bin"]
        assert source.revision == second


async def test_named_commit_is_read_without_asking(hub: Hub, repo: str) -> None:
    """A commit in the URL is what is read, whatever the branch is now."""
    first = hub.commit(repo, {"train/a.bin": b"old"})
    hub.commit(repo, {"train/a.bin": b"newer"})
    async with over(hub.url, f"hf://datasets/{repo}@{first}/train") as source:
        assert source.revision == first
        assert await source.list_files() == ["a.bin"]
        assert bytes((await source.read("a.bin")).data) == b"old"


async def test_folder_is_the_root(hub: Hub, repo: str) -> None:
    """Paths and prefixes count from the folder; one that is missing is an error, a prefix of nothing is not."""
    hub.commit(repo, {"train/x/a.bin": b"a", "train/b.bin": b"b", "trainer.bin": b"c"})
    async with over(hub.url, f"hf://datasets/{repo}/train/") as source:
        assert await source.list_files() == ["b.bin", "x/a.bin"]
        assert await source.list_files("x/") == ["x/a.bin"]
        assert await source.list_files("no/such/") == []
        assert bytes((await source.read("x/a.bin")).data) == b"a"
    async with over(hub.url, f"hf://datasets/{repo}/test") as source:
        for prefix in ("", "no/such/"):
            with pytest.raises(ObjectNotFoundError, match="does not exist"):
                await source.list_files(prefix)


async def test_first_reads_ask_for_the_commit_once(raw: FaultServer) -> None:
    """Reads side by side share one look-up of the revision."""
    raw.answers[FILE] = respond(200, b"data")
    async with over(raw.url) as source:
        await asyncio.gather(*(source.read("a.bin") for _ in range(20)))
    assert [each.target for each in raw.requests].count(ASK_COMMIT) == 1


async def test_event_loops_that_open_at_once_agree_on_a_commit(raw: FaultServer) -> None:
    """Two loops that look up a moving branch at the same time both read the commit that was stored first."""
    commits, both_asked = ["1" * 40, "2" * 40], asyncio.Event()

    async def tell_each_another(request: Request, writer: asyncio.StreamWriter) -> None:
        commit = commits.pop()
        if not commits:
            both_asked.set()
        await both_asked.wait()
        await respond(200, json.dumps({"sha": commit}).encode())(request, writer)

    raw.answers[ASK_COMMIT] = tell_each_another
    for commit in commits:
        raw.answers[FILE.replace(COMMIT, commit)] = respond(200, commit.encode())
    source = over(raw.url)

    async def read() -> str:
        return bytes((await source.read("a.bin")).data).decode()

    async with asyncio.timeout(20):
        seen = await asyncio.gather(*(asyncio.to_thread(lambda: asyncio.run(read())) for _ in range(2)))
    await source.aclose()
    assert seen == [source.revision] * 2


async def test_cancelled_opening_leaves_the_source_usable(raw: FaultServer) -> None:
    """A first read that is cancelled while the Hub is silent leaves the next to open again."""
    asked = asyncio.Event()

    async def say_nothing(request: Request, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await never(request, writer)

    raw.answers = {ASK_COMMIT: in_turn(say_nothing, PINNED), FILE: respond(200, b"data")}
    async with over(raw.url) as source:
        waiting = [asyncio.ensure_future(source.read("a.bin")) for _ in range(3)]
        await asked.wait()
        for read in waiting:
            read.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert source.revision is None
        assert bytes((await source.read("a.bin")).data) == b"data"


async def test_closing_while_opening(raw: FaultServer) -> None:
    """Closing a source while its first read resolves the revision fails that read with ClosedError."""
    source = over(raw.url)

    async def close_first(request: Request, writer: asyncio.StreamWriter) -> None:
        await source.aclose()
        await PINNED(request, writer)

    raw.answers[ASK_COMMIT] = close_first
    reading = asyncio.ensure_future(source.read("a.bin"))
    with pytest.raises(ClosedError):
        await reading


def redirect(url: str, **headers: Any) -> Answer:
    """Send the client elsewhere."""
    return respond(302, b"", Location=url, **headers)


async def test_signed_urls_are_fetched_again_and_never_get_the_token(raw: FaultServer) -> None:
    """A URL past its time makes the source ask the Hub again; the token stays with the Hub, ranges go along."""
    async with FaultServer() as storage:
        signed = [f"{storage.url}blob?signature={n}" for n in (1, 2)]
        linked = {"X_Linked_Etag": f'"{SHA256}"', "ETag": '"of-the-redirect"'}
        raw.answers[FILE] = in_turn(*(redirect(signed[n], **linked) for n in (0, 0, 1)))
        part = respond(206, b"ell", Content_Range="bytes 1-3/5", ETag='"of-the-storage"')
        storage.answers["/blob?signature=1"] = in_turn(respond(200, b"hello"), respond(403, b"Request has expired"))
        storage.answers["/blob?signature=2"] = part
        async with over(raw.url, credentials={"token": "hf_secret"}) as source:
            first = await source.read("a.bin")
            assert (bytes(first.data), first.etag, first.version) == (b"hello", SHA256, COMMIT)
            second = await source.read("a.bin", 1, 4)
            assert (bytes(second.data), second.etag, second.size) == (b"ell", SHA256, 5)
    assert [each.target for each in raw.requests] == [ASK_COMMIT, FILE, FILE, FILE]
    assert {each.headers["authorization"] for each in raw.requests} == {"Bearer hf_secret"}
    assert [each.target[-1] for each in storage.requests] == ["1", "1", "2"]
    assert "hf_secret" not in str(storage.requests)
    assert storage.requests[2].headers["range"] == "bytes=1-3"


async def test_storage_that_refuses_each_signed_url(raw: FaultServer) -> None:
    """Two refusals in a row are a refusal, not a missing object, and no third is tried."""
    async with FaultServer(blob=respond(403)) as storage:
        raw.answers[FILE] = redirect(f"{storage.url}blob")
        async with over(raw.url) as source:
            with pytest.raises(AccessDenied, match=r"'a\.bin' .* two URLs .*clock"):
                await source.read("a.bin")
        assert len(storage.requests) == 2


REFUSALS = [
    (respond(403, X_Error_Code="GatedRepo"), AccessDenied, r"gated; accept the conditions at {hub}/datasets/org/data"),
    (respond(401, X_Error_Code="GatedRepo"), AccessDenied, r"gated; accept .* then set a token"),
    (
        respond(401, X_Error_Code="RepoNotFound"),
        ObjectNotFoundError,
        r"does not exist, or is private and no token was given",
    ),
    (respond(404, X_Error_Code="RepoNotFound"), ObjectNotFoundError, r"dataset org/data does not exist"),
    (respond(404, X_Error_Code="RevisionNotFound"), ObjectNotFoundError, r"dataset org/data has no revision 'main'"),
    (respond(403, X_Error_Message="Access to this resource is disabled."), AccessDenied, r"has disabled"),
    (respond(401, X_Error_Message="Invalid credentials in Authorization header"), AccessDenied, r"know this token"),
    (respond(403), AccessDenied, "403"),
    (respond(429), SourceUnavailable, "429"),
    (respond(503), SourceUnavailable, "503"),
    (respond(200, b"<html>"), SourceUnavailable, "not answer as a Hub"),
    (respond(200, b"{}"), SourceUnavailable, "not answer as a Hub"),
]


@pytest.mark.parametrize(("answer", "kind", "message"), REFUSALS)
async def test_refusals_when_opening(raw: FaultServer, answer: Answer, kind: type[Exception], message: str) -> None:
    """Each refusal of the Hub has its own error with the next step, and the next use tries again."""
    raw.answers.update({ASK_COMMIT: in_turn(answer, PINNED), FILE: respond(200, b"data")})
    async with over(raw.url) as source:
        with pytest.raises(kind, match=message.format(hub=raw.url.rstrip("/"))) as caught:
            await source.read("a.bin")
        assert "source 'hub'" in str(caught.value)
        assert bytes((await source.read("a.bin")).data) == b"data"


@pytest.mark.parametrize(("answer", "kind", "message"), REFUSALS[:10])
async def test_refusals_of_a_file(raw: FaultServer, answer: Answer, kind: type[Exception], message: str) -> None:
    """Access that ends during a run raises the same errors, naming the file."""
    raw.answers.update({FILE: answer, TREE: answer})
    async with over(raw.url) as source:
        with pytest.raises(kind, match=message.format(hub=raw.url.rstrip("/"))) as caught:
            await source.read("a.bin")
        assert "'a.bin'" in str(caught.value)
        with pytest.raises(kind):
            await source.list_files()


async def test_when_to_come_back(raw: FaultServer) -> None:
    """A Hub that wants fewer requests says after how long: what waits before another try reads it from the error."""
    raw.answers.update({FILE: respond(429, Retry_After="7"), TREE: respond(503, Retry_After="8")})
    async with over(raw.url) as source:
        for use, seconds in ((source.read("a.bin"), 7), (source.list_files(), 8)):
            with pytest.raises(SourceUnavailable) as caught:
                await use
            assert caught.value.retry_after_s == seconds


async def test_missing_things_on_the_stand_in(hub: Hub, repo: str) -> None:
    """Repository, revision and file that do not exist each have their own words."""
    hub.commit(repo, {"a.bin": b"a"})
    for root, message in (
        ("test/nothing", "dataset test/nothing does not exist, or is private"),
        (f"{repo}@{'0' * 40}", "has no revision '0000"),
        (f"{repo}@nope", "has no revision 'nope'"),
        (repo, r"'no\.bin' of source 'hub' does not exist in dataset"),
    ):
        async with over(hub.url, root) as source:
            with pytest.raises(ObjectNotFoundError, match=message):
                await source.read("no.bin")


@pytest.mark.parametrize("code", [{}, {"X_Error_Code": "RepoNotFound"}])
async def test_a_revision_that_a_hub_calls_a_missing_repository(raw: FaultServer, code: dict[str, Any]) -> None:
    """Before it says that the data set is missing, the source asks whether that is so."""
    raw.answers[ASK_COMMIT] = respond(404, **code)
    raw.answers["/api/datasets/org/data"] = respond(200, b"{}")
    async with over(raw.url) as source:
        with pytest.raises(ObjectNotFoundError, match=r"dataset org/data has no revision 'main'; see its branches"):
            await source.read("a.bin")


async def test_token_with_a_missing_repository(raw: FaultServer) -> None:
    """With a token the message speaks of the token's rights, and never shows it."""
    raw.answers[ASK_COMMIT] = respond(404, X_Error_Code="RepoNotFound")
    async with over(raw.url, token="hf_secret") as source:
        with pytest.raises(ObjectNotFoundError, match="this token may not see it") as caught:
            await source.read("a.bin")
    assert "hf_secret" not in f"{caught.value} {source!r} {source.config!r}"


async def test_listing_follows_pages_and_names_content(raw: FaultServer) -> None:
    """All pages are read and folders left out; LFS files have their SHA-256 and real size."""
    stored = {"type": "file", "oid": "a" * 40, "size": 9, "path": "b.bin", "lfs": {"oid": SHA256, "size": 9}}
    pages = [
        [{"type": "directory", "oid": "d" * 40, "size": 0, "path": "x"}, stored],
        [{"type": "file", "oid": "b" * 40, "size": 3, "path": "x/c.bin"}],
    ]
    link = f'<{raw.url.rstrip("/")}{TREE}&cursor=2>; rel="next"'
    raw.answers[TREE] = respond(200, json.dumps(pages[0]).encode(), Link=link)
    raw.answers[f"{TREE}&cursor=2"] = in_turn(respond(503), respond(200, json.dumps(pages[1]).encode()))
    async with over(raw.url, credentials={"token": "hf_secret"}) as source:
        with pytest.raises(SourceUnavailable):
            await listed(source)
        found = await listed(source)
    assert [(info.path, info.size, info.etag) for info in found] == [("b.bin", 9, SHA256), ("x/c.bin", 3, "b" * 40)]
    assert {each.headers["authorization"] for each in raw.requests} == {"Bearer hf_secret"}


async def test_listing_that_leads_elsewhere_takes_no_token_along(raw: FaultServer) -> None:
    """A next page on another host is read without the token."""
    async with FaultServer(page=respond(200, b"[]")) as other:
        raw.answers[TREE] = respond(200, b"[]", Link=f'<{other.url}page>; rel="next"')
        async with over(raw.url, token="hf_secret") as source:
            assert await source.list_files() == []
        assert len(other.requests) == 1
        assert "hf_secret" not in str(other.requests)


async def test_listing_of_no_hub(raw: FaultServer) -> None:
    """A listing that is JSON of another kind is an error."""
    raw.answers[TREE] = respond(200, b'{"error": "none"}')
    async with over(raw.url) as source:
        with pytest.raises(SourceUnavailable, match="not answer as a Hub"):
            await source.list_files()


@pytest.mark.parametrize("silent", [ASK_COMMIT, TREE, FILE])
async def test_silent_hub_is_a_timeout(raw: FaultServer, silent: str) -> None:
    """A Hub that takes a request and says nothing costs `timeout_s`, when opening, listing and reading."""
    raw.answers.update({TREE: respond(200, b"[]"), FILE: respond(200, b"data"), silent: never})
    async with over(raw.url, timeout_s=0.2) as source:
        with pytest.raises(SourceTimeout):
            await (source.read("a.bin") if silent == FILE else source.list_files())


async def test_tokens_in_their_order(raw: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """`credentials` win over `storage_options`, these over HF_TOKEN; False sends none."""
    raw.answers[FILE] = respond(200, b"data")
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    for options, sent in (
        ({"credentials": {"token": "hf_1"}, "token": "hf_2"}, "Bearer hf_1"),
        ({"token": "hf_2"}, "Bearer hf_2"),
        ({"token": None}, "Bearer hf_environment"),
        ({"token": False}, None),
    ):
        async with over(raw.url, **options) as source:
            await source.read("a.bin")
        assert raw.requests[-1].headers.get("authorization") == sent


async def test_explicit_endpoint_wins(raw: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_ENDPOINT is used, `storage_options` win over it, and an invalid URL is refused."""
    raw.answers[FILE] = respond(200, b"data")
    monkeypatch.setenv("HF_ENDPOINT", raw.url)
    async with over(None) as source:
        assert bytes((await source.read("a.bin")).data) == b"data"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9/")
    async with over(raw.url) as source:
        assert bytes((await source.read("a.bin")).data) == b"data"
    monkeypatch.setenv("HF_ENDPOINT", "nowhere")
    async with over(None) as source:
        with pytest.raises(ConfigError, match="'nowhere'"):
            await source.read("a.bin")


@pytest.mark.parametrize(
    ("root", "options", "asked"),
    [
        ("org/data", {}, "/api/datasets/org/data/revision/main"),
        ("org/data@v1/folder", {}, "/api/datasets/org/data/revision/v1"),
        ("org/data", {"revision": "v2"}, "/api/datasets/org/data/revision/v2"),
        ("org/data", {"repo_type": "model"}, "/api/models/org/data/revision/main"),
        ("hf://org/data/a@b", {}, "/api/models/org/data/revision/main"),
        ("hf://gpt2@v1", {}, "/api/models/gpt2/revision/v1"),
        (
            "hf://datasets/org/data@refs/convert/parquet/a/b",
            {},
            "/api/datasets/org/data/revision/refs%2Fconvert%2Fparquet",
        ),
        ("hf://datasets/org/data@a%2Fb/c", {}, "/api/datasets/org/data/revision/a%2Fb"),
        ("hf://spaces/org/data/", {}, "/api/spaces/org/data/revision/main"),
    ],
)
async def test_what_names_a_repository(raw: FaultServer, root: str, options: dict[str, Any], asked: str) -> None:
    """URLs as `HfFileSystem` takes them, and plain names, lead to the repository and revision they mean."""
    async with over(raw.url, root, **options) as source:
        with pytest.raises(ObjectNotFoundError):
            await source.list_files()
    assert raw.requests[0].target == f"{asked}?expand=sha"


@pytest.mark.parametrize(
    ("root", "options", "message"),
    [
        ("hf://", {}, "names no repository"),
        ("hf://datasets/or g/name", {}, "names no repository"),
        ("org/name/../x", {}, "leaves the repository"),
        ("org/name@a", {"revision": "b"}, "revision='b' differ"),
        ("hf://datasets/org/name", {"repo_type": "model"}, "repo_type says 'model'"),
        ("org/name", {"repo_type": "datasets"}, "did you mean 'dataset'"),
        ("org/name", {"revison": "a"}, "did you mean 'revision'"),
        ("org/name", {"endpoint": "huggingface.co"}, "not like https://"),
        ("org/name", {"endpoint": "https://me:pass@hub.example"}, "not like https://"),
        ("org/name", {"credentials": {"tokn": "hf_secret"}}, "must be a token, not: tokn"),
        ("org/name", {"engine": "obstore"}, "cannot read Hub"),
    ],
)
def test_refuses_what_it_cannot_use(root: str, options: dict[str, Any], message: str) -> None:
    """A mistake is refused when the source is made, with what was meant and without secrets."""
    with pytest.raises(ConfigError, match=message) as caught:
        over(None, root, **options)
    assert "hf_secret" not in str(caught.value)
    assert "pass@" not in str(caught.value)


def test_is_made_from_a_url() -> None:
    """`hf://` URLs make this source."""
    assert isinstance(create_data_source("hf://datasets/org/name@v1/train"), HuggingFaceDataSource)


def run_python(script: str, *args: str, **environment: str) -> str:
    """Run a script in a new process and return what it prints."""
    command = [sys.executable, "-W", "ignore", "-c", script, *args]
    result = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )
    return result.stdout


DOWNLOAD = """
import sys
from huggingface_hub import snapshot_download
snapshot_download(sys.argv[1], repo_type="dataset", allow_patterns=["train/*"], token=False)
"""
READ = """
import asyncio, sys
from streaming.core.source_config import DataSourceConfig
from streaming.sources import HuggingFaceDataSource

async def main():
    source = HuggingFaceDataSource(DataSourceConfig("hub", "huggingface", sys.argv[1]))
    print(await source.list_files(), bytes((await source.read("train/a.bin")).data), source.revision)

asyncio.run(main())
"""


@pytest.fixture
def home(hub: Hub, repo: str, tmp_path: Path) -> Path:
    """A home of huggingface_hub with `train/` of the repository in its cache."""
    hub.commit(repo, {"train/a.bin": b"cached", "train/b.bin": CONTENT, "test/c.bin": b"not cached"})
    run_python(DOWNLOAD, repo, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "home"))
    return tmp_path / "home"


async def test_offline_reads_the_cache_alone(hub: Hub, repo: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With HF_HUB_OFFLINE=1 the cache answers as the Hub would; what it lacks is an error that says why."""
    async with over(hub.url, repo) as source:
        online = [info for info in await listed(source) if info.path.startswith("train/")]
        whole = await source.read("train/a.bin")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.commit(repo, {"train/a.bin": b"newer"})
    async with over(hub.url, repo, cache_dir=str(home / "hub")) as source:
        offline = await listed(source)
        assert [(each.path, each.size, each.etag) for each in offline] == [
            (each.path, each.size, each.etag) for each in online
        ]
        assert await source.read("train/a.bin") == whole
        assert bytes((await source.read("train/b.bin", 3, 7)).data) == CONTENT[3:7]
        assert source.revision == whole.version
        with pytest.raises(ObjectNotFoundError, match=r"'test/c\.bin' .*offline mode is on"):
            await source.read("test/c.bin")
        with pytest.raises(BadRequest):
            await source.read("train/a.bin", 100)
    for root in ("test/never-downloaded", f"{repo}@v1", f"{repo}@{'0' * 40}", f"{repo}/test"):
        async with over(hub.url, root, cache_dir=str(home / "hub")) as source:
            with pytest.raises(ObjectNotFoundError, match="offline mode is on"):
                await source.list_files()


async def test_offline_reports_incomplete_downloads(
    hub: Hub, repo: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link to a missing blob is left out, and named relative to the root of the source."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (link,) = (home / "hub").glob("*/snapshots/*/train/a.bin")
    link.resolve().unlink()
    for root, path in ((repo, "train/a.bin"), (f"{repo}/train", "a.bin")):
        async with over(hub.url, root, cache_dir=str(home / "hub")) as source:
            assert path not in await source.list_files()
            assert source.skipped.counts == {"broken_link": {".bin": 1}}
            assert source.skipped.examples == {"broken_link": [path]}


def test_offline_finds_the_cache_of_the_home(hub: Hub, repo: str, home: Path) -> None:
    """The cache in HF_HOME is read, without requests to a Hub."""
    printed = run_python(READ, repo, HF_HOME=str(home), HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert re.fullmatch(r"\['train/a\.bin', 'train/b\.bin'\] b'cached' [0-9a-f]{40}\n", printed)


FORKED = """
import asyncio, os, sys
from streaming.core.source_config import DataSourceConfig
from streaming.sources import HuggingFaceDataSource

make = lambda: HuggingFaceDataSource(
    DataSourceConfig("hub", "huggingface", sys.argv[2], storage_options={"endpoint": sys.argv[1], "token": False})
)
inherited = make()

async def read(source):
    try:
        print(len((await source.read("a.bin")).data), flush=True)
    except Exception as error:
        print(type(error).__name__, flush=True)

asyncio.run(read(inherited))
if os.fork() == 0:
    asyncio.run(read(inherited))
    asyncio.run(inherited.aclose())
    asyncio.run(read(make()))
    os._exit(0)
os.wait()
asyncio.run(read(inherited))
"""


def test_forked_child_never_hangs(hub: Hub, repo: str) -> None:
    """An inherited source raises ClosedError in a child, a new source works there, and the parent keeps reading."""
    hub.commit(repo, {"a.bin": bytes(200)})
    assert run_python(FORKED, hub.url, repo).split() == ["200", "ClosedError", "200", "200"]


MISSING = """
import asyncio, sys
sys.modules["huggingface_hub"] = None
from streaming.sources import create_data_source
from streaming.errors import MissingExtra

try:
    asyncio.run(create_data_source("hf://datasets/org/name").read("a.bin"))
except MissingExtra as error:
    print(error)
"""


def test_missing_package_names_its_extra() -> None:
    """Without huggingface_hub the first use says what to install."""
    assert "aiprod-streaming[hf]" in run_python(MISSING)


def git_blob(content: bytes) -> str:
    """The id that git gives to a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def tree_of(path: str, content: bytes, is_lfs: bool) -> bytes:
    """A listing of one file, as the Hub gives it."""
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_blob(content)}
    if is_lfs:
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        entry["oid"] = git_blob(b"pointer")
    return json.dumps([entry]).encode()


@pytest.mark.parametrize("is_lfs", [False, True])
@pytest.mark.parametrize("etag", ['"of-the-mirror"', 'W/"of-the-mirror"', f'"{"0" * 40}"', "d41d8cd98f-1"])
async def test_endpoint_with_etags_of_its_own(raw: FaultServer, is_lfs: bool, etag: str) -> None:
    """A mirror may give a pinned file another ETag than the tree has: its size and checksum say whether it is right."""
    content, other = b'{"x": 1}', b'{"x": 2}'
    path = FILE.replace("a.bin", "a.json")
    raw.answers[TREE] = respond(200, tree_of("a.json", content, is_lfs))
    options = {"endpoint": raw.url, "token": False}
    config = {"name": "hub", "type": "huggingface", "path": "org/data", "storage_options": options}

    def read() -> Any:
        with StreamingDatasetAdapter(config) as adapter:
            return adapter[0]["hub"]

    raw.answers[path] = respond(200, content, ETag=etag)
    assert await asyncio.to_thread(read) == {"x": 1}
    for wrong in (other, content + b" "):
        raw.answers[path] = respond(200, wrong, ETag=etag)
        with pytest.raises(ObjectChanged, match=r"a\.json"):
            await asyncio.to_thread(read)


async def test_lines_from_an_endpoint_with_etags_of_its_own(raw: FaultServer) -> None:
    """Parts of a pinned file, of which no checksum is known, are held against its size alone."""
    content = b'{"x": 1}\n{"x": 2}\n'
    raw.answers[TREE] = respond(200, tree_of("a.jsonl", content, is_lfs=True))
    raw.answers[FILE.replace("a.bin", "a.jsonl")] = respond(200, content, ETag='"of-the-mirror"')
    options = {"endpoint": raw.url, "token": False}
    config = {"name": "hub", "type": "huggingface", "path": "org/data", "storage_options": options}

    def read() -> Any:
        with StreamingDatasetAdapter(config) as adapter:
            return [adapter[number]["hub"] for number in range(len(adapter))]

    assert await asyncio.to_thread(read) == [{"x": 1}, {"x": 2}]
