"""`SampleIndex`: from the position of a sample to the bytes of its parts, in about 2 us and 35 bytes per object."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from streaming.codecs.registry import split_suffix
from streaming.errors import ConfigError, IndexFileError
from streaming.index.build import KnownLines, build_buffer
from streaming.index.changes import Changes, compare
from streaming.index.configuration import rules
from streaming.index.containers.jsonl import Lines
from streaming.index.file import map_file, save_file
from streaming.index.layout import FOLDER, OBJECT, RANGE, RANGES, Sections, parse, to_text
from streaming.index.object_report import report
from streaming.index.sample_names import NamingRules, relative_folder
from streaming.telemetry.skipped_objects import BY_SETTINGS, Skips

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streaming.sources.base import DataSource

__all__ = ["Row", "SampleIndex"]

MAX_KNOWN_FOLDERS = 4096
"""Number of folder paths that are cached as text. Beyond that the cache is cleared (about 1 us per folder)."""

OBJECT_BYTES, unpack_object = OBJECT.size, OBJECT.unpack_from


class Row(NamedTuple):
    """One part of one sample.

    Attributes:
        part: its key in the sample.
        source: index of its source in the list that the index was built over.
        path: of the object, relative to that source.
        start: first byte.
        length: in bytes; -1 for a whole object whose listing gave no size.
        size: of the whole object in bytes; -1 if its listing gave none.
        validator: 64 bits of the object's ETag, or of its size and modification time; 0 if the listing gave neither.
    """

    part: str
    source: int
    path: str
    start: int
    length: int
    size: int
    validator: int

    @property
    def is_range(self) -> bool:
        """Whether this is one line of an object, and not the whole object."""
        return self.length != self.size or self.path[-6:].lower() == ".jsonl"


class SampleIndex:
    """Map from each sample to its objects or byte ranges, sorted by sample name.

    Immutable; safe to read in any thread and after a fork. Made by `build` or `open`. A saved index pickles as its
    path, one that was not saved as its bytes.

    Attributes:
        parts: the keys of a sample.
        fingerprint: changes with names, sizes and validators, but not with the location of the sources.
        roots: for each part its sources (index, and folder in it), the preferred one first.
        has_etags: for each source whether its listing gave ETags, from which validators are then made.
        dropped: number of samples that were left out as they lack a part.
        skips: listed objects that are in no sample, by reason.
        unlikely: objects in a sample that are probably not meant to be, such as `metadata.json`.
        total_bytes: of all parts of all samples whose listings gave sizes.
        max_object_bytes: of the largest part of a sample.
        nbytes: of the whole index.
    """

    def __init__(self, sections: Sections, path: str | None = None, *, is_shared: bool = False) -> None:
        header = sections.header
        self._sections = sections
        self._path = path
        self._is_shared = is_shared
        self._buffer = sections.buffer
        self._known_folders: dict[int, tuple[int, str, int]] = {}
        self._first_object = sections.objects
        self._length: int = header["samples"]
        self._objects: int = header["objects"]
        self._cells = struct.Struct(f"<{len(header['parts'])}{'Q' if header['cell_bytes'] == 8 else 'I'}")
        self.parts: tuple[str, ...] = tuple(part["key"] for part in header["parts"])
        self.roots = tuple(tuple((number, folder) for number, folder in part["roots"]) for part in header["parts"])
        self.has_etags: tuple[bool, ...] = tuple(header["etags"])
        self.fingerprint: str = header["fingerprint"]
        self.dropped: int = header["dropped"]
        self.skips = Skips.from_json(header["skips"])
        self.unlikely = Skips.from_json(header["unlikely"])
        self.total_bytes: int = header["total_bytes"]
        self.max_object_bytes: int = header["max_object_bytes"]
        self.nbytes = len(sections.buffer)

    @classmethod
    async def build(
        cls,
        sources: Sequence[DataSource],
        *,
        data_mapping: Mapping[str, str] | Sequence[str] | None = None,
        rename: Mapping[str, str] | None = None,
        missing: str = "raise",
    ) -> SampleIndex:
        """List the sources and match their objects to samples.

        Args:
            data_mapping: `{name: key in the sample}` or a list of names; a name is a source's, or a folder's below the
                roots (also below `.precomputed/`). None: see `streaming.index.sample_parts.find_parts`.
            rename: texts in the names of samples and their replacements, applied before matching.
            missing: what to do with samples that lack a part: "raise", or "drop" them and count.

        Raises:
            ConfigError: if the mapping has a name that does not exist.
            DuplicateName: if two objects of a source claim the same part of a sample.
            MissingPart: if a sample lacks a part; names the sample, the part and the searched folders.
            NoSamples: if there are objects, but none becomes a sample.
            IndexBuildError: if a source is listed twice, or a path cannot be stored.
            SourceError: if a source cannot be listed, or an object of lines cannot be read.
        """
        if missing not in ("raise", "drop"):
            raise ConfigError(f"missing={missing!r} must be 'raise' or 'drop'")
        if rename and "" in rename:
            raise ConfigError("rename replaces an empty text: give the text to replace")
        header = rules(sources, data_mapping=data_mapping, rename=rename, missing=missing)
        index = cls(parse(await build_buffer(sources, header, {}), "just built"))
        report(sources, index.skips, index.unlikely)
        return index

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, expect: str | Mapping[str, Any] | None = None, is_shared: bool = False
    ) -> SampleIndex:
        """Map a saved index.

        Args:
            expect: the settings it must have been built with, from `configuration` or `rules`; None: any.
            is_shared: whether users other than this one and root may own or write the file. They then control
                which objects are read as which sample.

        Raises:
            FileNotFoundError: or another OSError, if the file cannot be opened.
            IndexFileError: if it is cut short, damaged, invalid, of another version, built for another configuration,
                or writable by others.
        """
        sections = parse(map_file(Path(path), is_shared=is_shared), os.fspath(path))
        expected = {"configuration": expect} if isinstance(expect, str) else expect or {}
        if any(sections.header[name] != value for name, value in expected.items()):
            raise IndexFileError(
                f"the index {os.fspath(path)} was built for other sources, data_mapping, rename or missing, or for "
                "other include or exclude of a source; build it again, or give each configuration a file of its own",
                path=os.fspath(path),
            )
        return cls(sections, os.path.abspath(path), is_shared=is_shared)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save to a file atomically, and use a map of that file from now on. Other processes may save to it too.

        Raises:
            OSError: if it cannot be written; a file at `path` stays as it was.
        """
        mapped = save_file(Path(path), self._buffer)
        self._sections = self._sections._replace(buffer=mapped)
        self._buffer, self._path = mapped, os.path.abspath(path)

    def forget_path(self) -> None:
        """Pickle as bytes from now on, as another index was saved at the path of this one."""
        self._path = None

    def __len__(self) -> int:
        return self._length

    @property
    def skipped_objects(self) -> int:
        """Number of objects in no sample, without those that the settings left out: mapping, `include`, `exclude`."""
        return self.skips.total(without=BY_SETTINGS)

    def rows(self, i: int) -> tuple[Row, ...]:
        """Return the parts of sample `i`, in the order of `parts`.

        Raises:
            IndexError: unless 0 <= i < len.
        """
        # Inlined: six calls per part would take longer than the work.
        buffer, known, new = self._buffer, self._known_folders, tuple.__new__
        objects, first_object = self._objects, self._first_object
        rows = []
        for part, cell in zip(self.parts, self._cells_of(i), strict=True):
            if cell >= objects:
                rows.append(self._line_row(part, cell - objects))
                continue
            folder, at, count, size, validator = unpack_object(buffer, first_object + cell * OBJECT_BYTES)
            source, text, names = known.get(folder) or self._folder(folder)
            at += names
            path = text + str(buffer[at : at + count], "utf-8", "surrogateescape")
            rows.append(new(Row, (part, source, path, 0, size, size, validator)))
        return tuple(rows)

    def _cells_of(self, i: int) -> tuple[int, ...]:
        if not 0 <= i < self._length:
            raise IndexError(f"sample {i} of {self._length}")
        return self._cells.unpack_from(self._buffer, self._sections.cells + i * self._cells.size)

    def _line_row(self, part: str, number: int) -> Row:
        object_number, start, length = self._range(number)
        source, path, size, validator = self._object(object_number)
        return Row(part, source, path, start, length, size, validator)

    def _object(self, number: int) -> tuple[int, str, int, int]:
        """Return source, path, size and validator of an object."""
        folder, at, count, size, validator = OBJECT.unpack_from(self._buffer, self._first_object + number * OBJECT.size)
        source, text, first = self._known_folders.get(folder) or self._folder(folder)
        return source, text + to_text(self._buffer[first + at : first + at + count]), size, validator

    def _folder(self, number: int) -> tuple[int, str, int]:
        """Return source and path of a folder, and the offset of its names; cached for the next row."""
        at, texts = self._sections.folders + number * FOLDER.size, self._sections.texts
        names, text, count, source = FOLDER.unpack_from(self._buffer, at)
        if len(self._known_folders) >= MAX_KNOWN_FOLDERS:
            self._known_folders.clear()
        path = to_text(self._buffer[texts + text : texts + text + count])
        found = self._known_folders[number] = (source, path, texts + names)
        return found

    def _range(self, number: int) -> tuple[int, int, int]:
        """Return object, first byte and length of a line."""
        found: tuple[int, int, int] = RANGE.unpack_from(self._buffer, self._sections.ranges + number * RANGE.size)
        return found

    def name(self, i: int) -> str:
        """Return the name of sample `i`: the path below its part's root without suffixes, after renaming, `#` and line.

        Raises:
            IndexError: unless 0 <= i < len.
        """
        name, line = self.sort_key(i)
        return name if line < 0 else f"{name}#{line}"

    def sort_key(self, i: int) -> tuple[str, int]:
        """Return what samples are sorted by: the name, and the number of the line or -1."""
        cell, line = self._cells_of(i)[0], -1
        if cell >= self._objects:
            at, cell = cell - self._objects, self._range(cell - self._objects)[0]
            line = at - int(np.searchsorted(self._ranges["object"], cell))
        source, path, _, _ = self._object(cell)
        folder, slash, file = path.rpartition("/")
        return self._naming.name(
            relative_folder(self._roots[source], folder + slash) or "", split_suffix(file)[0]
        ), line

    @cached_property
    def _naming(self) -> NamingRules:
        header = self._sections.header
        return NamingRules([part["name"] for part in header["parts"]], header["rename"])

    @cached_property
    def _roots(self) -> dict[int, str]:
        """The folder of the first part in each of its sources."""
        return dict(self._sections.header["parts"][0]["roots"])

    @property
    def _ranges(self) -> NDArray[np.void]:
        count = self._sections.header["sections"][3] // RANGE.size
        return np.frombuffer(self._buffer, RANGES, count, self._sections.ranges)

    async def revalidate(self, sources: Sequence[DataSource]) -> Changes:
        """List the sources again and compare. Objects of lines are read again only if they changed.

        Args:
            sources: those of the index, in the same order.

        Raises:
            ConfigError: if they have other names.
            IndexBuildError, SourceError: as `build`.
        """
        header, names = self._sections.header, [source.name for source in sources]
        if names != header["sources"]:
            raise ConfigError(f"this index was built over the sources {header['sources']}, not {names}: pass those")
        same = {key: header[key] for key in ("configuration", "sources", "data_mapping", "rename", "missing")}
        fresh = SampleIndex(parse(await build_buffer(sources, same, self._known_lines()), "just built"))
        if (fresh.skips.counts, fresh.unlikely.counts) != (self.skips.counts, self.unlikely.counts):
            report(sources, fresh.skips, fresh.unlikely)
        return await asyncio.to_thread(compare, self, fresh)

    def _known_lines(self) -> KnownLines:
        ranges = self._ranges
        numbers, first, counts = np.unique(ranges["object"], return_index=True, return_counts=True)
        known = {}
        for number, begin, count in zip(numbers.tolist(), first.tolist(), counts.tolist(), strict=True):
            source, path, size, validator = self._object(number)
            found = ranges[begin : begin + count]
            lines = Lines(found["start"].astype(np.int64), found["length"].astype(np.int64), size)
            known[source, path, size, validator] = lines
        return known

    def __reduce__(self) -> tuple[Any, ...]:
        if self._path is not None:
            return _reopen, (self._path, self.fingerprint, self._is_shared)
        return _from_bytes, (bytes(self._buffer),)

    def __repr__(self) -> str:
        parts = ", ".join(self.parts)
        return (
            f"SampleIndex({self._length} samples of {parts}; {self.nbytes / 1e6:.1f} MB, {self._path or 'not saved'})"
        )


def _reopen(path: str, fingerprint: str, is_shared: bool) -> SampleIndex:
    index = SampleIndex.open(path, is_shared=is_shared)
    if index.fingerprint != fingerprint:
        text = f"the index {path} was replaced by another since this object was sent: send the new one"
        raise IndexFileError(text, path=path)
    return index


def _from_bytes(data: bytes) -> SampleIndex:
    return SampleIndex(parse(data, "sent by another process"))
