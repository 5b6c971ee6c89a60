"""S3 sources by both engines, against a real server."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import pickle
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from streaming.core.source_config import DataSourceConfig
from streaming.errors import (
    AccessDenied,
    BadRequest,
    ConfigError,
    MissingExtra,
    ObjectNotFoundError,
    ObjectTooLargeError,
    SourceTimeout,
    SourceUnavailable,
    TruncatedRead,
)
from streaming.index import SampleIndex
from streaming.resilience import stack
from streaming.sources import S3DataSource, create_data_source
from streaming.sources.base import DataSource
from tests.contracts.source import Place, SourceContract, skip_warnings
from tests.fault_server import Answer, FaultServer, hang_up, never, reset, respond
from tests.sources.s3_server import KEYS, S3Server, s3

__all__ = ["s3"]  # the fixture
NO_LOGIN = {"credentials": None}
ENGINES = ["obstore", "aioboto3"]
both_engines = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """An empty bucket of this test's own."""
    return s3.make_bucket(f"test-{uuid.uuid4().hex}")


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No setting of AWS from outside, neither variables nor files."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


class _InABucket(SourceContract):
    engine: str
    root_bytes = len("root/")

    @pytest.fixture
    def place(self, s3: S3Server, bucket: str) -> Place:
        """Objects in a folder of the bucket, next to one with a similar name."""
        s3.put(bucket, "roots/other.bin", b"not below the root")

        def place(path: str, data: bytes | None) -> None:
            if data is None:
                s3.client.delete_object(Bucket=bucket, Key=f"root/{path}")
            else:
                s3.put(bucket, f"root/{path}", data)

        return place

    @pytest.fixture
    async def source(self, s3: S3Server, bucket: str) -> AsyncIterator[DataSource]:
        """A source over the folder."""
        async with S3DataSource(s3.config(f"s3://{bucket}/root", engine=self.engine)) as source:
            yield source


class TestS3ByObstore(_InABucket):
    """Ceph's gateway read by obstore."""

    engine = "obstore"


class TestS3ByAioboto3(_InABucket):
    """Ceph's gateway read by aioboto3."""

    engine = "aioboto3"


@both_engines
async def test_wrong_keys_are_a_refused_login(s3: S3Server, bucket: str, engine: str) -> None:
    """A wrong secret and an unknown key have different errors that show neither, also in listings."""
    s3.put(bucket, "a.bin", b"abc")
    wrong_secret = {**KEYS, "aws_secret_access_key": "not-the-secret"}
    unknown_key = {**KEYS, "aws_access_key_id": "unknown-key"}
    for keys, message in ((wrong_secret, "SignatureDoesNotMatch"), (unknown_key, "InvalidAccessKeyId")):
        async with S3DataSource(s3.config(f"s3://{bucket}", credentials=keys, engine=engine)) as source:
            with pytest.raises(AccessDenied, match=message) as caught:
                await source.read("a.bin")
            assert (caught.value.path, caught.value.source) == ("a.bin", "s3")
            with pytest.raises(AccessDenied, match=message) as listing:
                await source.list_files()
            for text in (str(caught.value), repr(caught.value), str(listing.value), repr(source)):
                assert "not-the-secret" not in text
                assert "unknown-key" not in text


@both_engines
async def test_missing_bucket_is_not_found(s3: S3Server, engine: str) -> None:
    """The error for a missing bucket says what to check, for reads and listings."""
    async with S3DataSource(s3.config("s3://no-such-bucket/root", engine=engine)) as source:
        with pytest.raises(
            ObjectNotFoundError, match=r"NoSuchBucket .*'a\.bin': there is no such bucket; check its name"
        ):
            await source.read("a.bin")
        with pytest.raises(ObjectNotFoundError, match="there is no such bucket"):
            await source.list_files()


@both_engines
async def test_anonymous(s3: S3Server, bucket: str, engine: str) -> None:
    """Without a login only what is public can be read."""
    s3.put(bucket, "private.bin", b"abc")
    s3.client.put_object(Bucket=bucket, Key="public.bin", Body=b"abc", ACL="public-read")
    config = s3.config(f"s3://{bucket}", **NO_LOGIN, storage_options={"anon": True}, engine=engine)
    async with S3DataSource(config) as source:
        assert bytes((await source.read("public.bin")).data) == b"abc"
        with pytest.raises(AccessDenied, match=r"private\.bin"):
            await source.read("private.bin")


