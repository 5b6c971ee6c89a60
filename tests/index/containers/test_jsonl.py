"""Lines of `.jsonl` objects as samples: where they begin, how they match, when they are read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.errors import MissingPart, ObjectChanged, TruncatedRead
from streaming.index import SampleIndex
from streaming.index.containers.jsonl import find_lines
from streaming.sources.base import Blob
from streaming.testing import MemorySource


async def texts(source: MemorySource, index: SampleIndex) -> list[bytes]:
    """The bytes of the first part of each sample."""
    found = []
    for i in range(len(index)):
        row = index.rows(i)[0]
        blob = await source.read(row.path, row.start, row.start + row.length)
        found.append(bytes(blob.data))
    return found


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"{}", b"1", b"", b"\r", b" \t", b'{"a":"' + b"x" * 20 + b'"}'])), st.integers(1, 50))
async def test_lines_are_those_of_splitlines_in_any_chunks(lines: list[bytes], chunk_bytes: int) -> None:
    """Whatever the size of a chunk, each line with something in it is found, and its bytes are its own."""
    for data in (b"\n".join(lines), b"\n".join(lines) + b"\n"):
        source = MemorySource("data", {"a.jsonl": data})
        found = await find_lines(source, "a.jsonl", len(data), chunk_bytes=chunk_bytes)
        cut = [data[start : start + length] for start, length in zip(found.starts, found.lengths, strict=True)]
        assert cut == [line for line in data.split(b"\n") if line.strip()]
        assert found.size == len(data)


async def test_each_line_is_a_sample_in_the_order_of_the_object() -> None:
    """Lines are named by their object and their number, and sorted by number."""
    source = MemorySource("data", {"b/x.jsonl": b"".join(b"%d\n" % n for n in range(11)), "a.jsonl": b'{"k": 1}'})
    index = await SampleIndex.build([source])
    assert [index.name(i) for i in range(3)] == ["a#0", "b/x#0", "b/x#1"]
    assert index.name(11) == "b/x#10"
    assert await texts(source, index) == [b'{"k": 1}', *(b"%d" % n for n in range(11))]
    assert all(index.rows(i)[0].is_range for i in range(12))
    assert (index.total_bytes, index.max_object_bytes) == (8 + 12, 8)


async def test_lines_of_two_parts_match_by_number() -> None:
    """Line 3 of one object belongs to line 3 of the other; an odd line is missing, or dropped and counted."""
    source = MemorySource("data", {"x/a.jsonl": b"1\n2\n3", "y/a.jsonl": b"10\n20\n"})
    with pytest.raises(MissingPart, match="sample 'a#2' lacks its part 'y'"):
        await SampleIndex.build([source], data_mapping=["x", "y"])
    index = await SampleIndex.build([source], data_mapping=["x", "y"], missing="drop")
    assert (len(index), index.dropped) == (2, 1)
    assert [(row.path, row.start, row.length) for row in index.rows(1)] == [("x/a.jsonl", 2, 1), ("y/a.jsonl", 3, 2)]


async def test_lines_and_whole_objects_live_side_by_side() -> None:
    """An object next to lines is one sample under its own name, and an empty object of lines has none."""
    source = MemorySource("data", {"a.jsonl": b"1\n2", "a#.json": b"3", "b.jsonl": b"", "c.jsonl.zst": b"4"})
    index = await SampleIndex.build([source])
    assert [index.name(i) for i in range(len(index))] == ["a#0", "a#1", "a#", "c"]
    assert [index.rows(i)[0].is_range for i in range(len(index))] == [True, True, False, False]


async def test_lines_of_copies_come_from_the_first() -> None:
    """Lines follow the same rule as objects: the first source that has them serves them."""
    first = MemorySource("first", {"x/a.jsonl": b"1\n2"})
    second = MemorySource("second", {"x/a.jsonl": b"1\n2\n", "x/b.jsonl": b"3"})
    index = await SampleIndex.build([first, second], data_mapping=["x"])
    assert [index.rows(i)[0].source for i in range(len(index))] == [0, 0, 1]


class Growing(MemorySource):
    """Its objects get another line at each read."""

    def read_blocking(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        blob = super().read_blocking(path, start, end)
        self.put(path, self._objects[path][0] + b"x\n")
        return blob


class Stuck(MemorySource):
    """It says that there is more, and sends nothing."""

    def read_blocking(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        blob = super().read_blocking(path, start, end)
        return Blob(blob.data, blob.etag, blob.size + 10, None, self.name)


async def test_an_object_that_grows_while_it_is_read_is_refused() -> None:
    """Lines of two versions of an object are never mixed, also if the listing gave no size."""
    for size in (40, -1):
        with pytest.raises(ObjectChanged, match=r"'a\.jsonl' of source 'data' changed"):
            await find_lines(Growing("data", {"a.jsonl": b"x\n" * 20}), "a.jsonl", size, chunk_bytes=16)


async def test_an_object_that_ends_early_is_an_error() -> None:
    """A source that stops before its stated size does not make the search run forever."""
    with pytest.raises(TruncatedRead, match="gave 20 of 30 bytes"):
        await find_lines(Stuck("data", {"a.jsonl": b"x\n" * 10}), "a.jsonl", -1)


async def test_an_object_without_a_listed_size_is_read_to_its_end() -> None:
    """If the listing gives no size, the first read does."""
    found = await find_lines(MemorySource("data", {"a.jsonl": b"1\n2"}), "a.jsonl", -1)
    assert (found.starts.tolist(), found.size) == ([0, 2], 3)
