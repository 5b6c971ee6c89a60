"""Saved indexes: the same after opening, whole or not there, and refused when they do not fit."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from streaming.core.source_config import DataSourceConfig
from streaming.errors import ConfigError, IndexFileError
from streaming.index import SampleIndex, configuration, validator
from streaming.sources import create_data_source
from streaming.sources.base import FileInfo
from streaming.sources.local.source import LocalDataSource
from streaming.testing import MemorySource

PRELUDE_BYTES = 48


def source(count: int = 20) -> MemorySource:
    """Two parts, some folders, and an object of lines."""
    objects = {f"{part}/{n % 3}/{n}.pt": b"x" * n for part in ("x", "y") for n in range(count)}
    return MemorySource("data", objects | {"x/lines.jsonl": b"1\n22\n", "y/lines.jsonl": b"3\n44\n"})


async def build(count: int = 20) -> SampleIndex:
    """An index over `source`."""
    return await SampleIndex.build([source(count)], data_mapping=["x", "y"])


def content(index: SampleIndex) -> list[object]:
    """Everything that an index says."""
    samples: list[object] = [(index.name(i), index.rows(i)) for i in range(len(index))]
    return [*samples, index.parts, index.fingerprint, index.dropped, index.total_bytes, index.max_object_bytes]


async def test_an_opened_index_says_what_was_built(tmp_path: Path) -> None:
    """Saving creates missing folders; the file has as many bytes as the index says, and nothing else is left."""
    index = await build()
    before = content(index)
    index.save(tmp_path / "new" / "a.index")
    assert content(SampleIndex.open(str(tmp_path / "new" / "a.index"))) == content(index) == before
    assert os.listdir(tmp_path / "new") == ["a.index"]
    assert os.stat(tmp_path / "new" / "a.index").st_size == index.nbytes
    assert "22 samples of x, y" in repr(index)


async def test_positions_outside_are_refused(tmp_path: Path) -> None:
    """Positions run from 0 to the length; negative ones belong to the caller's own arithmetic."""
    index = await build()
    for position in (-1, len(index)):
        with pytest.raises(IndexError):
            index.rows(position)
        with pytest.raises(IndexError):
            index.name(position)