@both_engines
async def test_environment_supplies_missing_settings(
    s3: S3Server, bucket: str, engine: str, clean_environment: pytest.MonkeyPatch
) -> None:
    """Keys and endpoint come from the environment; that of the service wins over the general one."""
    s3.put(bucket, "a.bin", b"abc")
    clean_environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    clean_environment.setenv("AWS_ENDPOINT_URL_S3", s3.url)
    clean_environment.setenv("AWS_ACCESS_KEY_ID", KEYS["aws_access_key_id"])
    clean_environment.setenv("AWS_SECRET_ACCESS_KEY", KEYS["aws_secret_access_key"])
    async with S3DataSource(DataSourceConfig("s3", "s3", f"{bucket}/", engine=engine)) as source:
        assert bytes((await source.read("a.bin")).data) == b"abc"


@both_engines
async def test_settings_win_over_the_environment(
    s3: S3Server, bucket: str, engine: str, clean_environment: pytest.MonkeyPatch
) -> None:
    """Keys, session token and endpoint of the environment are not mixed with those that are configured."""
    s3.put(bucket, "a.bin", b"abc")
    clean_environment.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    clean_environment.setenv("AWS_ACCESS_KEY_ID", "environment")
    clean_environment.setenv("AWS_SECRET_ACCESS_KEY", "environment")
    clean_environment.setenv("AWS_SESSION_TOKEN", "environment")
    clean_environment.setenv("AWS_PROFILE", "default")
    settings_file("config", "[default]\nendpoint_url = http://127.0.0.1:9\n")
    options = {"client_kwargs": {"endpoint_url": s3.url}, "key": "testkey", "secret": "testsecret"}
    config = DataSourceConfig("s3", "s3", f"s3://{bucket}", storage_options=options, engine=engine)
    async with S3DataSource(config) as source:
        assert bytes((await source.read("a.bin")).data) == b"abc"


@both_engines
@pytest.mark.parametrize("where", ["option", "variable", "default"])
async def test_profile(
    s3: S3Server, bucket: str, engine: str, where: str, clean_environment: pytest.MonkeyPatch
) -> None:
    """A profile gives keys, region and endpoint, named by an option, by a variable, or as the default one."""
    s3.put(bucket, "a.bin", b"abc")
    name = "default" if where == "default" else "train"
    keys = "\n".join(f"{key} = {value}" for key, value in KEYS.items())
    settings_file("credentials", f"[{name}]\n{keys}\n")
    section = name if name == "default" else f"profile {name}"
    settings_file("config", f"[{section}]\nregion = us-east-1\nendpoint_url = {s3.url}\n")
    options = {"profile": name} if where == "option" else {}
    if where == "variable":
        clean_environment.setenv("AWS_PROFILE", name)
    config = DataSourceConfig("s3", "s3", f"s3://{bucket}", storage_options=options, engine=engine)
    async with S3DataSource(config) as source:
        assert bytes((await source.read("a.bin")).data) == b"abc"


@both_engines
async def test_unknown_profile(s3: S3Server, engine: str, clean_environment: pytest.MonkeyPatch) -> None:
    """A profile that does not exist is refused with the nearest one."""
    settings_file("credentials", "[training]\naws_access_key_id = a\n")
    config = s3.config("s3://any", **NO_LOGIN, storage_options={"profile": "trainin"}, engine=engine)
    async with S3DataSource(config) as source:
        with pytest.raises(ConfigError, match="no profile 'trainin', did you mean 'training'"):
            await source.read("a.bin")


@both_engines
async def test_no_credentials_anywhere(s3: S3Server, engine: str, clean_environment: pytest.MonkeyPatch) -> None:
    """Where no login is found that is what the error says."""
    settings_file("config", "[default]\nregion = us-east-1\n")
    async with S3DataSource(s3.config("s3://any", **NO_LOGIN, engine=engine)) as source:
        with pytest.raises(AccessDenied, match="credentials"):
            await source.read("a.bin")


