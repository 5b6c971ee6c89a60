"""A saved index that was damaged or made up: it is built again with one warning, and never trusted a byte too far."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.adapter import StreamingDatasetAdapter
from streaming.errors import IndexFileError
from streaming.index import SampleIndex
from streaming.testing import MemorySource

PRELUDE = struct.Struct("<8sIIQQ")
FIRST = PRELUDE.size + 16
CONTENT = {
    **{f"{part}/{n % 2}/{n}.json": b"%d" % n for part in ("x", "y") for n in range(6)},
    "x/lines.jsonl": b"1\n22\n",
    "y/lines.jsonl": b"3\n44\n",
    "readme.parquet": b"",
    ".hidden": b"",
}


def source() -> MemorySource:
    """Two parts, some folders, an object of lines, and what is left out."""
    return MemorySource("data", CONTENT)


@cache
def saved() -> bytes:
    """An index over `source`."""
    return bytes(asyncio.run(SampleIndex.build([source()], data_mapping=["x", "y"]))._buffer)


def sealed(data: bytes) -> bytes:
    """The same with a matching length and checksum, as an attacker would write it."""
    if len(data) < FIRST:
        return data
    prelude = data[: PRELUDE.size - 8] + struct.pack("<Q", len(data))
    return prelude + xxhash.xxh3_128_digest(prelude + data[FIRST:]) + data[FIRST:]


def header() -> dict[str, Any]:
    """The header of `saved`."""
    size = PRELUDE.unpack_from(saved())[3]
    found: dict[str, Any] = json.loads(saved()[FIRST : FIRST + size])
    return found


def with_header(text: bytes) -> bytes:
    """`saved` with another header."""
    magic, version, zero, size, _ = PRELUDE.unpack_from(saved())
    return sealed(PRELUDE.pack(magic, version, zero, len(text), 0) + bytes(16) + text + saved()[FIRST + size :])


def changed(**values: Any) -> bytes:
    """`saved` with other values in its header."""
    return with_header(json.dumps(header() | values).encode())


def section(number: int) -> int:
    """Where a section begins in `saved`."""
    return FIRST + PRELUDE.unpack_from(saved())[3] + sum(header()["sections"][:number])


def written(number: int, at: int, code: str, value: int) -> bytes:
    """`saved` with another number in one of its sections."""
    data = bytearray(saved())
    struct.pack_into(f"<{code}", data, section(number) + at, value)
    return sealed(bytes(data))


MADE_UP: dict[str, Callable[[], bytes]] = {
    "not JSON": lambda: with_header(b"{"),
    "not UTF-8": lambda: with_header(b'{"\xff": 1}'),
    "not an object": lambda: with_header(b"[]"),
    "an empty object": lambda: with_header(b"{}"),
    "lists without end": lambda: with_header(b"[" * 100_000 + b"]" * 100_000),
    "a number without end": lambda: with_header(b'{"samples": ' + b"9" * 5000 + b"}"),
    "a header beyond the file": lambda: sealed(PRELUDE.pack(b"STREAMIX", 1, 0, 2**40, 0) + saved()[PRELUDE.size :]),
    "samples that are missing": lambda: changed(samples=10**12),
    "a negative number of samples": lambda: changed(samples=-1),
    "samples as text": lambda: changed(samples="7"),
    "objects that are missing": lambda: changed(objects=2**31),
    "cells of 3 bytes": lambda: changed(cell_bytes=3),
    "samples without parts": lambda: changed(parts=[], samples=10**18),
    "parts as numbers": lambda: changed(parts=[1, 2]),
    "a part in no source": lambda: changed(parts=[each | {"roots": []} for each in header()["parts"]]),
    "a part in source 9": lambda: changed(parts=[each | {"roots": [[9, ""]]} for each in header()["parts"]]),
    "a part in source -1": lambda: changed(parts=[each | {"roots": [[-1, ""]]} for each in header()["parts"]]),
    "two parts of one key": lambda: changed(parts=[header()["parts"][0]] * 2),
    "sections beyond the file": lambda: changed(sections=[2**62] * 5),
    "sections that overlap": lambda: changed(sections=[header()["sections"][0], -26, *header()["sections"][2:]]),
    "six sections": lambda: changed(sections=[*header()["sections"], 0]),
    "no sections": lambda: changed(sections=[]),
    "skips as a list": lambda: changed(skips=[]),
    "skips without an example": lambda: changed(skips={"counts": {"unsupported_suffix": {".x": 1}}, "examples": {}}),
    "skips that cannot be added": lambda: changed(
        skips={"counts": {"unsupported_suffix": {".x": "1"}}, "examples": {}}
    ),
    "etags of another number of sources": lambda: changed(etags=[]),
    "two sources": lambda: changed(sources=["data", "other"], etags=[True, True]),
    "another source": lambda: changed(sources=["other"]),
    "another mapping": lambda: changed(data_mapping={"x": "y", "y": "x"}),
    "rename of nothing": lambda: changed(rename={"": "a"}),
    "rename as a list": lambda: changed(rename=[1]),
    "another treatment of missing parts": lambda: changed(missing="drop"),
    "a fingerprint of null": lambda: changed(fingerprint=None),
    "bytes in all below 0": lambda: changed(total_bytes=-5),
    "an object in a missing folder": lambda: written(0, 0, "I", 2**32 - 1),
    "a name after the end": lambda: written(0, 4, "I", 2**32 - 1),
    "a name that is too long": lambda: written(0, 8, "H", 2**16 - 1),
    "an object of -5 bytes": lambda: written(0, 10, "q", -5),
    "names of a folder after the end": lambda: written(1, 0, "Q", 2**64 - 1),
    "a folder after the end": lambda: written(1, 8, "I", 2**32 - 1),
    "a folder of a missing source": lambda: written(1, 14, "H", 7),
    "a cell after the end": lambda: written(2, 0, "I", 2**32 - 1),
    "a line of a missing object": lambda: written(3, 0, "I", 2**32 - 1),
    "a line after the end": lambda: written(3, 4, "Q", 2**64 - 1),
    "a line that is too long": lambda: written(3, 12, "Q", 2**64 - 1),
}


@pytest.mark.parametrize("kind", MADE_UP)
def test_what_is_made_up_is_built_again_with_one_warning(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its checksum fits, and yet the run reads what the source holds, says so once, and saves an index that opens."""
    path = tmp_path / "a.index"
    path.write_bytes(MADE_UP[kind]())
    read: dict[str, Any] = {"data_mapping": ["x", "y"], "index_path": path, "refresh": "always"}
    for warnings in (1, 0):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "streaming"), StreamingDatasetAdapter(source(), **read) as adapter:
            assert [adapter[i]["x"] for i in range(len(adapter))] == [0, 2, 4, 1, 3, 5, 1, 22]
        events = [record.getMessage().split()[0] for record in caplog.records]
        assert events.count("index_rebuilt") == warnings
        assert set(events) <= {"index_rebuilt", "objects_skipped"}


