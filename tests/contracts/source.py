"""The contract of every `DataSource`, as one suite: backends and wrappers run it by subclassing `SourceContract`.

A subclass gives two fixtures: `source`, open and empty, and `place`, which writes raw bytes (or None, to remove them)
under a path *without* the source, so that the suite cannot agree with the source's own mistake. It says which of
`ODD_KEYS` its backend cannot hold, and why.
"""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import ClassVar

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streaming.errors import BadRequest, ClosedError, InvalidPath, ObjectNotFoundError
from streaming.sources.base import Blob, DataSource, FileInfo

Place = Callable[[str, bytes | None], None]

ODD_NAMES = [
    "name with spaces.bin",
    "folder with spaces/x y.bin",
    "100%.bin",
    "%41.bin",
    "a%20b.bin",
    "a+b.bin",
    "part#1.bin",
    "what?.bin",
    "what?a=b&c=d.bin",
    "semi;colon,comma=equals@at:colon.bin",
    "quotes'\"`.bin",
    "brackets[]{}()<>.bin",
    "tilde~star*bang!dollar$.bin",
    "back\\slash|pipe^caret.bin",
    "ünïcödé.bin",
    "日本語/データ.bin",
    "emoji 🚀.bin",
    "e\u0301 decomposed.bin",
    "dots..in..name.bin",
    "n" * 251 + ".bin",
]
ODD_KEYS = {
    "tab": "tab\there.bin",
    "newline": "new\nline.bin",
    "carriage_return": "carriage\rreturn.bin",
    "escape": "escape\x1b[31m.bin",
    "delete": "delete\x7f.bin",
    "c1_control": "next\x85line.bin",
    "line_separator": "line\u2028separator.bin",
    "double_slash": "double//a//b.bin",
    "leading_slash": "/leading.bin",
    "leading_double_slash": "//leading.bin",
    "trailing_slash": "trailing.bin/",
    "dot_part": "dots/./a.bin",
    "dot_first": "./a.bin",
    "dot_dot_part": "dots/../a.bin",
    "dot_dot_last": "dots/..",
    "percent_2F": "a%2Fb.bin",
    "percent_2f_first": "%2fa.bin",
    "percent": "100%.bin",
    "hash": "part#1.bin",
    "question_mark": "what?.bin",
    "plus": "a+b.bin",
    "space_first": " a.bin",
    "space_last": "a.bin ",
    "spaces_around_a_folder": "spaces/ a /b.bin",
    "backslash": "a\\b.bin",
    "backslash_first": "\\a.bin",
    "backslash_dot_dot": "a\\..\\b.bin",
    "drive": "C:\\a.bin",
    "quotes": "quotes'\"`.bin",
    "composed": "\u00e9.bin",
    "decomposed": "e\u0301.bin",
    "emoji": "\U0001f680.bin",
}
"""Keys that a store may hold and a client may mishandle; a key of 1,024 bytes is added to them."""
NO_FILE_NAME = dict.fromkeys(
    [name for name in ODD_KEYS if name.startswith("dot_") or name.endswith("_slash")],
    "a file system takes this for the path of another file",
)
REFUSED = ["", "..", "../x", "a/../x", "a/..", "/etc/passwd", "//host/x", "nul\0byte", "a/\0"]
# Each example finds the object as the last one left it, and all sources run one method: both are intended.
SHARED_SUITE = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
CONTENT = bytes(range(256)) * 4