class Provider:
    """Gives the right keys from call `right_from` on, each time for `life`; async on request."""

    def __init__(self, life: timedelta | None, right_from: int = 1) -> None:
        self.life = life
        self.right_from = right_from
        self.calls = 0

    def __call__(self) -> dict[str, Any]:
        self.calls += 1
        key = "testkey" if self.calls >= self.right_from else "outdated"
        ends = None if self.life is None else datetime.now(UTC) + self.life
        return {"access_key_id": key, "secret_access_key": "testsecret", "expires_at": ends}


@both_engines
async def test_expiring_credentials_are_requested_again(s3: S3Server, bucket: str, engine: str) -> None:
    """Credentials near their end are renewed by the provider before they are used again, others are kept."""
    s3.put(bucket, "a.bin", b"abc")
    for life, fewest, most in ((timedelta(seconds=1), 2, 9), (timedelta(hours=1), 1, 1), (None, 1, 1)):
        provider = Provider(life)
        options = {"credential_provider": provider}
        config = s3.config(f"s3://{bucket}", **NO_LOGIN, storage_options=options, engine=engine)
        async with S3DataSource(config) as source:
            assert await source.list_files() == ["a.bin"]
            await asyncio.get_running_loop().run_in_executor(None, _past, datetime.now(UTC) + timedelta(seconds=0.2))
            for _ in range(3):
                assert bytes((await source.read("a.bin")).data) == b"abc"
        assert fewest <= provider.calls <= most


def settings_file(kind: str, text: str) -> None:
    """Write one of AWS's own files, at the path in the environment."""
    Path(os.environ["AWS_CONFIG_FILE" if kind == "config" else "AWS_SHARED_CREDENTIALS_FILE"]).write_text(text)


def _past(moment: datetime) -> None:
    while datetime.now(UTC) < moment:
        pass


@both_engines
async def test_an_expired_login_is_looked_up_again(s3: S3Server, bucket: str, engine: str) -> None:
    """When the server no longer knows the keys, all reads in flight continue with new keys from the provider."""
    s3.put(bucket, "a.bin", b"abc")
    provider = Provider(None, right_from=2)
    options = {"credential_provider": provider}
    config = s3.config(f"s3://{bucket}", **NO_LOGIN, storage_options=options, engine=engine)
    async with S3DataSource(config) as source:
        blobs = await asyncio.gather(*(source.read("a.bin") for _ in range(20)))
        assert {bytes(blob.data) for blob in blobs} == {b"abc"}
    assert provider.calls == 2


@both_engines
async def test_login_that_stays_outdated_is_refused(s3: S3Server, bucket: str, engine: str) -> None:
    """If new keys do not work either, the read fails, and the provider is not called for each read."""
    provider = Provider(None, right_from=1000)
    options = {"credential_provider": provider}
    config = s3.config(f"s3://{bucket}", **NO_LOGIN, storage_options=options, engine=engine)
    async with S3DataSource(config) as source:
        for _ in range(3):
            with pytest.raises(AccessDenied, match="InvalidAccessKeyId"):
                await source.read("a.bin")
    assert provider.calls == 2


@both_engines
@pytest.mark.parametrize("given", [{"access_key_id": "testkey"}, RuntimeError("of the provider")])
async def test_provider_that_fails(s3: S3Server, engine: str, given: Any) -> None:
    """A provider that raises, or returns half a key, is a refused login."""

    async def provide() -> Any:
        if isinstance(given, Exception):
            raise given
        return given

    config = s3.config("s3://any", **NO_LOGIN, storage_options={"credential_provider": provide}, engine=engine)
    async with S3DataSource(config) as source:
        with pytest.raises(AccessDenied, match=r"RuntimeError|KeyError"):
            await source.read("a.bin")


@both_engines
async def test_versions(s3: S3Server, bucket: str, engine: str) -> None:
    """In a bucket with versions each read gives its version, and an older one can be read."""
    s3.client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    s3.put(bucket, "root/a.bin", b"old")
    async with S3DataSource(s3.config(f"s3://{bucket}/root", engine=engine)) as source:
        old = await source.read("a.bin")
        s3.put(bucket, "root/a.bin", b"newer")
        new = await source.read("a.bin")
    assert (bytes(old.data), bytes(new.data)) == (b"old", b"newer")
    assert old.version
    assert new.version
    assert old.version != new.version
    assert old.etag != new.etag
    options = {"versions": {"a.bin": old.version}}
    async with S3DataSource(s3.config(f"s3://{bucket}/root", storage_options=options, engine=engine)) as source:
        assert await source.read("a.bin") == old
        assert bytes((await source.read("a.bin", 1, 2)).data) == b"l"
        assert (await source.read("a.bin", 3)).version == old.version