def everything(index: SampleIndex) -> list[object]:
    """All that an index says, and that it can be compared and sent."""
    told: list[object] = [repr(index), index.skips.describe(), index.unlikely.describe(), index.skipped_objects]
    for i in range(len(index)):
        told += [index.name(i), index.rows(i)]
        assert all(row.source == 0 and row.size >= -1 and row.start >= 0 and row.length >= -1 for row in index.rows(i))
        assert all(row.size < 0 or row.start + row.length <= row.size for row in index.rows(i))
    index._known_lines()
    assert len(pickle.loads(pickle.dumps(index))) == len(index)
    return told


def numbers() -> st.SearchStrategy[int]:
    """Numbers at the limits of the format, and a few between."""
    borders = [0, 1, 2**8 - 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
    return st.sampled_from(borders) | st.integers(0, 300)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """`saved` with bytes flipped, cut out, moved or overwritten; mostly with a checksum that fits."""
    data = saved()
    for kind in draw(st.lists(st.sampled_from("flip number cut splice".split()), min_size=1, max_size=4)):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        if kind == "flip":
            data = data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :] if data else data
        elif kind == "number":
            code = draw(st.sampled_from("BHIQ"))
            number = struct.pack(f"<{code}", draw(numbers()) % 2 ** (8 * struct.calcsize(code)))
            data = data[:at] + number + data[at + len(number) :]
        elif kind == "cut":
            data = data[:at] + data[draw(st.integers(at, len(data))) :]
        else:
            begin = draw(st.integers(0, len(data)))
            data = data[:at] + data[begin : begin + draw(st.integers(0, 64))] + data[at:]
    return sealed(data) if draw(st.booleans()) or draw(st.booleans()) else data


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of each value in a header, those of values in values too."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from leaves(inner, (*place, key))