def long_key(nbytes: int) -> str:
    """Return a key of `nbytes` bytes, in folders whose names a file system can hold."""
    return ("n" * 199 + "/") * (nbytes // 200) + "n" * (nbytes % 200)


def plain_twin(key: str) -> str:
    """Return the key that a client would make of an odd one by treating it as a path of files."""
    parts: list[str] = []
    for part in key.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


class SourceContract:
    """The contract; the module's docstring says what a subclass gives.

    Attributes:
        cannot_hold: for each name in `ODD_KEYS` that the backend cannot hold, the reason.
        root_bytes: number of bytes of a key that the root of the source takes.
    """

    cannot_hold: ClassVar[Mapping[str, str]] = {}
    root_bytes: ClassVar[int] = 0

    @classmethod
    def odd_keys(cls) -> dict[str, str]:
        """Return the odd keys that the backend can hold, by name."""
        keys = {**ODD_KEYS, "1024_bytes": long_key(1024 - cls.root_bytes)}
        return {name: key for name, key in keys.items() if name not in cls.cannot_hold}

    def shown(self, key: str) -> str:
        """Return the key as the backend reports it in a listing."""
        return key

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Parametrize tests by the odd keys that this backend can hold."""
        if "odd_key" in metafunc.fixturenames:
            keys = self.odd_keys()
            metafunc.parametrize("odd_key", list(keys.values()), ids=list(keys))

    async def test_reads_the_bytes_of_an_object(self, source: DataSource, place: Place) -> None:
        """A read of a whole object returns every byte, the size, and the name of the source."""
        place("folder/a.bin", CONTENT)
        blob = await source.read("folder/a.bin")
        assert bytes(blob.data) == CONTENT
        assert blob.size == len(CONTENT)
        assert blob.source == source.name
        assert memoryview(blob.data).nbytes == len(CONTENT)

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=SHARED_SUITE)
    @given(start=st.integers(0, 1100), length=st.one_of(st.none(), st.integers(0, 1200)))
    async def test_ranges_are_half_open_and_clipped(
        self, source: DataSource, place: Place, start: int, length: int | None
    ) -> None:
        """Any range returns what slicing would and the whole size; a start beyond the end is refused."""
        place("ranges.bin", CONTENT)
        end = None if length is None else start + length
        if start > len(CONTENT):
            with pytest.raises(BadRequest, match=r"ranges\.bin"):
                await source.read("ranges.bin", start, end)
            return
        blob = await source.read("ranges.bin", start, end)
        assert bytes(blob.data) == CONTENT[start:end]
        assert blob.size == len(CONTENT)

    @pytest.mark.parametrize(("start", "end"), [(-1, None), (-5, -1), (0, -1), (9, 3)])
    async def test_impossible_ranges_are_refused(
        self, source: DataSource, place: Place, start: int, end: int | None
    ) -> None:
        """A negative start or an end before it is a bad request, even if slicing would accept it."""
        place("ranges.bin", CONTENT)
        with pytest.raises(BadRequest):
            await source.read("ranges.bin", start, end)

    @pytest.mark.parametrize(("start", "end"), [(0, None), (0, 0), (0, 10)])
    async def test_empty_object(self, source: DataSource, place: Place, start: int, end: int | None) -> None:
        """An object of zero bytes reads as empty, also as a range from its start, and is listed with size 0."""
        place("empty.bin", b"")
        blob = await source.read("empty.bin", start, end)
        assert (bytes(blob.data), blob.size) == (b"", 0)
        assert [(info.path, info.size) for info in await listed(source)] == [("empty.bin", 0)]

    @pytest.mark.parametrize("path", ["missing.bin", "no/such/folder/x.bin", "a.bin/below-a-file.bin"])
    async def test_missing_object(self, source: DataSource, place: Place, path: str) -> None:
        """A missing object is a `FileNotFoundError` that names path and source."""
        place("a.bin", CONTENT)
        with pytest.raises(ObjectNotFoundError) as caught:
            await source.read(path)
        assert isinstance(caught.value, FileNotFoundError)
        assert path in str(caught.value)
        assert (caught.value.path, caught.value.source) == (path, source.name)

    async def test_lists_every_object(self, source: DataSource, place: Place) -> None:
        """A listing names every object below the root once, in any folder, with its size, and nothing else."""
        sizes = {"a.bin": 3, "b/c.bin": 0, "b/d/e.bin": 70_000, "b.txt": 12}
        for path, size in sizes.items():
            place(path, b"x" * size)
        found = await listed(source)
        assert sorted((info.path, info.size) for info in found) == sorted(sizes.items())
        assert await listed(source) == found, "a second listing has the same order"

    @pytest.mark.parametrize(
        ("prefix", "expected"),
        [
            ("", ["a.bin", "ab/c.bin", "ab/d/e.bin", "abc.bin", "b.bin"]),
            ("a", ["a.bin", "ab/c.bin", "ab/d/e.bin", "abc.bin"]),
            ("ab", ["ab/c.bin", "ab/d/e.bin", "abc.bin"]),
            ("ab/", ["ab/c.bin", "ab/d/e.bin"]),
            ("ab/d", ["ab/d/e.bin"]),
            ("ab/d/e.bin", ["ab/d/e.bin"]),
            ("nothing", []),
            ("nothing/at/all", []),
        ],
    )
    async def test_prefix_selects(self, source: DataSource, place: Place, prefix: str, expected: list[str]) -> None:
        """A prefix is a prefix of the path's text, and `list_files` is sorted."""
        for path in ("b.bin", "abc.bin", "ab/d/e.bin", "ab/c.bin", "a.bin"):
            place(path, CONTENT)
        assert await source.list_files(prefix) == expected

    @pytest.mark.parametrize("name", ODD_NAMES)
    async def test_odd_names(self, source: DataSource, place: Place, name: str) -> None:
        """Names are used as written, whatever their characters mean in a URL or a shell."""
        place("other.bin", b"other")
        place(name, CONTENT)
        assert await source.list_files() == sorted(["other.bin", name])
        assert bytes((await source.read(name)).data) == CONTENT
        assert bytes((await source.read(name, 5, 9)).data) == CONTENT[5:9]

    async def test_odd_key_is_read_or_skipped_by_name(
        self, source: DataSource, place: Place, odd_key: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An odd key is listed and read, or left out, counted and named once; other objects are not affected."""
        plain = {"Before.bin": b"before", "other.bin": b"other", "~after.bin": b"after"}
        if (twin := plain_twin(odd_key)) not in ("", odd_key):
            plain[twin] = b"twin"
        for path, data in plain.items():
            place(path, data)
        place(odd_key, CONTENT)
        found = await source.list_files()
        contents = {path: bytes((await source.read(path)).data) for path in found}
        warnings = skip_warnings(caplog)
        if odd_key in found:
            assert contents == {**plain, odd_key: CONTENT}
            assert bytes((await source.read(odd_key, 5, 9)).data) == CONTENT[5:9]
            assert (source.skipped.counts, warnings) == ({}, [])
            return
        assert contents == plain
        assert source.skipped.total() == 1
        (warning,) = warnings
        assert "objects=1 " in warning
        assert repr(self.shown(odd_key))[1:-1].replace("\\", "") in warning.replace("\\", "")
        assert warning.isprintable()

    async def test_odd_keys_together(self, source: DataSource, place: Place, caplog: pytest.LogCaptureFixture) -> None:
        """Many odd keys in one listing: each is read or counted, in one warning; each complete listing counts again."""
        odd = set(self.odd_keys().values())
        place("other.bin", b"other")
        for key in odd:
            place(key, key.encode())
        for _ in range(2):
            found = await source.list_files()
            assert len(found) == len(set(found))
            assert set(found) - {"other.bin"} <= odd
            assert source.skipped.total() == len(odd) + 1 - len(found)
            assert len(skip_warnings(caplog)) == (len(found) <= len(odd))
            caplog.clear()
        for key in set(found) - {"other.bin"}:
            assert bytes((await source.read(key)).data) == key.encode()
        counts = source.skipped.counts
        async with aclosing(source.iter_files("other")) as files:  # type: ignore[type-var]
            await anext(files)
        assert source.skipped.counts == counts, "a listing that is left early counts nothing"
        await source.list_files("other")
        assert not source.skipped, "a complete one counts its prefix alone"

    async def test_the_name_of_a_folder_is_not_an_object(self, source: DataSource, place: Place) -> None:
        """A path that ends in `/` returns neither the object without it nor a server's page of a folder."""
        place("folder/a.bin", CONTENT)
        for path in ("folder/a.bin/", "folder/"):
            with pytest.raises((ObjectNotFoundError, BadRequest)):
                await source.read(path)
            with pytest.raises((ObjectNotFoundError, BadRequest)):
                await source.read(path, 0, 4)

    @pytest.mark.parametrize("path", REFUSED)
    async def test_paths_out_of_the_root_are_refused(self, source: DataSource, path: str) -> None:
        """A path that is empty, absolute, climbs, or holds a NUL is never looked up."""
        with pytest.raises(InvalidPath):
            await source.read(path)
        with pytest.raises(InvalidPath):
            await source.fetch_file(path)
        if path:
            with pytest.raises(InvalidPath):
                await source.list_files(path)

    async def test_concurrent_reads(self, source: DataSource, place: Place) -> None:
        """Many concurrent reads each return their own object."""
        contents = {f"{n}.bin": bytes([n]) * (1000 + n) for n in range(40)}
        for path, data in contents.items():
            place(path, data)
        blobs = await asyncio.gather(*(source.read(path) for path in contents))
        assert [bytes(blob.data) for blob in blobs] == list(contents.values())

    async def test_cancelled_reads_leave_the_source_usable(self, source: DataSource, place: Place) -> None:
        """Cancelling reads at any point ends only those reads."""
        place("big.bin", CONTENT * 2000)
        for turns in range(6):
            reads = [asyncio.ensure_future(source.read("big.bin")) for _ in range(4)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for read in reads:
                read.cancel()
            await asyncio.gather(*reads, return_exceptions=True)
        assert bytes((await source.read("big.bin")).data) == CONTENT * 2000

    async def test_cancelled_listing_leaves_the_source_usable(self, source: DataSource, place: Place) -> None:
        """A listing that is left early does no harm."""
        for number in range(10):
            place(f"{number}.bin", CONTENT)
        files = source.iter_files()
        assert (await anext(files)).size == len(CONTENT)
        await files.aclose()  # type: ignore[attr-defined]
        assert len(await source.list_files()) == 10

    async def test_a_closed_source_stays_closed(self, source: DataSource, place: Place) -> None:
        """Closing twice is fine; every use afterwards says that the source is closed."""
        place("a.bin", CONTENT)
        await source.read("a.bin")
        await source.aclose()
        await source.aclose()
        for use in (source.read("a.bin"), source.fetch_file("a.bin"), source.list_files()):
            with pytest.raises(ClosedError, match="closed"):
                await use

    async def test_is_a_context(self, source: DataSource, place: Place) -> None:
        """`async with` returns the source itself and closes it."""
        place("a.bin", CONTENT)
        async with source as entered:
            assert entered is source
            await source.read("a.bin")
        with pytest.raises(ClosedError):
            await source.read("a.bin")

    async def test_pickles_as_configuration(self, source: DataSource, place: Place) -> None:
        """A source from a pickle, made before or after use, is independent; closing one leaves the other open."""
        place("a.bin", CONTENT)
        unused = pickle.dumps(source)
        await source.read("a.bin")
        for pickled in (unused, pickle.dumps(source)):
            async with pickle.loads(pickled) as copy:
                assert (type(copy), copy.name, copy.config) == (type(source), source.name, source.config)
        assert bytes((await source.read("a.bin")).data) == CONTENT

    async def test_the_etag_changes_with_the_object(self, source: DataSource, place: Place) -> None:
        """An object keeps its ETag, in parts and listings too; with other content it has another one."""
        place("a.bin", CONTENT)
        first = await source.read("a.bin")
        assert first.etag is not None
        assert (await source.read("a.bin")).etag == first.etag
        assert (await source.read("a.bin", 3, 7)).etag == first.etag
        assert (await listed(source))[0].etag in (first.etag, None)
        place("a.bin", CONTENT + b"more")
        assert (await source.read("a.bin")).etag != first.etag

    async def test_a_read_is_of_the_object_that_was_listed(self, source: DataSource, place: Place) -> None:
        """A blob of a whole object or a part is recognized as the listed object, and a replaced one is not."""
        place("a.bin", CONTENT)
        (info,) = await listed(source)
        for start, end in ((0, None), (3, 7), (0, 0)):
            assert source.is_unchanged(await source.read("a.bin", start, end), lambda etag: etag == info.etag) or (
                info.etag is None
            )
        blob = await source.read("a.bin")
        assert not source.is_unchanged(replace(blob, etag="another", data=bytes(len(CONTENT))), lambda etag: False)

    async def test_fetch_file_decodes_by_suffix(self, source: DataSource, place: Place) -> None:
        """`fetch_file` returns the sample, or with `decompress=False` the bytes as they are stored."""
        packed = zstandard.compress(b'{"x": [1, 2]}')
        place("plain.json", b'{"x": [1, 2]}')
        place("packed.json.zst", packed)
        assert await source.fetch_file("plain.json") == {"x": [1, 2]}
        assert await source.fetch_file("packed.json.zst") == {"x": [1, 2]}
        assert await source.fetch_file("plain.json", decompress=False) == b'{"x": [1, 2]}'
        assert await source.fetch_file("packed.json.zst", decompress=False) == packed

    async def test_fetch_file_uses_the_compressed_object_if_only_that_exists(
        self, source: DataSource, place: Place
    ) -> None:
        """`x.json` comes from `x.json.zst` unless `x.json` exists; without both the error names `x.json`."""
        place("x.json.zst", zstandard.compress(json.dumps("compressed").encode()))
        assert await source.fetch_file("x.json") == "compressed"
        place("x.json", b'"plain"')
        assert await source.fetch_file("x.json") == "plain"
        with pytest.raises(ObjectNotFoundError, match=r"'y\.json'"):
            await source.fetch_file("y.json")

    async def test_prefetch_files_returns_what_could_be_read(self, source: DataSource, place: Place) -> None:
        """Each path has one result, whatever happens to the others."""
        for number in range(30):
            place(f"{number}.bin", CONTENT)
        paths = [f"{number}.bin" for number in range(30)]
        done = await source.prefetch_files([*paths, "missing.bin", "../out.bin", "0.bin"])
        assert done == {**dict.fromkeys(paths, True), "missing.bin": False, "../out.bin": False}

    async def test_blocking_reads_agree(self, source: DataSource, place: Place) -> None:
        """If a source has `read_blocking`, it returns the same as `read`, in any thread."""
        place("a.bin", CONTENT)
        if source.read_blocking is not None:
            blob: Blob = await asyncio.to_thread(source.read_blocking, "a.bin", 3, 9)
            assert blob == await source.read("a.bin", 3, 9)
            with pytest.raises(ObjectNotFoundError):
                source.read_blocking("missing.bin", 0, None)

    async def test_reads_into_a_buffer_agree(self, source: DataSource, place: Place) -> None:
        """If a source has `read_into`, the buffer then holds what `read` returns, also at the object's end."""
        place("a.bin", CONTENT)
        if source.read_into is not None:
            for start, length in ((0, len(CONTENT)), (3, 6), (len(CONTENT) - 2, 2), (len(CONTENT) - 2, 9)):
                buffer = bytearray(length)
                blob: Blob = await asyncio.to_thread(source.read_into, "a.bin", start, memoryview(buffer))
                assert blob == await source.read("a.bin", start, start + length)
                assert length == 9 or bytes(buffer) == bytes(blob.data)
            with pytest.raises(ObjectNotFoundError):
                source.read_into("missing.bin", 0, memoryview(bytearray(1)))

    async def test_repr_names_the_source(self, source: DataSource) -> None:
        """The repr of a source holds its name."""
        assert source.name in repr(source)


def skip_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings about objects that a listing skipped."""
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    return [text for record in records if (text := record.getMessage()).startswith("objects_skipped ")]


async def listed(source: DataSource) -> list[FileInfo]:
    """Return all that `source` lists, in its order."""
    return [info async for info in source.iter_files()]