@both_engines
async def test_listing_of_many_pages_and_folders(s3: S3Server, bucket: str, engine: str) -> None:
    """More objects than a page holds are listed completely, once each, whether in one folder or in several."""
    flat = [f"flat/{number:04}.bin" for number in range(1100)]
    nested = [f"nested/{number % 3}/{number:04}.bin" for number in range(1100)]
    await asyncio.to_thread(s3.put_many, bucket, flat + nested, b"x")
    s3.put(bucket, "nested/", b"")  # as web consoles make folders
    s3.put(bucket, "nested/0/", b"")
    s3.put(bucket, "flat/", b"")
    async with S3DataSource(s3.config(f"s3://{bucket}", engine=engine)) as source:
        assert await source.list_files() == sorted(flat + nested)
        assert await source.list_files("nested/1") == sorted(path for path in nested if path.startswith("nested/1"))
        found = [info.path async for info in source.iter_files()]
        assert found == [info.path async for info in source.iter_files()]
        files = source.iter_files()
        assert (await anext(files)).size == 1
        await files.aclose()  # type: ignore[attr-defined]
    for root, paths in (("nested", nested), ("flat", flat)):
        async with S3DataSource(s3.config(f"s3://{bucket}/{root}/", engine=engine)) as source:
            assert await source.list_files() == sorted(path.removeprefix(f"{root}/") for path in paths)


async def test_names_that_obstore_cannot_read(s3: S3Server, bucket: str) -> None:
    """A name with an empty folder is read by aioboto3; obstore says so, and never reads another object instead."""
    s3.put(bucket, "a//b.bin", b"two slashes")
    s3.put(bucket, "a/b.bin", b"one slash")
    async with S3DataSource(s3.config(f"s3://{bucket}", engine="aioboto3")) as source:
        assert bytes((await source.read("a//b.bin")).data) == b"two slashes"
        assert await source.list_files() == ["a//b.bin", "a/b.bin"]
    async with S3DataSource(s3.config(f"s3://{bucket}")) as source:
        with pytest.raises(BadRequest, match="choose the other engine"):
            await source.read("a//b.bin")
        assert await source.list_files() == ["a/b.bin"]
        assert source.skipped.counts == {"not_in_engine": {".bin": 1}}
        with pytest.raises(BadRequest, match="folder"):
            await source.read("a/b.bin/")


async def test_an_index_reports_names_that_obstore_cannot_read(
    s3: S3Server, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They stand in the same warning and number as what the index cannot use; the engine that reads them has none."""
    for key in ("a//1.json", "2.json", "3.csv", "4\t.json"):
        s3.put(bucket, key, b"{}")
    for engine, samples, skipped in (("aioboto3", 3, 1), (None, 1, 3)):
        caplog.clear()
        async with stack([S3DataSource(s3.config(f"s3://{bucket}", engine=engine))]) as source:
            index = await SampleIndex.build([source])
        assert (len(index), index.skipped_objects) == (samples, skipped)
        [warning] = skip_warnings(caplog)
        assert f"objects={skipped} " in warning
        assert ("set engine to 'aioboto3'" in warning) == (engine is None)


@both_engines
async def test_object_in_parts_has_one_etag(s3: S3Server, bucket: str, engine: str) -> None:
    """The ETag of an object that was uploaded in parts is the same in listings and reads."""
    key = {"Bucket": bucket, "Key": "a.bin"}
    upload = {**key, "UploadId": s3.client.create_multipart_upload(**key)["UploadId"]}
    bodies = [bytes(5 * 2**20), b"end"]
    sent = [s3.client.upload_part(**upload, PartNumber=n, Body=body) for n, body in enumerate(bodies, 1)]
    parts = [{"PartNumber": number, "ETag": each["ETag"]} for number, each in enumerate(sent, 1)]
    s3.client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    async with S3DataSource(s3.config(f"s3://{bucket}", engine=engine)) as source:
        (info,) = [info async for info in source.iter_files()]
        assert str(info.etag).endswith("-2")
        for start, end in ((0, None), (3, 9), (5 * 2**20, None)):
            assert (await source.read("a.bin", start, end)).etag == info.etag


LISTED = b"""<ListBucketResult><IsTruncated>false</IsTruncated>
<Contents><Key>a.bin</Key><LastModified>2025-01-01T00:00:00.000Z</LastModified><Size>3</Size></Contents>%s
</ListBucketResult>"""
ODD = (
    b"""<Contents><Key>b//%c.bin</Key><LastModified>2025-01-01T00:00:00.000Z</LastModified><Size>3</Size></Contents>"""
)