@st.composite
def with_another_value(draw: st.DrawFn) -> bytes:
    """`saved` with one value of its header replaced by another, or left out."""
    values = st.none() | st.booleans() | numbers() | numbers().map(int.__neg__) | st.floats() | st.text(max_size=3)
    any_value = st.recursive(values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner))
    whole = [header()]
    place: tuple[Any, ...] = (0, *draw(st.sampled_from(list(leaves(whole[0])))))
    holder: Any = whole
    *above, last = place
    for key in above:
        holder = holder[key]
    holder[last] = draw(any_value)
    if isinstance(holder, dict) and draw(st.booleans()):
        del holder[last]
    return with_header(json.dumps(whole[0]).encode())


@settings(deadline=None)
@given(data=damaged() | with_another_value())
def test_no_damage_is_an_error_of_another_kind(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Opening any bytes raises `IndexFileError`, or everything in the index can be read."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.index"
    path.write_bytes(data)
    try:
        index = SampleIndex.open(path)
    except IndexFileError:
        return
    everything(index)


def test_what_was_saved_still_opens(tmp_path: Path) -> None:
    """The attacks above begin from an index that is taken as it is."""
    path = tmp_path / "a.index"
    for data in (saved(), sealed(saved()), with_header(json.dumps(header()).encode())):
        assert data == saved()
    path.write_bytes(saved())
    assert len(everything(SampleIndex.open(path))) == 4 + 2 * 8


def test_a_deep_header_takes_no_more_memory_than_it_may(tmp_path: Path) -> None:
    """A header beyond 4 MiB is refused before it is read: each empty list in it takes 20 times its text."""
    path = tmp_path / "a.index"
    path.write_bytes(with_header(b"[" + b"[]," * 3_000_000 + b"0]"))
    with pytest.raises(IndexFileError, match="header"):
        SampleIndex.open(path)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o664])
def test_a_file_that_others_may_write_is_not_trusted(
    mode: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who can write it decides what is read; so it is built again, unless the configuration trusts it."""
    path = tmp_path / "a.index"
    StreamingDatasetAdapter(source(), ["x", "y"], index_path=path).close()
    path.chmod(mode)
    for shared, warnings in ((True, 0), (False, 1), (False, 0)):
        caplog.clear()
        read: dict[str, Any] = {"index_path": path, "index_is_shared": shared, "refresh": "never"}
        with caplog.at_level(logging.WARNING, "streaming"), StreamingDatasetAdapter(source(), ["x", "y"], **read) as it:
            assert it[0]["x"] == 0
            assert len(pickle.loads(pickle.dumps(it.index))) == 8
        events = [record.getMessage() for record in caplog.records if "index_rebuilt" in record.getMessage()]
        assert len(events) == warnings
        assert all("index_is_shared" in event for event in events)


def test_a_file_of_another_user_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner can write it, whatever its mode."""
    path = tmp_path / "a.index"
    path.write_bytes(saved())
    path.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:  # only root gives files away: this user becomes another one
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(IndexFileError, match=r"belongs to user \d+"):
        SampleIndex.open(path)
    assert len(SampleIndex.open(path, is_shared=True)) == 8


def test_the_umask_gives_no_one_the_right_to_write(tmp_path: Path) -> None:
    """What is saved under a generous mask opens again."""
    before = os.umask(0)
    try:
        asyncio.run(SampleIndex.build([source()])).save(tmp_path / "a.index")
    finally:
        os.umask(before)
    assert (tmp_path / "a.index").stat().st_mode & 0o777 == 0o644
    assert len(SampleIndex.open(tmp_path / "a.index")) == 16


def test_a_pipe_at_its_path_does_not_hang(tmp_path: Path) -> None:
    """It is refused at once; without a writer, opening it would wait forever."""
    os.mkfifo(tmp_path / "a.index")
    with pytest.raises(IndexFileError, match="not a regular file"):
        SampleIndex.open(tmp_path / "a.index")
