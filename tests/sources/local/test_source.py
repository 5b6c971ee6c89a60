"""Cases that only a local folder has: links, modes, and files that change under the reader."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streaming.core.source_config import DataSourceConfig
from streaming.errors import (
    AccessDenied,
    BadRequest,
    ConfigError,
    ObjectChanged,
    ObjectNotFoundError,
    ObjectTooLargeError,
    TruncatedRead,
)
from streaming.sources import LocalDataSource, create_data_source


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty folder."""
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def source(root: Path) -> LocalDataSource:
    """A source over the folder."""
    return LocalDataSource(DataSourceConfig("disk", "local", str(root)))


@contextmanager
def as_unprivileged_user() -> Iterator[None]:
    """Drop root's right to read everything, if the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_missing_root_is_named(tmp_path: Path) -> None:
    """Reading and listing below a root that does not exist say so and name it."""
    source = create_data_source(str(tmp_path / "gone"))
    with pytest.raises(ObjectNotFoundError, match=r"root .*gone.* does not exist"):
        await source.read("a.bin")
    with pytest.raises(ObjectNotFoundError, match=r"root .*gone.* does not exist"):
        await source.list_files()
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "a.bin").write_bytes(b"here now")
    assert (await source.read("a.bin")).data == b"here now"


def test_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """A file for a root is refused when the source is made."""
    (tmp_path / "a.bin").touch()
    with pytest.raises(ConfigError, match="is a file"):
        create_data_source(str(tmp_path / "a.bin"))


async def test_root_may_be_a_link_or_a_file_url(root: Path, tmp_path: Path) -> None:
    """The root itself may be a link, and a URL with escapes."""
    (root / "a.bin").write_bytes(b"a")
    (tmp_path / "link to 100%").symlink_to(root)
    for url in (str(tmp_path / "link to 100%"), f"file://{tmp_path}/link%20to%20100%25"):
        source = create_data_source(url)
        assert await source.list_files() == ["a.bin"]
        assert (await source.read("a.bin")).data == b"a"


@pytest.fixture
def guarded() -> Iterator[Path]:
    """A folder with a file and a folder that only root may read, where any user may enter (not below `tmp_path`)."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "secret.bin").touch(mode=0)
        (root / "locked").mkdir(mode=0)
        yield root


async def test_unreadable_is_not_missing(guarded: Path) -> None:
    """A file, folder or root that the user may not read is `AccessDenied` when read and when listed, never missing."""
    source = create_data_source(str(guarded))
    with as_unprivileged_user():
        with pytest.raises(AccessDenied, match=r"secret\.bin.*modes") as caught:
            await source.read("secret.bin")
        assert isinstance(caught.value, PermissionError)
        with pytest.raises(AccessDenied, match="locked"):
            await source.list_files()
    os.chmod(guarded, 0)
    with as_unprivileged_user():
        for each in (source, create_data_source(str(guarded))):
            with pytest.raises(AccessDenied):
                await each.read("secret.bin")
            with pytest.raises(AccessDenied):
                await each.list_files()
    os.chmod(guarded, 0o755)


async def test_file_that_vanishes_after_the_listing(root: Path, source: LocalDataSource) -> None:
    """A file removed between listing and read is missing, by name."""
    (root / "a.bin").touch()
    assert await source.list_files() == ["a.bin"]
    (root / "a.bin").unlink()
    with pytest.raises(ObjectNotFoundError, match=r"a\.bin.*does not exist"):
        await source.read("a.bin")


def test_file_that_grows_while_it_is_read(root: Path, source: LocalDataSource) -> None:
    """A file written to during the read is reported, never returned half old and half new."""
    path = root / "growing.bin"
    path.write_bytes(bytes(64_000_000))
    is_done = threading.Event()

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            while not is_done.is_set():
                file.write(b"x")

    def read_repeatedly() -> None:
        for _ in range(100):  # until the system lets the writer write during a read
            source.read_blocking("growing.bin")

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        with pytest.raises(ObjectChanged, match=r"growing\.bin.*while it was read"):
            read_repeatedly()
    finally:
        is_done.set()
        writer.join()


def test_file_that_is_cut_while_it_is_read(root: Path, source: LocalDataSource) -> None:
    """A file truncated during the read is a truncated read, which may be tried again."""
    path = root / "cut.bin"
    seen: list[Exception] = []

    def read() -> None:
        try:
            source.read_blocking("cut.bin")
        except TruncatedRead as error:
            seen.append(error)
        except ObjectChanged:
            pass  # it was looked at when its size had changed, but its time had not

    for _ in range(300):  # until the cut falls into the read
        path.write_bytes(bytes(8_000_000))
        reader = threading.Thread(target=read)
        reader.start()
        os.truncate(path, 1_000)
        reader.join()
        if seen:
            break
    assert "cut.bin" in str(seen[0])
    assert seen[0].retryable  # type: ignore[attr-defined]