async def test_server_that_takes_no_signed_urls() -> None:
    """Where signed URLs are refused obstore lists; a key that fails it is named, with what to do."""
    async with FaultServer() as server, reading_from(server, "obstore") as source:
        server.answers["/bucket?list-type=2"] = respond(body=LISTED % b"")
        assert await source.list_files() == ["a.bin"]
        server.answers["/bucket?list-type=2"] = respond(body=LISTED % (ODD % b"x"))
        with pytest.raises(BadRequest, match=r"'b//x\.bin'.*aioboto3|'b//x\.bin'.*other engine"):
            await source.list_files()


async def test_odd_root_is_refused_by_name(s3: S3Server, bucket: str) -> None:
    """A root that obstore cannot reach is an error that says so, not an empty source."""
    s3.put(bucket, "a//b/c.bin", b"abc")
    async with S3DataSource(s3.config(f"s3://{bucket}/a//b")) as source:
        with pytest.raises(BadRequest, match="other engine"):
            await source.list_files()
    async with S3DataSource(s3.config(f"s3://{bucket}/a//b", engine="aioboto3")) as source:
        assert await source.list_files() == ["c.bin"]


@both_engines
async def test_large_object_is_refused_before_its_body(s3: S3Server, bucket: str, engine: str) -> None:
    """What passes max_object_bytes is not read; a part of it is."""
    s3.put(bucket, "a.bin", bytes(2000))
    async with S3DataSource(s3.config(f"s3://{bucket}", max_object_bytes=1000, engine=engine)) as source:
        with pytest.raises(ObjectTooLargeError, match="max_object_bytes=1000"):
            await source.read("a.bin")
        assert len((await source.read("a.bin", 500, 1500)).data) == 1000


@both_engines
async def test_requester_pays_and_region(s3: S3Server, bucket: str, engine: str) -> None:
    """The options that Amazon's buckets need go with each request without harm."""
    s3.put(bucket, "a.bin", b"abc")
    options = {"requester_pays": True, "region": "eu-west-1", "addressing_style": "path"}
    async with S3DataSource(s3.config(f"s3://{bucket}", storage_options=options, engine=engine)) as source:
        assert bytes((await source.read("a.bin")).data) == b"abc"
        assert await source.list_files() == ["a.bin"]


@both_engines
async def test_a_server_that_is_down(engine: str) -> None:
    """A refused connection and an unknown host raise SourceUnavailable, which is retried."""
    for url in ("http://127.0.0.1:9", "http://nobody.invalid"):
        config = DataSourceConfig("s3", "s3", "s3://b", KEYS, storage_options={"endpoint_url": url}, engine=engine)
        async with S3DataSource(config) as source:
            with pytest.raises(SourceUnavailable) as caught:
                await source.read("a.bin")
            assert caught.value.retryable
            with pytest.raises(SourceUnavailable):
                await source.list_files()


def reading_from(server: FaultServer, engine: str, **settings: Any) -> S3DataSource:
    """A source over the bucket `bucket` of a server that misbehaves."""
    options = {"endpoint_url": server.url}
    return S3DataSource(
        DataSourceConfig("s3", "s3", "s3://bucket", KEYS, storage_options=options, engine=engine, **settings)
    )


