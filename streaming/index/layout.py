"""The binary format of an index: one buffer, in memory or mapped from a file.

::

    prelude   magic, version, 0, bytes of the header, bytes in total                             32 bytes
    checksum  XXH3-128 of everything else; 60 MB, an index of 1,000,000 objects, take 3 ms       16 bytes
    header    JSON: parts and rules, counts, where each section begins
    objects   folder, name (offset from the folder's first, bytes), size, validator              26 bytes an object
    folders   offset of its first name, its own offset and bytes, source                         16 bytes a folder
    cells     per sample and part an object, or (number of objects) + a range               4 or 8 bytes a cell
    ranges    object, first byte, bytes                                                          20 bytes a line
    texts     folders, then names

A folder with a single object is stored in that object's name, so folders cost at most 8 bytes an object. Texts are
UTF-8; other bytes in names are escaped as by `os.fsdecode`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import floordiv, mod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xxhash

from streaming.errors import IndexBuildError, IndexFileError
from streaming.index.integrity import MAX_HEADER_BYTES, InvalidIndex, check_tables, read_header

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streaming.index.listing import Listing
    from streaming.index.matching import Table

__all__ = ["FOLDER", "OBJECT", "PRELUDE", "RANGE", "Sections", "pack", "parse", "to_text"]

MAGIC = b"STREAMIX"
VERSION = 1
PRELUDE = struct.Struct("<8sIIQQ")
CHECKSUM_BYTES = 16
OBJECT = struct.Struct("<IIHqQ")
FOLDER = struct.Struct("<QIHH")
RANGE = struct.Struct("<IQQ")
OBJECTS = np.dtype([("folder", "<u4"), ("at", "<u4"), ("bytes", "<u2"), ("size", "<i8"), ("validator", "<u8")])
FOLDERS = np.dtype([("names", "<u8"), ("at", "<u4"), ("bytes", "<u2"), ("source", "<u2")])
RANGES = np.dtype([("object", "<u4"), ("start", "<u8"), ("length", "<u8")])


class Sections(NamedTuple):
    """A packed index: its buffer, its header, and the offsets of its sections."""

    buffer: Any
    header: dict[str, Any]
    objects: int
    folders: int
    cells: int
    ranges: int
    texts: int


def pack(header: Mapping[str, Any], listings: Sequence[Listing], table: Table, cells: NDArray[np.int64]) -> bytes:
    """Pack some samples of a table into a buffer. Objects that they do not use are left out.

    Args:
        header: parts, rules and anything else that a reader needs, as plain JSON.
        cells: the rows of `table.cells` that are kept.

    Raises:
        IndexBuildError: if a name is not valid UTF-8, or longer than the format allows, or if there are too many
            parts for the header.
    """
    chosen, cells, ranges = _in_use(table, cells)
    objects, folders, texts = _describe(listings, np.split(chosen, np.searchsorted(chosen, table.offsets[1:-1])), table)
    is_wide = len(objects) + len(ranges) > 2**32 - 1
    blocks = [objects.tobytes(), folders.tobytes(), cells.astype("<u8" if is_wide else "<u4").tobytes()]
    blocks += [ranges.tobytes(), texts]
    lengths = np.concatenate([objects["size"], ranges["length"].astype(np.int64)])[cells]
    counts: dict[str, Any] = {
        "samples": len(cells),
        "cell_bytes": 8 if is_wide else 4,
        "objects": len(objects),
        "total_bytes": int(lengths[lengths > 0].sum()),
        "max_object_bytes": int(lengths.max(initial=0)),
        "fingerprint": _digest([json.dumps(header["parts"]).encode(), *blocks]).hexdigest(),
        "sections": [len(block) for block in blocks],
    }
    text = json.dumps({**header, **counts}).encode()
    if len(text) > MAX_HEADER_BYTES:
        raise IndexBuildError(
            f"the names of {len(header['parts'])} parts and the rules take {len(text)} bytes, and at most "
            f"{MAX_HEADER_BYTES} can be saved: name fewer parts in data_mapping"
        )
    total = PRELUDE.size + CHECKSUM_BYTES + len(text) + sum(counts["sections"])
    prelude = PRELUDE.pack(MAGIC, VERSION, 0, len(text), total)
    return b"".join([prelude, _digest([prelude, text, *blocks]).digest(), text, *blocks])


def _digest(blocks: Sequence[bytes | memoryview]) -> xxhash.xxh3_128:
    digest = xxhash.xxh3_128()
    for block in blocks:
        digest.update(block)
    return digest


def _in_use(table: Table, cells: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.void]]:
    """Return the objects in use, and cells and ranges renumbered for them. All lines of such an object are kept."""
    total, ranges = int(table.offsets[-1]), table.ranges
    is_used = np.zeros(total, bool)
    is_used[cells[cells < total]] = True
    is_used[ranges.objects[cells[cells >= total] - total]] = True
    is_kept = is_used[ranges.objects]
    chosen = np.flatnonzero(is_used)
    place, range_place = np.cumsum(is_used) - 1, np.cumsum(is_kept) - 1 + len(chosen)
    rows = np.zeros(int(is_kept.sum()), RANGES)
    rows["object"] = place[ranges.objects[is_kept]]
    rows["start"], rows["length"] = ranges.starts[is_kept], ranges.lengths[is_kept]
    return chosen, np.concatenate([place, range_place])[cells], rows


def _describe(
    listings: Sequence[Listing], chosen: Sequence[NDArray[np.int64]], table: Table
) -> tuple[NDArray[np.void], NDArray[np.void], bytes]:
    """Return the rows of objects and folders of all sources, and their texts."""
    objects, folders, paths, names = [np.zeros(0, OBJECTS)], [np.zeros(0, FOLDERS)], [b""], [b""]
    for source, (listing, picked) in enumerate(zip(listings, chosen, strict=True)):
        rows, groups, path_texts, name_texts = _describe_source(listing, picked - table.offsets[source])
        rows["folder"] += sum(map(len, folders))
        groups["names"] += sum(map(len, names))
        groups["at"] += sum(map(len, paths))
        groups["source"] = source
        for column, block in zip((objects, folders, paths, names), (rows, groups, path_texts, name_texts), strict=True):
            column.append(block)  # type: ignore[attr-defined]
    all_folders = np.concatenate(folders)
    all_folders["names"] += sum(map(len, paths))
    return np.concatenate(objects), all_folders, b"".join([*paths, *names])


def _describe_source(
    listing: Listing, picked: NDArray[np.int64]
) -> tuple[NDArray[np.void], NDArray[np.void], bytes, bytes]:
    """Return rows of objects and folders, the folders' texts and the objects' names, with offsets from 0 each."""
    groups, members, is_alone = _group_by_folder(listing, picked)
    parts = zip(picked.tolist(), is_alone.tolist(), strict=True)
    names = [_to_bytes(listing.path(k) if alone else listing.names[k]) for k, alone in parts]
    lengths = np.fromiter(map(len, names), np.int64, len(names))
    order = np.argsort(members, kind="stable")  # names are in the order of the folders
    begins = np.cumsum(lengths[order]) - lengths[order]
    first = begins[np.searchsorted(members[order], np.arange(len(groups)))]
    places = np.empty(len(picked), np.int64)
    places[order] = begins
    places -= first[members]
    _check_limits(lengths, places)
    rows = np.zeros(len(picked), OBJECTS)
    rows["folder"], rows["at"], rows["bytes"] = members, places, lengths
    if len(picked):
        rows["size"] = np.frombuffer(listing.sizes, np.int64)[picked]
        rows["validator"] = np.frombuffer(listing.validators, np.uint64)[picked]
    texts = [_to_bytes(group) for group in groups]
    folder_rows = np.zeros(len(groups), FOLDERS)
    folder_rows["names"], folder_rows["bytes"] = first, [len(text) for text in texts]
    folder_rows["at"] = np.cumsum([0, *map(len, texts)])[:-1]
    return rows, folder_rows, b"".join(texts), b"".join([names[k] for k in order.tolist()])


def _group_by_folder(
    listing: Listing, picked: NDArray[np.int64]
) -> tuple[list[str], NDArray[np.int64], NDArray[np.bool_]]:
    """Return the folders to store, the folder index of each object, and whether the object keeps its whole path."""
    if not len(picked):
        return [], picked, picked.astype(bool)
    ids = np.frombuffer(listing.folder_ids, np.uint32)[picked].astype(np.int64)
    is_alone = np.bincount(ids)[ids] == 1
    unique, members = np.unique(np.where(is_alone, -1, ids), return_inverse=True)
    return ["" if number < 0 else listing.folders[number] for number in unique.tolist()], members, is_alone


def _check_limits(lengths: NDArray[np.int64], places: NDArray[np.int64]) -> None:
    if lengths.max(initial=0) >= 2**16:
        raise IndexBuildError(f"a path has {lengths.max()} bytes, and at most {2**16 - 1} can be indexed: shorten it")
    if places.max(initial=0) >= 2**32:
        raise IndexBuildError("one folder has more than 4 GB of names: spread its objects over more folders")


def _to_bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as exc:
        raise IndexBuildError(f"the path {text!r} is not valid text: rename the object", path=text) from exc


def to_text(data: bytes) -> str:
    """Decode a path from its bytes in the buffer."""
    return data.decode("utf-8", "surrogateescape")


def parse(buffer: Any, place: str) -> Sections:
    """Parse a buffer that `pack` made.

    Args:
        buffer: bytes, or a map of a file.
        place: the name of the index in errors.

    Raises:
        IndexFileError: if it is cut short, damaged, of another version, or invalid.
    """
    first = PRELUDE.size + CHECKSUM_BYTES
    if len(buffer) < first or buffer[: len(MAGIC)] != MAGIC:
        raise _refused(place, f"is not an index, or was cut short: it has {len(buffer)} bytes")
    _, version, _, header_bytes, total = PRELUDE.unpack_from(buffer)
    if version != VERSION:
        raise _refused(place, f"is of version {version}, and this library reads version {VERSION}")
    if total != len(buffer):
        raise _refused(place, f"has {len(buffer)} bytes of {total}: it was cut short, or written to")
    if header_bytes > min(MAX_HEADER_BYTES, total - first):
        raise _refused(place, f"has a header of {header_bytes} bytes, and at most {MAX_HEADER_BYTES} are read")
    with memoryview(buffer) as view, view[: PRELUDE.size] as prelude, view[first:] as rest:
        if _digest([prelude, rest]).digest() != view[PRELUDE.size : first]:
            raise _refused(place, "is damaged: its checksum differs")
    begin = first + header_bytes
    try:
        header = read_header(buffer[first:begin])
        return _sections(buffer, header, begin)
    except InvalidIndex as exc:
        raise _refused(place, str(exc)) from exc


def _sections(buffer: Any, header: dict[str, Any], begin: int) -> Sections:
    """Return the offsets of the sections, after checking their contents.

    Raises:
        InvalidIndex: if a number is not valid.
    """
    lengths, samples, parts = header["sections"], header["samples"], len(header["parts"])
    sizes = (OBJECT.size, FOLDER.size, header["cell_bytes"] * max(1, parts), RANGE.size, 1)
    if len(lengths) != len(sizes) or begin + sum(lengths) != len(buffer) or any(map(mod, lengths, sizes)):
        raise InvalidIndex("has other sections than its header says")
    objects, folders, cells, ranges, texts = map(floordiv, lengths, sizes)
    if (objects, cells) != (header["objects"], samples):
        raise InvalidIndex("has other numbers of objects or samples than its header says")
    sections = Sections(buffer, header, *accumulate(lengths[:-1], initial=begin))
    check_tables(
        header,
        np.frombuffer(buffer, OBJECTS, objects, sections.objects),
        np.frombuffer(buffer, FOLDERS, folders, sections.folders),
        np.frombuffer(buffer, f"<u{header['cell_bytes']}", samples * parts, sections.cells).reshape(samples, parts),
        np.frombuffer(buffer, RANGES, ranges, sections.ranges),
        texts,
    )
    return sections


def _refused(place: str, why: str) -> IndexFileError:
    return IndexFileError(f"the index {place} {why}; build it again", path=place)