async def test_links_inside_the_root_are_followed(root: Path, source: LocalDataSource) -> None:
    """A link to a file or folder below the root is listed under its own name and read like it."""
    (root / "data").mkdir()
    (root / "data" / "a.bin").write_bytes(b"a")
    (root / "file.bin").symlink_to("data/a.bin")
    (root / "folder").symlink_to(root / "data")
    assert await source.list_files() == ["data/a.bin", "file.bin", "folder/a.bin"]
    assert await source.list_files("folder/") == ["folder/a.bin"]
    for path in ("file.bin", "folder/a.bin"):
        assert (await source.read(path)).data == b"a"


async def test_links_out_of_the_root_are_refused(
    root: Path, source: LocalDataSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Reads outside the root are denied, also through a folder; a listing leaves such files out with one warning."""
    (tmp_path / "root-twin").mkdir()  # begins with the name of the root
    (tmp_path / "root-twin" / "secret.bin").write_bytes(b"secret")
    (root / "file.bin").symlink_to(tmp_path / "root-twin" / "secret.bin")
    (root / "folder").symlink_to(tmp_path / "root-twin")
    (root / "own.bin").touch()
    for path in ("file.bin", "folder/secret.bin"):
        with pytest.raises(AccessDenied, match="link out of its root"):
            await source.read(path)
    with caplog.at_level(logging.WARNING):
        assert await source.list_files() == ["own.bin"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "2 that link out of the root" in caplog.text
    assert "file.bin" in caplog.text
    assert await source.list_files("folder/") == []
    assert source.skipped.counts == {"symlink_outside_root": {"": 1}}


async def test_special_files_are_counted(root: Path, source: LocalDataSource) -> None:
    """Links to nothing and pipes are left out of a listing, which says how many there were."""
    (root / "nothing.bin").symlink_to("missing.bin")
    (root / "self.bin").symlink_to("self.bin")
    os.mkfifo(root / "pipe")
    (root / "a.bin").touch()
    assert await source.list_files() == ["a.bin"]
    assert source.skipped.counts == {"broken_link": {".bin": 2}, "special_file": {"": 1}}
    assert await source.list_files("a") == ["a.bin"]
    assert not source.skipped


async def test_link_loops_end(root: Path, source: LocalDataSource) -> None:
    """Links to themselves, to each other, to folders around them and to nothing neither hang nor repeat a listing."""
    for folder in ("a", "b", "a/deep"):
        (root / folder).mkdir()
    (root / "a" / "deep" / "x.bin").write_bytes(b"x")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "to-b").symlink_to(root / "b")
    (root / "b" / "to-a").symlink_to(root / "a")
    (root / "self.bin").symlink_to("self.bin")
    (root / "nothing.bin").symlink_to("missing.bin")
    expected = ["a/deep/x.bin", "b/to-a/deep/x.bin"]
    assert await source.list_files() == expected
    assert [path for start in "ab" for path in await source.list_files(f"{start}/")] == expected
    assert (await source.read("a/up/a/to-b/to-a/deep/x.bin")).data == b"x"
    for path in ("self.bin", "nothing.bin", "self.bin/x"):
        with pytest.raises(ObjectNotFoundError):
            await source.read(path)


async def test_only_regular_files_are_read(root: Path, source: LocalDataSource) -> None:
    """A pipe never blocks a reader, a folder is not an object, and neither is listed."""
    os.mkfifo(root / "pipe.bin")
    (root / "folder.bin").mkdir()
    with pytest.raises(BadRequest, match=r"pipe\.bin.*regular files"):
        await source.read("pipe.bin")
    with pytest.raises(ObjectNotFoundError, match="directory"):
        await source.read("folder.bin")
    assert await source.list_files() == []


async def test_names_that_are_not_text_and_too_long(root: Path, source: LocalDataSource) -> None:
    """Names that are not UTF-8, and hidden files, are read; a name that no file can have is missing."""
    for name in (b"\xff\xfe.bin", b".hidden"):
        (root / os.fsdecode(name)).write_bytes(name)
    for path in await source.list_files():
        assert (await source.read(path)).data == os.fsencode(path)
    with pytest.raises(ObjectNotFoundError):
        await source.read("n" * 300)


async def test_limit_counts_the_requested_bytes(root: Path) -> None:
    """More bytes than the limit are refused before they are read; a part within it is served."""
    (root / "big.bin").touch()
    os.truncate(root / "big.bin", 10**12)
    source = LocalDataSource(DataSourceConfig("disk", "local", str(root), max_object_bytes=1000))
    with pytest.raises(ObjectTooLargeError, match=r"big\.bin.*max_object_bytes"):
        await source.read("big.bin")
    assert (await source.read("big.bin", 10**12 - 5, 10**13)).size == 10**12
    assert (await source.read("big.bin", 500, 1500)).data == bytes(1000)


async def test_times_and_etags_match_the_listing(root: Path, source: LocalDataSource) -> None:
    """The listing has the modification time, and the same ETag as a read."""
    (root / "a.bin").write_bytes(b"a")
    os.utime(root / "a.bin", (1_700_000_000, 1_700_000_000.5))
    info = await anext(source.iter_files())
    assert info.modified == 1_700_000_000.5
    assert info.etag == (await source.read("a.bin")).etag