async def test_every_cut_and_every_flipped_byte_is_refused(tmp_path: Path) -> None:
    """A damaged file never opens, and the message says what to do."""
    index = await build(3)
    path = tmp_path / "a.index"
    index.save(path)
    data = path.read_bytes()
    places = [*range(PRELUDE_BYTES), *range(PRELUDE_BYTES, len(data), 7)]
    flipped = [bytes([*data[:at], data[at] ^ 0x40, *data[at + 1 :]]) for at in places]
    cut = [data[:size] for size in (0, 1, PRELUDE_BYTES - 1, PRELUDE_BYTES, len(data) // 2, len(data) - 1)]
    for bad in [*flipped, *cut, data + b"x"]:
        path.write_bytes(bad)
        with pytest.raises(IndexFileError, match="build it again") as caught:
            SampleIndex.open(path)
        assert str(path) in str(caught.value)


async def test_another_version_is_named(tmp_path: Path) -> None:
    """An index of another version is refused with both versions."""
    path = tmp_path / "a.index"
    (await build(1)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[:8] + (7).to_bytes(4, "little") + data[12:])
    with pytest.raises(IndexFileError, match="is of version 7, and this library reads version 1"):
        SampleIndex.open(path)


async def test_an_index_of_another_configuration_is_refused(tmp_path: Path) -> None:
    """Other sources, mapping, rules or treatment of missing parts are another configuration; order of keys counts."""
    path = tmp_path / "a.index"
    (await build(2)).save(path)
    right = configuration([source()], data_mapping={"x": "x", "y": "y"})
    assert len(SampleIndex.open(path, expect=right)) == 4
    others = [
        configuration([source()]),
        configuration([source()], data_mapping=["y", "x"]),
        configuration([source()], data_mapping=["x", "y"], rename={"a": "b"}),
        configuration([source()], data_mapping=["x", "y"], missing="drop"),
        configuration([MemorySource("other")], data_mapping=["x", "y"]),
    ]
    for other in others:
        with pytest.raises(IndexFileError, match="built for other sources"):
            SampleIndex.open(path, expect=other)
    assert len({right, *others}) == 6


def test_engines_with_etags_of_their_own_have_indexes_of_their_own() -> None:
    """gcsfs gives other ETags than obstore, so neither takes an index of the other; S3's engines share theirs."""

    def of(kind: str, engine: str | None) -> str:
        return configuration([create_data_source(DataSourceConfig("cloud", kind, "bucket/x", engine=engine))])

    assert of("gcs", "gcsfs") != of("gcs", "obstore") == of("gcs", None)
    assert of("s3", "aioboto3") == of("s3", "obstore") == of("s3", None)


async def test_no_secret_is_saved(tmp_path: Path) -> None:
    """Neither the file nor what it is compared by depends on a signature in a URL."""
    urls = [f"http://u:hunter2{n}@h/x?sig=hunter2{n}" for n in (1, 2)]
    sources = [MemorySource(DataSourceConfig("data", "http", url), {"a.pt": b"1"}) for url in urls]
    assert configuration(sources[:1]) == configuration(sources[1:])
    (await SampleIndex.build(sources[:1])).save(tmp_path / "a.index")
    assert b"hunter2" not in (tmp_path / "a.index").read_bytes()


def test_a_missing_file_is_a_plain_error(tmp_path: Path) -> None:
    """A file that cannot be opened raises the error that `open` would raise."""
    with pytest.raises(FileNotFoundError):
        SampleIndex.open(tmp_path / "gone.index")


FULL_DISK = """
import asyncio, resource, signal, sys
from pathlib import Path
from streaming.index import SampleIndex
from streaming.testing import MemorySource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
objects = {f"{n}.pt": b"" for n in range(3000)}
index = asyncio.run(SampleIndex.build([MemorySource("data", objects)]))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    index.save(sys.argv[1])
except OSError as exc:
    print(type(exc).__name__, exc)
"""


async def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """If the file cannot be written completely, the error says so, the old file stays, and no partial file is left."""
    path = tmp_path / "a.index"
    (await build(2)).save(path)
    before = path.read_bytes()
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    assert "the index cannot be saved" in done.stdout
    assert "nothing was left behind" in done.stdout
    assert os.listdir(tmp_path) == ["a.index"]
    assert path.read_bytes() == before


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file in the place of the folder is an error that names the path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot be saved .*a\.index"):
        (await build(1)).save(tmp_path / "file" / "a.index")


async def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    """A path that exists and is not a regular file is left as it is."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="not a file"):
        (await build(1)).save(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def _save_often(path: str, count: int) -> None:
    for _ in range(20):
        asyncio.run(build(count)).save(path)


async def test_two_processes_may_save_one_index_at_once(tmp_path: Path) -> None:
    """A reader sees one or the other, always whole, and the savers leave nothing behind."""
    path = tmp_path / "a.index"
    (await build(5)).save(path)
    context = multiprocessing.get_context("spawn")
    savers = [context.Process(target=_save_often, args=(str(path), count)) for count in (5, 50)]
    for saver in savers:
        saver.start()
    seen = set()
    while any(saver.is_alive() for saver in savers):
        seen.add(len(SampleIndex.open(path)))
    for saver in savers:
        saver.join()
    assert [saver.exitcode for saver in savers] == [0, 0]
    assert seen <= {7, 52}
    assert os.listdir(tmp_path) == ["a.index"]


async def test_a_saved_index_pickles_as_its_path(tmp_path: Path) -> None:
    """The pickle stays small, and one that was not saved carries its bytes."""
    index = await build(200)
    assert content(pickle.loads(pickle.dumps(index))) == content(index)
    index.save(tmp_path / "a.index")
    assert len(pickle.dumps(index)) < 500
    assert content(pickle.loads(pickle.dumps(index))) == content(index)


async def test_a_pickle_notices_that_its_file_was_replaced(tmp_path: Path) -> None:
    """Positions must mean the same on both sides, so another index at the path is refused."""
    index = await build(5)
    index.save(tmp_path / "a.index")
    sent = pickle.dumps(index)
    (await build(6)).save(tmp_path / "a.index")
    with pytest.raises(IndexFileError, match="was replaced"):
        pickle.loads(sent)
    assert len(index) == 7
    assert index.rows(6)[0].path == "x/lines.jsonl"


async def test_an_index_is_small(tmp_path: Path) -> None:
    """At most 40 bytes an object beyond its path, also where each folder holds two objects."""
    for per_folder in (1, 2, 1000):
        paths = [f"x/session-{n // per_folder:08d}/{n:08d}.pt" for n in range(20_000)]
        index = await SampleIndex.build([MemorySource("data", dict.fromkeys(paths, b""))])
        assert (index.nbytes - sum(map(len, paths))) / len(paths) <= 40
        assert index.rows(12_345)[0].path == paths[12_345]


async def test_the_fingerprint_is_of_the_data_alone(tmp_path: Path) -> None:
    """Equal data in another place has the same fingerprint; one changed object, key or name gives another."""
    objects = {"a.pt": b"1", "b.pt": b"2"}
    first = await SampleIndex.build([MemorySource(DataSourceConfig("data", "memory", "memory://one"), objects)])
    second = await SampleIndex.build([MemorySource(DataSourceConfig("data", "memory", "memory://two"), objects)])
    changed = MemorySource("data", objects)
    changed.put("b.pt", b"2")
    prints = {(await SampleIndex.build([each])).fingerprint for each in (changed, MemorySource("other", objects))}
    assert first.fingerprint == second.fingerprint
    assert len({first.fingerprint, *prints}) == 3


async def test_revalidation_names_what_changed() -> None:
    """A new listing reports added, removed and changed samples, and gives the new index."""
    data = source()
    index = await SampleIndex.build([data], data_mapping=["x", "y"])
    assert not await index.revalidate([data])
    for part in ("x", "y"):
        data.put(f"{part}/0/30.pt", b"new")
        data.delete(f"{part}/1/4.pt")
        data.put(f"{part}/zz.pt", b"new")
    data.put("y/2/5.pt", b"other")
    data.put("x/lines.jsonl", b"1\n22\n333\n")
    data.put("y/lines.jsonl", b"3\n")
    with pytest.raises(Exception, match="'lines#1' lacks its part 'y'"):
        await index.revalidate([data])
    data.put("x/lines.jsonl", b"9\n")
    changes = await index.revalidate([data])
    assert changes
    assert (changes.added, changes.removed, changes.changed) == (["0/30", "zz"], ["1/4", "lines#1"], ["2/5", "lines#0"])
    assert len(changes.index) == len(index)
    assert not await changes.index.revalidate([data])


async def test_revalidation_reads_lines_again_only_if_they_changed(tmp_path: Path) -> None:
    """What an opened index knows of an unchanged object of lines is not read a second time."""
    data = source()
    index = await SampleIndex.build([data], data_mapping=["x", "y"])
    index.save(tmp_path / "a.index")
    data.put("x/lines.jsonl", b"7\n88\n")
    data.reads.clear()
    changes = await SampleIndex.open(tmp_path / "a.index").revalidate([data])
    assert changes.changed == ["lines#0", "lines#1"]
    assert dict(data.reads) == {"x/lines.jsonl": 1}


async def test_revalidation_needs_the_same_sources() -> None:
    """Other sources than the index was built over are a mistake of the caller."""
    with pytest.raises(ConfigError, match=r"built over the sources \['data'\], not \['other'\]"):
        await (await build(1)).revalidate([MemorySource("other")])


async def test_a_listing_is_checked_by_what_a_read_answers(tmp_path: Path) -> None:
    """The validator of a row is that of the ETag that reading the object brings."""
    (tmp_path / "a.json").write_text("1")
    async with LocalDataSource(DataSourceConfig("data", "local", tmp_path)) as local:
        row = (await SampleIndex.build([local])).rows(0)[0]
        blob = await local.read(row.path)
        assert row.validator == validator(blob.etag, blob.size, None) != 0


def test_validators_distinguish_objects() -> None:
    """By ETag, however it is quoted; else by size and time; 0 where there is nothing to go by."""
    assert validator('W/"abc"', 1, 2.0) == validator('"abc"', 5, None) == validator("abc", -1, None)
    assert (
        len({validator("abc", 1, None), validator("abd", 1, None), validator(None, 1, 2.0), validator(None, 2, 2.0)})
        == 4
    )
    assert validator(None, 5, None) == validator("", 5, None) == 0
    assert all(0 < validator(str(n), 0, None) < 2**64 for n in range(100))


class Vague(MemorySource):
    """A listing with paths only."""

    async def iter_files(self, prefix: str = ""):
        async for info in super().iter_files(prefix):
            yield FileInfo(info.path, -1)


async def test_unknown_sizes_stay_unknown() -> None:
    """Where a listing gives no size, rows say -1 and sums leave it out; lines know theirs, as they were read."""
    index = await SampleIndex.build([Vague("data", {"a.pt": b"12", "b.jsonl": b"1\n"})])
    assert [row[3:] for i in range(2) for row in index.rows(i)] == [(0, -1, -1, 0), (0, 1, 2, 0)]
    assert (index.total_bytes, index.max_object_bytes) == (1, 1)
    assert [index.rows(i)[0].is_range for i in range(2)] == [False, True]
