"""Folders that are swapped for links while a source is open, and links where this library writes."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from streaming.adapter import StreamingDatasetAdapter
from streaming.cli.app import app
from streaming.core.source_config import DataSourceConfig
from streaming.errors import AccessDenied, ObjectNotFoundError, SourceError
from streaming.index import SampleIndex
from streaming.monitoring.metrics import write_textfile
from streaming.sources import LocalDataSource
from streaming.sources.local import root as local_root
from streaming.testing import MemorySource

SECRET = b"not below the root"


@pytest.fixture(params=["openat2", "folder by folder"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `a/x.bin`, next to another with a file of the same name, with and without openat2."""
    if request.param == "folder by folder":
        monkeypatch.setattr(local_root, "_system_call", None)
    for folder, content in (("root/a", b"inside"), ("outside", SECRET)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.bin").write_bytes(content)
    return tmp_path / "root"


@pytest.fixture
def source(root: Path) -> Iterator[LocalDataSource]:
    """A source over the folder, closed at the end."""
    source = LocalDataSource(DataSourceConfig("disk", "local", str(root)))
    yield source
    asyncio.run(source.aclose())


def swap(folder: Path, target: Path) -> None:
    """Put a link in the place of a folder."""
    folder.rename(folder.with_name(f"{folder.name}.old"))
    folder.symlink_to(target)


def test_a_folder_that_became_a_link_does_not_lead_out(root: Path, source: LocalDataSource) -> None:
    """Also where it was read as a folder before; once it is a folder again, its files are read again."""
    assert bytes(source.read_blocking("a/x.bin").data) == b"inside"
    swap(root / "a", root.parent / "outside")
    with pytest.raises(AccessDenied, match="link out of its root"):
        source.read_blocking("a/x.bin")
    (root / "a").unlink()
    (root / "a.old").rename(root / "a")
    assert bytes(source.read_blocking("a/x.bin").data) == b"inside"


def test_a_folder_above_that_became_a_link_does_not_lead_out(root: Path, source: LocalDataSource) -> None:
    """At any depth of the file."""
    for top in (root / "b", root.parent / "outside"):
        (top / "c" / "d").mkdir(parents=True)
        (top / "c" / "d" / "y.bin").write_bytes(SECRET if top.name == "outside" else b"deep")
    assert bytes(source.read_blocking("b/c/d/y.bin").data) == b"deep"
    swap(root / "b", root.parent / "outside")
    with pytest.raises(AccessDenied, match="link out of its root"):
        source.read_blocking("b/c/d/y.bin")


def test_links_inside_keep_their_meaning(root: Path, source: LocalDataSource) -> None:
    """Relative and absolute ones, of files and folders, one leading to another, and one that leaves and comes back."""
    (root / "file.bin").symlink_to("a/x.bin")
    (root / "a" / "up.bin").symlink_to("../file.bin")
    (root / "relative").symlink_to("a")
    (root / "absolute").symlink_to(root / "a")
    (root / "back").symlink_to(f"../{root.name}/absolute")
    names = ["a/up.bin", "a/x.bin", "file.bin", *(f"{top}/x.bin" for top in ("absolute", "back", "relative"))]
    for name in names:
        assert bytes(source.read_blocking(name).data) == b"inside"
    assert set(names) < set(asyncio.run(source.list_files()))


def test_no_race_leads_out(root: Path, source: LocalDataSource) -> None:
    """While a folder and a link change places as fast as they can, reads and listings see the inside or an error."""
    (root / "link").symlink_to(root.parent / "outside")
    for name in ("extra.bin", "more.bin"):
        (root.parent / "outside" / name).write_bytes(SECRET)
    is_done = threading.Event()

    def change_places() -> None:
        while not is_done.is_set():
            for old, new in (("a", "spare"), ("link", "a"), ("a", "link"), ("spare", "a")):
                os.rename(root / old, root / new)

    changer = threading.Thread(target=change_places)
    changer.start()
    try:
        for _ in range(3000):
            try:
                assert bytes(source.read_blocking("a/x.bin").data) == b"inside"
            except SourceError:
                pass
        for _ in range(100):
            listed = asyncio.run(source.list_files())
            assert not [name for name in listed if name.endswith(("extra.bin", "more.bin"))]
    finally:
        is_done.set()
        changer.join()
    assert bytes(source.read_blocking("a/x.bin").data) == b"inside"


def test_a_listing_that_is_under_way_does_not_follow(root: Path, source: LocalDataSource) -> None:
    """A folder that becomes a link while its files are listed does not lead to the folders of another."""
    for number in range(3000):
        (root / "a" / f"0{number}.bin").touch()
    for top in (root / "a", root.parent / "outside"):
        (top / "b").mkdir()
    (root / "a" / "b" / "y.bin").touch()
    (root.parent / "outside" / "b" / "secret.bin").touch()

    async def listed() -> list[str]:
        names: list[str] = []
        async for info in source.iter_files():
            if not names:
                swap(root / "a", root.parent / "outside")
            names.append(info.path)
        return names

    names = asyncio.run(listed())
    assert len(names) >= 3000
    assert "a/b/secret.bin" not in names


def test_a_root_that_was_replaced_is_found_again(root: Path, source: LocalDataSource) -> None:
    """By the next listing, and where a file is missing; until then reads are of the folder that was listed."""
    assert bytes(source.read_blocking("a/x.bin").data) == b"inside"
    root.rename(root.with_name("before"))
    (root / "b").mkdir(parents=True)
    (root / "b" / "y.bin").write_bytes(b"new")
    assert bytes(source.read_blocking("b/y.bin").data) == b"new"
    with pytest.raises(ObjectNotFoundError):
        source.read_blocking("a/x.bin")
    assert asyncio.run(source.list_files()) == ["b/y.bin"]


def test_a_missing_root_does_not_search_forever(tmp_path: Path, root: Path, source: LocalDataSource) -> None:
    """A root that goes away is named, once it was open and before."""
    source.read_blocking("a/x.bin")
    root.rename(root.with_name("gone"))
    with pytest.raises(ObjectNotFoundError, match=r"root .* does not exist"):
        source.read_blocking("a/y.bin")


def test_descriptors_are_given_back(root: Path) -> None:
    """A source that was closed or forgotten holds none."""

    async def use(source: LocalDataSource) -> None:
        await source.read("a/x.bin")
        with pytest.raises(ObjectNotFoundError):
            await source.read("a/none/of/these")
        await source.list_files()
        await source.read("a/x.bin")

    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    gc.collect()
    before = opened()
    for _ in range(3):
        source = LocalDataSource(DataSourceConfig("disk", "local", str(root)))
        asyncio.run(use(source))
        asyncio.run(source.aclose())
        source = LocalDataSource(DataSourceConfig("disk", "local", str(root)))
        asyncio.run(use(source))
        del source
        gc.collect()
    assert opened() == before


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that another user could make this process write to by a link."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    return victim


def unreadable() -> MemorySource:
    """A source in which one of two samples is damaged."""
    return MemorySource("data", {"0.json": b"{", "1.json": b"1"})


@pytest.mark.parametrize("kind", ["to a file", "to nothing"])
def test_notes_of_bad_samples_follow_no_link(
    kind: str, tmp_path: Path, victim: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither to an existing file nor to a new one; the run continues, and one warning says why."""
    target = victim if kind == "to a file" else tmp_path / "made"
    (tmp_path / "bad.jsonl").symlink_to(target)
    options: dict[str, Any] = {"on_error": "replace", "quarantine_path": tmp_path / "bad.jsonl"}
    with caplog.at_level("WARNING", "streaming"), StreamingDatasetAdapter(unreadable(), **options) as adapter:
        assert adapter[0]["data"] == 1
    assert (victim.read_text(), (tmp_path / "made").exists()) == ("precious", False)
    assert sum("quarantine_failed" in record.getMessage() for record in caplog.records) == 1


def test_notes_of_bad_samples_wait_for_no_pipe(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A pipe without a reader is a warning."""
    os.mkfifo(tmp_path / "bad.jsonl")
    options: dict[str, Any] = {"on_error": "replace", "quarantine_path": tmp_path / "bad.jsonl"}
    with caplog.at_level("WARNING", "streaming"), StreamingDatasetAdapter(unreadable(), **options) as adapter:
        assert adapter[0]["data"] == 1
    assert sum("quarantine_failed" in record.getMessage() for record in caplog.records) == 1


def test_metrics_in_a_file_follow_no_link(tmp_path: Path, victim: Path) -> None:
    """Neither at the final name nor at one that could be guessed: by the process and thread, as its library does."""
    (tmp_path / "run.prom").symlink_to(victim)
    (tmp_path / f"run.prom.{os.getpid()}.{threading.get_ident()}").symlink_to(victim)
    write_textfile(tmp_path / "run.prom", CollectorRegistry())
    assert victim.read_text() == "precious"
    assert (tmp_path / "run.prom").is_file()
    assert not (tmp_path / "run.prom").is_symlink()


def test_a_saved_index_follows_no_link(tmp_path: Path, victim: Path) -> None:
    """The link is replaced, and no temporary file is left."""
    (tmp_path / "a.index").symlink_to(victim)
    asyncio.run(SampleIndex.build([MemorySource("data", {"1.json": b"1"})])).save(tmp_path / "a.index")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "a.index").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["a.index", "victim"]


def test_a_file_got_by_the_command_line_follows_no_link(tmp_path: Path, victim: Path) -> None:
    """`streaming get -o` replaces a link and leaves what it leads to."""
    (tmp_path / "x.bin").write_bytes(b"x")
    (tmp_path / "out.bin").symlink_to(victim)
    assert CliRunner().invoke(app, ["get", str(tmp_path / "x.bin"), "-o", str(tmp_path / "out.bin")]).exit_code == 0
    assert victim.read_text() == "precious"
    assert (tmp_path / "out.bin").read_bytes() == b"x"


def test_no_one_else_may_write_the_files(tmp_path: Path) -> None:
    """Whatever the mask of the process."""
    before = os.umask(0)
    try:
        write_textfile(tmp_path / "run.prom", CollectorRegistry())
        options: dict[str, Any] = {
            "on_error": "replace",
            "quarantine_path": tmp_path / "bad.jsonl",
            "index_path": tmp_path / "a.index",
        }
        with StreamingDatasetAdapter(unreadable(), **options) as adapter:
            assert adapter[0]["data"] == 1
    finally:
        os.umask(before)
    assert {name: (tmp_path / name).stat().st_mode & 0o777 for name in os.listdir(tmp_path)} == {
        "run.prom": 0o644,
        "bad.jsonl": 0o644,
        "a.index": 0o644,
    }
