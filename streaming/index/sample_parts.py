"""Find the parts of samples: each is a source of its own, or a folder in any of the sources."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from streaming.core.adapter_config import DEFAULT_MAPPING, parse_mapping
from streaming.core.config_model import is_near, suggest
from streaming.errors import ConfigError, IndexBuildError
from streaming.index.sample_names import PRECOMPUTED
from streaming.telemetry.skipped_objects import Skips

if TYPE_CHECKING:
    from streaming.index.listing import Listing
    from streaming.sources.base import DataSource

__all__ = ["Part", "check_distinct", "find_parts"]


class Part(NamedTuple):
    """One part of every sample.

    Attributes:
        key: its key in the sample.
        name: its name in `data_mapping`.
        roots: (index of the source, folder in it), the preferred replica first.
    """

    key: str
    name: str
    roots: tuple[tuple[int, str], ...]


def check_distinct(sources: Sequence[DataSource]) -> None:
    """Refuse two sources with one name, or one location listed twice.

    Raises:
        IndexBuildError: naming both.
    """
    seen: dict[object, str] = {}
    for source in sources:
        place = _location(source)
        if source.name in seen.values():
            raise IndexBuildError(f"two sources are named {source.name!r}: give each a name of its own")
        if place in seen:
            text = f"sources {seen[place]!r} and {source.name!r} are the same location: list it once"
            raise IndexBuildError(text, source=source.name)
        seen[place] = source.name


def _location(source: DataSource) -> object:
    kind, root = source.config.source_type, source.config.path_or_uri
    if kind == "local":
        return os.path.realpath(root)
    # Objects in memory have no address, so two such sources are two locations.
    return id(source) if kind == "memory" else root.rstrip("/")


def find_parts(
    sources: Sequence[DataSource], listings: Sequence[Listing], mapping: Mapping[str, str] | None
) -> list[Part]:
    """Return the parts of a mapping, or else those that the sources have, under the keys of `DEFAULT_MAPPING`.

    Without a mapping the parts are the folders of `.precomputed/`; the top folders of a source, if one of them is named
    in `DEFAULT_MAPPING`; and each source with none of these folders, as a whole.

    Raises:
        ConfigError: if a name of the mapping is neither a source nor a folder, with the nearest one, or if two parts
            would have one key. If one source has one part, any single name in the mapping means that part.
    """
    trees = [_Tree(listing) for listing in listings]
    places = {source.name: number for number, source in enumerate(sources)}
    found = _find_names(places, trees)
    if mapping is None:
        mapping = parse_mapping({name: DEFAULT_MAPPING.get(name, name) for name in found}) or {}
    is_empty = not any(map(len, listings))
    parts = []
    for name, key in mapping.items():
        roots = ((places[name], ""),) if name in places else _folder_roots(name, trees)
        if not roots and not is_empty:
            _check_readable(name, listings)
            known = {*places, *(top for tree in trees for at in ("", PRECOMPUTED) for top in tree.top_below(at))}
            is_only_part = len(mapping) == 1 and found == list(places) and len(found) == 1
            if not is_only_part or is_near(name, known.difference(places)):
                raise ConfigError(
                    f"data_mapping names {name!r}, which is neither a source nor a folder with samples in "
                    f"{', '.join(repr(source.name) for source in sources)}: {suggest(name, known)}"
                )
            roots = ((0, ""),)
        parts.append(Part(key, name, roots))
    return parts


def _find_names(places: Mapping[str, int], trees: Sequence[_Tree]) -> list[str]:
    """Return the names of the parts in the sources: of folders that are known to be parts, else of sources."""
    folders = {name for tree in trees for name in tree.top_below(PRECOMPUTED)}
    for name, number in places.items():
        tops = trees[number].top_below("")
        if name not in DEFAULT_MAPPING and not tops.isdisjoint(DEFAULT_MAPPING):
            folders |= tops
    whole = [name for name, number in places.items() if not trees[number].holds_any(folders)]
    return sorted(folders) + whole


def _check_readable(name: str, listings: Sequence[Listing]) -> None:
    """Refuse a folder in which no object has a codec."""
    folder = name.strip("/") + "/"
    skips = Skips()
    for listing in listings:
        for path in listing.unread:
            if path.startswith((folder, PRECOMPUTED + folder)):
                skips.add("unsupported_suffix", path)
    if skips:
        raise ConfigError(
            f"data_mapping names {name!r}, a folder with {skips.total()} objects that no codec reads: "
            f"{skips.describe()}; convert them, or register a codec with streaming.codecs.register_codec"
        )


def _folder_roots(name: str, trees: Sequence[_Tree]) -> tuple[tuple[int, str], ...]:
    folder = name.strip("/") + "/"
    roots = ((number, tree.find(folder)) for number, tree in enumerate(trees))
    return tuple((number, root) for number, root in roots if root is not None)


class _Tree:
    """The folders of one source that have objects, and their parents."""

    def __init__(self, listing: Listing) -> None:
        self._is_empty = not len(listing)
        self._folders: set[str] = set()
        for folder in listing.used_folders():
            while folder and folder not in self._folders:
                self._folders.add(folder)
                folder = folder[: folder.rstrip("/").rfind("/") + 1]

    def find(self, folder: str) -> str | None:
        """Return the path of a folder: below `.precomputed/` if it exists there, else below the root."""
        return next((at for at in (PRECOMPUTED + folder, folder) if at in self._folders), None)

    def holds_any(self, names: Collection[str]) -> bool:
        """Whether one of these folders exists. True for an empty source too, as it may be a mirror to be filled."""
        return bool(names) and (self._is_empty or any(self.find(f"{name}/") is not None for name in names))

    def top_below(self, prefix: str) -> set[str]:
        """Return the names of the folders directly below a prefix."""
        tops = {folder[len(prefix) :] for folder in self._folders if folder.startswith(prefix) and folder != prefix}
        return {top[:-1] for top in tops if top.count("/") == 1} - {PRECOMPUTED[:-1]}