@both_engines
@pytest.mark.parametrize(
    ("answer", "timeout_s", "kind", "message"),
    [
        (never, 0.5, SourceTimeout, "timeout_s"),
        (hang_up, 60, SourceUnavailable, "check"),
        (reset, 60, TruncatedRead, "broke off"),
        (respond(body=b"short", length=100), 60, TruncatedRead, "broke off"),
    ],
)
async def test_broken_answers(
    engine: str, answer: Answer, timeout_s: float, kind: type[Exception], message: str
) -> None:
    """Silence, an ended connection and a cut body are of different kinds, each worth a retry."""
    async with FaultServer() as server, reading_from(server, engine, timeout_s=timeout_s) as source:
        server.answers["/bucket/a.bin"] = answer
        with pytest.raises(kind, match=message) as caught:
            await source.read("a.bin")
        assert caught.value.retryable  # type: ignore[attr-defined]
        if (answer, engine) != (hang_up, "aioboto3"):  # aiohttp retries on its own if it got no response
            assert len(server.requests) == 1


@both_engines
@pytest.mark.parametrize(
    ("status", "code", "kind", "message"),
    [
        (301, "PermanentRedirect", BadRequest, "region"),
        (400, "AuthorizationHeaderMalformed", BadRequest, "'eu-west-1'"),
        (400, "ExpiredToken", AccessDenied, "expired"),
        (403, "RequestTimeTooSkewed", AccessDenied, "clock"),
        (403, "InvalidObjectState", BadRequest, "archived"),
        (500, "InternalError", SourceUnavailable, "500"),
        (503, "SlowDown", SourceUnavailable, "503 SlowDown .*fewer requests"),
        (429, "", SourceUnavailable, "429"),
    ],
)
async def test_refusals(engine: str, status: int, code: str, kind: type[Exception], message: str) -> None:
    """Each refusal raises its own kind of error with the next step, after one request: the source does not retry."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Region>eu-west-1</Region></Error>".encode()
    async with FaultServer() as server, reading_from(server, engine) as source:
        server.answers["/bucket/a.bin"] = respond(status, body, Retry_After="7")
        with pytest.raises(kind, match=message) as caught:
            await source.read("a.bin")
        asked = [request.method for request in server.requests]
    assert caught.value.__dict__["status"] == status
    if engine == "aioboto3":
        assert caught.value.__dict__["retry_after_s"] == 7
    if status not in (301, 400):  # for which boto looks for the region, and a login is looked for again
        assert asked == ["GET"]


@both_engines
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (respond(body=b"x" * 50, ETag='"e"', Last_Modified="yesterday"), "cannot read .*engine"),
        (
            respond(body=b"x" * 50, ETag='"e"', Last_Modified="Wed, 21 Oct 2015 07:28:00 GMT"),
            "a part .*read .*whole|whole",
        ),
    ],
)
async def test_answers_that_no_retry_makes_better(engine: str, answer: Answer, message: str) -> None:
    """An invalid date and a store without ranges are reported as such, and are final."""
    async with FaultServer() as server, reading_from(server, engine) as source:
        server.answers["/bucket/a.bin"] = answer
        with pytest.raises(BadRequest, match=rf"'a\.bin'.*{message}"):
            await source.read("a.bin", 5, 10)
        assert len(server.requests) == 1


@both_engines
async def test_why_a_store_cannot_be_reached(engine: str) -> None:
    """A name that does not resolve and a refused connection have different errors."""
    for url, message in (("http://nowhere.invalid", "does not resolve"), ("http://127.0.0.1:1", "was refused")):
        options = {"endpoint_url": url, "addressing_style": "path"}
        config = DataSourceConfig("s3", "s3", "s3://bucket", KEYS, storage_options=options, engine=engine)
        async with S3DataSource(config) as source:
            with pytest.raises(SourceUnavailable, match=rf"'a\.bin' of source 's3'.*{message}.*check endpoint"):
                await source.read("a.bin")


@both_engines
@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("style", ["virtual", "path"])
async def test_addressing_style_and_proxy(
    engine: str, style: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bucket stands in the host or in the path, as set, and requests go by the proxy of the environment."""
    url = {"virtual": "http://bucket.store.invalid/a.bin", "path": "http://store.invalid/bucket/a.bin"}[style]
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "http_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with FaultServer() as proxy:
        proxy.answers[url] = respond(body=b"abc", ETag='"e"', Last_Modified="Wed, 21 Oct 2015 07:28:00 GMT")
        monkeypatch.setenv(variable, proxy.url)
        options = {"endpoint_url": "http://store.invalid", "addressing_style": style}
        config = DataSourceConfig("s3", "s3", "s3://bucket", KEYS, storage_options=options, engine=engine)
        async with S3DataSource(config) as source:
            assert bytes((await source.read("a.bin")).data) == b"abc"


