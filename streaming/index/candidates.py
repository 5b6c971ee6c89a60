"""Find the candidates for each part of each sample, and settle which stand when two objects share a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streaming.errors import DuplicateName, IndexBuildError
from streaming.index.sample_names import NamingRules, relative_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streaming.index.listing import Listing
    from streaming.index.sample_parts import Part
    from streaming.sources.base import DataSource

__all__ = ["Candidates", "Names", "check_names", "find_candidates"]

Names = dict[str, int]
"""The number of each name of a sample (or of an object whose lines are samples), in the order of first occurrence."""


@dataclass
class Candidates:
    """The objects of one source for one part.

    Attributes:
        part: index in the list of parts.
        source: index in the list of sources.
        objects: indices in the source's listing.
        names: the number of the name of each object.
        twins: indices of compressed objects that are left out, as the uncompressed ones exist.
    """

    part: int
    source: int
    objects: NDArray[np.int64]
    names: NDArray[np.int64]
    twins: NDArray[np.int64]


def find_candidates(
    sources: Sequence[DataSource], listings: Sequence[Listing], parts: Sequence[Part], naming: NamingRules
) -> tuple[list[Candidates], Names]:
    """Find the objects of every part, and name their samples. `x.pt` is preferred to `x.pt.zst`.

    Raises:
        DuplicateName: if two objects of one source could be the same part of the same sample.
    """
    numbers: Names = {}
    candidates = []
    for place, part in enumerate(parts):
        for source, root in part.roots:
            objects, names = _name_objects(listings[source], root, naming, numbers)
            keep = _drop_twins(sources[source], listings[source], part, objects, names, numbers)
            candidates.append(Candidates(place, source, objects[keep], names[keep], objects[~keep]))
    return candidates, numbers


def _name_objects(
    listing: Listing, root: str, naming: NamingRules, numbers: Names
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rests = [relative_folder(root, folder) for folder in listing.folders]
    objects = listing.in_folders(np.array([rest is not None for rest in rests], bool))
    folder_ids, files, stems, name_of = listing.folder_ids, listing.names, listing.stems, naming.name
    found = np.empty(len(objects), np.int64)
    for at, k in enumerate(objects.tolist()):
        name = name_of(rests[folder_ids[k]] or "", files[k][: stems[k]])
        found[at] = numbers.setdefault(name, len(numbers))
    return objects, found


def _drop_twins(
    source: DataSource,
    listing: Listing,
    part: Part,
    objects: NDArray[np.int64],
    names: NDArray[np.int64],
    numbers: Names,
) -> NDArray[np.bool_]:
    """Whether each candidate stands: all do, except compressed twins of a plain object."""
    keep = np.ones(len(objects), bool)
    order = np.argsort(names, kind="stable")
    repeated = np.unique(names[order][1:][names[order][1:] == names[order][:-1]])
    if not len(repeated):
        return keep
    by_name: dict[int, list[int]] = {}
    for at in np.flatnonzero(np.isin(names, repeated)).tolist():
        by_name.setdefault(int(names[at]), []).append(at)
    for number, rivals in by_name.items():
        plain = [at for at in rivals if not listing.suffix(int(objects[at])).endswith(".zst")]
        paths = sorted(listing.path(int(objects[at])) for at in rivals)
        if len(rivals) > 2 or len(plain) != 1 or paths[1].lower() != f"{paths[0].lower()}.zst":
            name = next(name for name, candidate in numbers.items() if candidate == number)
            raise DuplicateName(
                f"sample {name!r} has {len(rivals)} objects for its part {part.name!r} in source {source.name!r}: "
                f"{', '.join(map(repr, paths[:4]))}; keep one of them, or use `rename` to tell them apart",
                path=paths[0],
                source=source.name,
            )
        keep[[at for at in rivals if at != plain[0]]] = False
    return keep


def check_names(numbers: Names) -> None:
    """Refuse empty names of samples after renaming.

    Raises:
        IndexBuildError: if there is one.
    """
    if "" in numbers:
        raise IndexBuildError("`rename` makes the name of a sample empty: replace less of it")
