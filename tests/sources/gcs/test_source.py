"""GCS by both engines, against a real server."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from streaming.core.runtime import Runtime
from streaming.core.source_config import DataSourceConfig
from streaming.errors import ClosedError, ObjectNotFoundError, ObjectTooLargeError
from streaming.sources import GCSDataSource
from streaming.sources.base import DataSource
from tests.contracts.source import Place, SourceContract
from tests.sources.gcs_server import GcsServer, gcs

__all__ = ["gcs"]  # a fixture


class _OnGcs(SourceContract):
    engine: str
    root_bytes = len("root %41/")

    @pytest.fixture
    def bucket(self, gcs: GcsServer) -> str:
        """A new bucket, with an object next to the root."""
        bucket = gcs.make_bucket()
        gcs.put(bucket, "root %41x", b"not below the root")
        return bucket

    @pytest.fixture
    def place(self, gcs: GcsServer, bucket: str) -> Place:
        """Objects placed by the JSON API."""

        def place(path: str, data: bytes | None) -> None:
            if data is None:
                gcs.delete(bucket, f"root %41/{path}")
            else:
                gcs.put(bucket, f"root %41/{path}", data)

        return place

    @pytest.fixture
    async def source(self, gcs: GcsServer, bucket: str) -> AsyncIterator[DataSource]:
        """A source over a folder in the bucket, of a name that needs escaping."""
        options = {"endpoint_url": gcs.url}
        config = DataSourceConfig(
            "cloud", "gcs", f"gs://{bucket}/root %41", engine=self.engine, storage_options=options
        )
        async with GCSDataSource(config) as source:
            yield source


class TestGCSByObstore(_OnGcs):
    """Read by obstore."""

    engine = "obstore"

    def shown(self, key: str) -> str:
        """The key with U+FFFD for what XML cannot hold: fake-gcs-server takes no `encoding-type=url`, as GCS does."""
        return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f]", "\ufffd", key)


class TestGCSByGcsfs(_OnGcs):
    """Read by gcsfs."""

    engine = "gcsfs"


Make = Callable[..., GCSDataSource]


@pytest.fixture(params=["obstore", "gcsfs"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine in turn."""
    return str(request.param)


@pytest.fixture
async def make(gcs: GcsServer, engine: str) -> AsyncIterator[Make]:
    """Makes sources with storage options, closed in the end; without `endpoint_url` they read the real server."""
    made = []

    def make(root: str, settings: dict[str, Any] | None = None, **options: Any) -> GCSDataSource:
        options = {"endpoint_url": gcs.url, **options}
        options = {name: value for name, value in options.items() if value is not None}
        config = DataSourceConfig("cloud", "gcs", root, engine=engine, storage_options=options, **(settings or {}))
        made.append(GCSDataSource(config))
        return made[-1]

    yield make
    for source in made:
        await source.aclose()


@pytest.fixture
def bucket(gcs: GcsServer) -> str:
    """A new bucket that holds `a.bin` of ten bytes."""
    bucket = gcs.make_bucket()
    gcs.put(bucket, "a.bin", b"0123456789")
    return bucket


@pytest.mark.parametrize("root", ["gs://{}/", "gcs://{}", "{}", "GS://{}"])
async def test_ways_to_write_a_root(make: Make, bucket: str, root: str) -> None:
    """A bucket is named with either scheme or none."""
    source = make(root.format(bucket))
    assert await source.list_files() == ["a.bin"]
    assert bytes((await source.read("a.bin", 2, 4)).data) == b"23"


async def test_a_missing_bucket_is_named(make: Make) -> None:
    """Listing it names the bucket, reading from it the object; both are `ObjectNotFoundError`."""
    source = make("gs://no-such-bucket/x")
    with pytest.raises(ObjectNotFoundError, match="bucket 'no-such-bucket' of source 'cloud' does not exist"):
        await source.list_files()
    with pytest.raises(ObjectNotFoundError, match=r"'a\.bin'"):
        await source.read("a.bin")


async def test_listing_continues_after_the_first_page(gcs: GcsServer, make: Make, bucket: str) -> None:
    """More objects than one answer holds are all listed once, with size, ETag and time, in the same order again."""
    names = [f"{number % 3}/{number:04}" for number in range(1101)]
    for name in names:
        gcs.put(bucket, f"many/{name}", b"x" * (int(name[2:]) % 7))
    source = make(f"gs://{bucket}/many")
    found = [info async for info in source.iter_files()]
    assert sorted((info.path, info.size) for info in found) == sorted((name, int(name[2:]) % 7) for name in names)
    assert [info async for info in source.iter_files()] == found
    assert all(info.etag and info.modified for info in found)
    assert await source.list_files("1/") == sorted(name for name in names if name.startswith("1/"))