@both_engines
async def test_profile_without_a_login(
    s3: S3Server, bucket: str, engine: str, clean_environment: pytest.MonkeyPatch
) -> None:
    """A profile without keys, and a file that cannot be read, have errors of their own."""
    settings_file("config", "[profile empty]\nregion = us-east-1\ns3 =\n  addressing_style = path\n")
    options = {"profile": "empty"}
    async with S3DataSource(s3.config("s3://any", **NO_LOGIN, storage_options=options, engine=engine)) as source:
        with pytest.raises(AccessDenied, match="credentials"):
            await source.read("a.bin")
    settings_file("config", "no settings at all")
    async with S3DataSource(s3.config("s3://any", **NO_LOGIN, engine=engine)) as source:
        with pytest.raises(ConfigError, match="cannot be read"):
            await source.read("a.bin")


@both_engines
async def test_profile_whose_keys_end(
    s3: S3Server, bucket: str, engine: str, clean_environment: pytest.MonkeyPatch
) -> None:
    """A profile may name a program that gives keys with their end, which botocore runs."""
    s3.put(bucket, "a.bin", b"abc")
    ends = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    keys = {"Version": 1, "AccessKeyId": "testkey", "SecretAccessKey": "testsecret", "Expiration": ends}
    settings_file("credentials", json.dumps(keys))
    settings_file("config", f"[default]\ncredential_process = cat {os.environ['AWS_SHARED_CREDENTIALS_FILE']}\n")
    clean_environment.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    async with S3DataSource(s3.config(f"s3://{bucket}", **NO_LOGIN, engine=engine)) as source:
        assert bytes((await source.read("a.bin")).data) == b"abc"


@both_engines
async def test_pickles_as_configuration(s3: S3Server, bucket: str, engine: str) -> None:
    """A source that was used goes to another process as what it was made from, and shows no secret."""
    s3.put(bucket, "a.bin", b"abc")
    async with S3DataSource(s3.config(f"s3://{bucket}", engine=engine)) as source:
        await source.read("a.bin")
        async with pickle.loads(pickle.dumps(source)) as copy:
            assert bytes((await copy.read("a.bin")).data) == b"abc"
        assert "testsecret" not in repr(source) + repr(source.config)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@both_engines
def test_several_loops_use_one_source(s3: S3Server, bucket: str, engine: str) -> None:
    """A source serves one loop after the other and is closed from a third."""
    s3.put(bucket, "a.bin", b"abc")
    source = S3DataSource(s3.config(f"s3://{bucket}", engine=engine))
    for _ in range(2):
        assert bytes(asyncio.run(source.read("a.bin")).data) == b"abc"
    asyncio.run(source.aclose())
    gc.collect()  # connections whose loop has ended cannot be closed in it; they go here, and not in another test


FORKED = """
import asyncio, os, sys
from streaming.core.source_config import DataSourceConfig
from streaming.sources import S3DataSource

url, bucket, parents_engine, childs_engine = sys.argv[1:]
keys = {"key": "testkey", "secret": "testsecret"}
make = lambda engine: S3DataSource(
    DataSourceConfig("s3", "s3", bucket, keys, storage_options={"endpoint_url": url}, engine=engine)
)
inherited = make(parents_engine)

async def read(source):
    try:
        print(len((await source.read("a.bin")).data), flush=True)
    except Exception as error:
        print(type(error).__name__, str(error).partition(",")[0], flush=True)

asyncio.run(read(inherited))
if os.fork() == 0:
    asyncio.run(read(inherited))
    asyncio.run(read(make(childs_engine)))
    os._exit(0)
os.wait()
asyncio.run(read(inherited))
"""


