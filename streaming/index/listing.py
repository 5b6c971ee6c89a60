"""The objects of one source, in columns: a few arrays, and one list of file names."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from streaming.codecs.registry import split_suffix
from streaming.index.sample_names import PRECOMPUTED
from streaming.telemetry.skipped_objects import Skips

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streaming.core.globs import Selection
    from streaming.sources.base import DataSource, FileInfo

__all__ = ["Listing", "fill", "list_source", "validator"]

LINES_SUFFIX = ".jsonl"


def validator(etag: str | None, size: int, modified: float | None) -> int:
    """Return 64 bits that change when an object does; 0 if its listing gives neither ETag nor time.

    If there is an ETag, it alone is used, so that the ETag of a read can be compared.
    """
    if etag:
        return xxhash.xxh3_64_intdigest(etag.removeprefix("W/").strip('"').encode("utf-8", "replace")) or 1
    if modified is not None:
        return xxhash.xxh3_64_intdigest(f"{size}@{modified!r}".encode()) or 1
    return 0


@dataclass
class Listing:
    """The objects of one source that can be parts of samples. Item k of each column belongs to object k.

    Attributes:
        folders: each folder once, empty or ending in `/`.
        folder_ids: index into `folders`.
        names: file names, without folders.
        stems: length of each name without its suffix.
        sizes: in bytes; -1 if unknown.
        validators: see `validator`.
        is_lines: 1 if each line is a sample of its own.
        has_etags: whether all validators come from ETags, so that reads can be compared with them.
        unread: paths of objects without a codec; they have no row.
        skips: other objects that were left out; they have no row.
    """

    folders: list[str] = field(default_factory=list)
    folder_ids: array[int] = field(default_factory=lambda: array("I"))
    names: list[str] = field(default_factory=list)
    stems: array[int] = field(default_factory=lambda: array("I"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    validators: array[int] = field(default_factory=lambda: array("Q"))
    is_lines: bytearray = field(default_factory=bytearray)
    has_etags: bool = False
    unread: list[str] = field(default_factory=list)
    skips: Skips = field(default_factory=Skips)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, k: int) -> str:
        """Return the path of object k, relative to its source."""
        return self.folders[self.folder_ids[k]] + self.names[k]

    def suffix(self, k: int) -> str:
        """Return the suffix of object k in lower case, with its dot."""
        return self.names[k][self.stems[k] :].lower()

    def used_folders(self) -> list[str]:
        """Return the folders with at least one object."""
        return [self.folders[number] for number in np.unique(np.array(self.folder_ids, np.intp))]

    def in_folders(self, wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the objects in the wanted folders."""
        return np.flatnonzero(wanted[np.array(self.folder_ids, np.intp)]).astype(np.int64)

    def lines_among(self, objects: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return for each of these objects whether its lines are samples of their own."""
        return np.array(self.is_lines, np.uint8).astype(bool)[objects]


async def list_source(source: DataSource) -> Listing:
    """List a source. Objects that cannot be part of a sample are counted.

    Raises:
        SourceError: if the source cannot be listed.
    """
    listing = Listing()
    await fill(listing, source.iter_files(), source.config.selection)
    listing.skips.update(source.skipped)
    return listing


async def fill(listing: Listing, files: AsyncIterable[FileInfo], why: Selection | None) -> None:
    """Add the objects that can be part of a sample to a listing, and count the others.

    Args:
        why: returns the reason why the settings leave a path out, or None.
    """
    skips, unread = listing.skips, listing.unread
    folder_ids: dict[str, int] = {}
    last, last_id = None, -1
    add_folder_id, add_name, add_stem = listing.folder_ids.append, listing.names.append, listing.stems.append
    add_size, add_validator, add_kind = listing.sizes.append, listing.validators.append, listing.is_lines.append
    with_etag = 0
    async for info in files:
        path = info.path
        if why is not None and (reason := why(path)):
            skips.add(reason, path)
            continue
        cut = path.rfind("/") + 1
        folder, name = path[:cut], path[cut:]
        if folder != last:
            last, last_id = folder, _folder_id(listing, folder_ids, folder)
        if last_id < 0 or name[:1] == ".":
            skips.add("hidden", path)
            continue
        stem, suffix = split_suffix(name)
        if not suffix:
            unread.append(path)
            continue
        add_folder_id(last_id)
        add_name(name)
        add_stem(len(stem))
        add_size(info.size)
        add_validator(validator(info.etag, info.size, info.modified))
        with_etag += info.etag is not None
        add_kind(suffix.lower() == LINES_SUFFIX)
    listing.has_etags = 0 < with_etag == len(listing)


def _folder_id(listing: Listing, folder_ids: dict[str, int], folder: str) -> int:
    """Return the number of a folder, or -1 if it is hidden."""
    if folder not in folder_ids:
        is_hidden = any(part.startswith(".") for part in folder.removeprefix(PRECOMPUTED).split("/"))
        folder_ids[folder] = -1 if is_hidden else len(listing.folders)
        if not is_hidden:
            listing.folders.append(folder)
    return folder_ids[folder]