async def test_markers_of_empty_folders_are_not_listed(gcs: GcsServer, make: Make, bucket: str) -> None:
    """The empty objects `x/` that web consoles create for folders are left out."""
    gcs.put(bucket, "root/", b"")
    gcs.put(bucket, "root/x/", b"")
    gcs.put(bucket, "root/x/a.bin", b"1")
    assert await make(f"gs://{bucket}/root").list_files() == ["x/a.bin"]


async def test_an_overwritten_object_has_another_etag_and_version(gcs: GcsServer, make: Make, bucket: str) -> None:
    """ETag and generation change with the content; they agree between whole, part, empty part, and listing."""
    source = make(f"gs://{bucket}")
    first = await source.read("a.bin")
    assert first.etag
    assert str(first.version).isdigit()
    for start, end in ((0, 4), (3, 3), (10, None)):
        blob = await source.read("a.bin", start, end)
        assert (blob.etag, blob.version, blob.size) == (first.etag, first.version, 10)
    assert [info.etag async for info in source.iter_files()] == [first.etag]
    gcs.put(bucket, "a.bin", b"9876543210")
    second = await source.read("a.bin")
    assert bytes(second.data) == b"9876543210"
    assert second.etag != first.etag
    assert second.version != first.version


async def test_compressed_objects_come_as_they_are_stored(gcs: GcsServer, make: Make, bucket: str) -> None:
    """An object with `Content-Encoding: gzip` is not decompress_body on the way: size, ranges and listing agree."""
    packed = gzip.compress(b"hello " * 100)
    gcs.put(bucket, "z.gz", packed, encoding="gzip")
    source = make(f"gs://{bucket}")
    assert bytes((await source.read("z.gz")).data) == packed
    part = await source.read("z.gz", 3, 9)
    assert (bytes(part.data), part.size) == (packed[3:9], len(packed))
    assert [info.size async for info in source.iter_files("z")] == [len(packed)]


async def test_too_large_objects_are_refused(make: Make, bucket: str) -> None:
    """Beyond `max_object_bytes` nothing is taken; a part within it is."""
    source = make(f"gs://{bucket}", {"max_object_bytes": 9})
    with pytest.raises(ObjectTooLargeError, match=r"'a\.bin'.*10 bytes are more than max_object_bytes=9"):
        await source.read("a.bin")
    with pytest.raises(ObjectTooLargeError):
        await source.read("a.bin", 0, 10)
    assert bytes((await source.read("a.bin", 1)).data) == b"123456789"


async def test_each_loop_has_its_own_connections(make: Make, bucket: str) -> None:
    """One source reads in several event loops side by side, and closing it in one closes all."""
    source = make(f"gs://{bucket}")
    runtimes = [Runtime() for _ in range(3)]
    try:
        reads = [asyncio.wrap_future(each.submit(source.read("a.bin"))) for each in runtimes * 3]
        blobs = await asyncio.gather(source.read("a.bin"), *reads)
        assert [bytes(blob.data) for blob in blobs] == [b"0123456789"] * 10
        await source.aclose()
        with pytest.raises(ClosedError):
            await asyncio.wrap_future(runtimes[0].submit(source.read("a.bin")))
    finally:
        for each in runtimes:
            await asyncio.to_thread(each.close)


@pytest.mark.parametrize("written", ["{}", "http://{}", "http://{}/"])
async def test_an_emulator_from_the_environment(
    gcs: GcsServer, make: Make, bucket: str, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    """`STORAGE_EMULATOR_HOST` is read without a login, also where a variable names one."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", written.format(gcs.url.removeprefix("http://")))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/no/such/file.json")
    source = make(f"gs://{bucket}", endpoint_url=None)
    assert await source.list_files() == ["a.bin"]
    assert (await source.read("a.bin")).size == 10


async def test_settings_win_over_the_environment(make: Make, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint and an anonymous login that are given are taken, whatever variables say."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/no/such/file.json")
    for options in ({"token": "anon"}, {"anon": True}, {"anon": True, "token": "anon"}, {}):
        assert await make(f"gs://{bucket}", **options).list_files() == ["a.bin"]


@pytest.mark.parametrize("login", ["token", "service account"])
async def test_odd_names_with_a_login(gcs: GcsServer, bucket: str, login: str) -> None:
    """obstore's listings name each key as it is with a token, and with a service account, which signs their URLs."""
    gcs.put(bucket, "odd//b.bin", b"1")
    key = generate_private_key(65537, 2048)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    account = {"type": "service_account", "client_email": "a@p", "private_key_id": "1", "private_key": text}
    given = {"token": "t0ken"} if login == "token" else {"service_account_json": json.dumps(account)}
    options = {"endpoint_url": gcs.url}
    config = DataSourceConfig("cloud", "gcs", f"gs://{bucket}", given, storage_options=options)
    async with GCSDataSource(config) as source:
        assert await source.list_files() == ["a.bin"]
        assert source.skipped.counts == {"not_in_engine": {".bin": 1}}