@pytest.mark.parametrize(
    ("parents", "childs", "expected"),
    [("obstore", "obstore", "ClosedError"), ("obstore", "aioboto3", "3"), ("aioboto3", "aioboto3", "3")],
)
def test_forked_child_never_hangs(s3: S3Server, bucket: str, parents: str, childs: str, expected: str) -> None:
    """An inherited source raises ClosedError in a child; a new source works if its client survives a fork."""
    s3.put(bucket, "a.bin", b"abc")
    command = [sys.executable, "-W", "ignore", "-c", FORKED, s3.url, bucket, parents, childs]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    in_parent, inherited, fresh, after = result.stdout.splitlines()
    assert (in_parent, after) == ("3", "3")
    assert inherited.startswith("ClosedError source 's3' was opened in process")
    assert fresh.split(" ")[0] == expected


READ_AND_END = """
import sys
from streaming.core.source_config import DataSourceConfig
from streaming.core.runtime import current_runtime
from streaming.sources import create_data_source

url, bucket, engine = sys.argv[1:]
config = DataSourceConfig(
    "s3", "s3", bucket, {"key": "testkey", "secret": "testsecret"}, storage_options={"endpoint_url": url}, engine=engine
)
source = create_data_source(config)
run = current_runtime().run

async def read_on():
    while True:
        await source.read("a.bin")

print(run(source.list_files()), len(run(source.read("a.bin")).data))
for _ in range(8):
    current_runtime().submit(read_on())
run(source.read("a.bin"))
"""


@both_engines
def test_process_that_ends_in_the_middle_of_reads(s3: S3Server, bucket: str, engine: str) -> None:
    """A process that never closes its source ends quietly."""
    s3.put(bucket, "a.bin", b"abc")
    command = [sys.executable, "-c", READ_AND_END, s3.url, bucket, engine]
    for _ in range(3):
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (result.returncode, result.stdout, result.stderr) == (0, "['a.bin'] 3\n", "")


def test_missing_package_names_its_extra() -> None:
    """Without aioboto3 its engine is refused when the source is made, with the extra that brings it."""
    code = """
import sys
sys.modules["aioboto3"] = None
from streaming.core.source_config import DataSourceConfig
from streaming.sources import S3DataSource
try:
    S3DataSource(DataSourceConfig("s3", "s3", "s3://b", engine="aioboto3"))
except ImportError as error:
    print(type(error).__name__, error)
"""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.startswith(MissingExtra.__name__)
    assert "aiprod-streaming[s3]" in result.stdout


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path_or_uri": "s3://"}, "names no bucket"),
        ({"path_or_uri": "https://bucket/x"}, "names no bucket"),
        ({"engine": "boto"}, "did you mean 'aioboto3'"),
        (
            {"storage_options": {"endpoint": "http://h"}},
            "'endpoint': did you mean 'endpoint_url'",
        ),
        ({"storage_options": {"client_kwargs": {"region": "x"}}}, "did you mean 'region_name'"),
        ({"storage_options": {"client_kwargs": 3}}, "client_kwargs must be a mapping, not a int"),
        ({"storage_options": {"endpoint_url": "h:80"}}, "is not a URL"),
        ({"storage_options": {"region": 3}}, "region must be a string, not 3"),
        ({"storage_options": {"anon": "yes"}}, "anon must be true or false"),
        ({"storage_options": {"addressing_style": "pth"}}, "did you mean 'path'"),
        ({"storage_options": {"config_kwargs": {"s3": {"addressing_style": "pth"}}}}, "did you mean 'path'"),
        ({"storage_options": {"credential_provider": "me"}}, "credential_provider is not a function"),
        ({"storage_options": {"region": "a", "client_kwargs": {"region_name": "b"}}}, "given twice"),
        ({"storage_options": {"anon": True, "profile": "p"}}, "anon and profile are given"),
        ({"credentials": {"aws_access_key": "k"}}, "did you mean 'aws_access_key_id'"),
        ({"credentials": {"key": "k"}}, "belong together"),
        ({"credentials": {"token": "t"}}, "belong together"),
        ({"credentials": {"key": "k", "secret": "s"}, "storage_options": {"key": "other"}}, "given twice"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    """What cannot be used is refused when the source is made, with the nearest that can."""
    config = DataSourceConfig("s3", "s3", **{"path_or_uri": "s3://bucket", **settings})
    with pytest.raises(ConfigError, match=message) as caught:
        create_data_source(config)
    assert "'s'" not in str(caught.value).replace("source 's3'", "")
