"""Join the parts of every sample by name, in numpy: a table of samples by parts, sorted by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streaming.index.candidates import Candidates, Names
    from streaming.index.containers.jsonl import Lines
    from streaming.index.listing import Listing
    from streaming.index.sample_parts import Part

__all__ = ["Ranges", "Table", "match"]

NONE = -1

LineTable = Mapping[tuple[int, int], "Lines"]
"""Lines of objects, keyed by the index of the source and of the object in its listing, in this order."""


@dataclass
class Ranges:
    """Lines in the order of their objects: object, first byte, length in bytes."""

    objects: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


@dataclass
class Table:
    """All samples.

    Attributes:
        cells: for each sample and part an object, or (number of objects) + a range, or -1 if the part is missing.
        starts: the first sample of each name, in the order of `names`.
        names: sorted; a name has one sample, or one per line.
        ranges: see `Ranges`.
        offsets: the first object of each source, and the number of all objects at the end.
    """

    cells: NDArray[np.int64]
    starts: NDArray[np.int64]
    names: list[str]
    ranges: Ranges
    offsets: NDArray[np.int64]

    def place(self, cell: int) -> tuple[int, int, int]:
        """Return what a cell refers to: source, object in its listing, and line or -1."""
        line, number = -1, cell
        if cell >= self.offsets[-1]:
            at = cell - int(self.offsets[-1])
            number = int(self.ranges.objects[at])
            line = at - int(np.searchsorted(self.ranges.objects, number))
        source = int(np.searchsorted(self.offsets, number, side="right")) - 1
        return source, number - int(self.offsets[source]), line


def match(
    listings: Sequence[Listing],
    parts: Sequence[Part],
    candidates: Sequence[Candidates],
    numbers: Names,
    lines: LineTable,
) -> Table:
    """Return the table of all samples with at least one part, complete or not."""
    offsets = np.concatenate([[0], np.cumsum([len(listing) for listing in listings], dtype=np.int64)])
    ranges, first_range = _all_ranges(lines, offsets)
    names = sorted(numbers)
    starts, has_whole, total = _layout(listings, candidates, numbers, names, lines)
    columns: dict[tuple[int, int], NDArray[np.int64]] = {}
    for candidate in candidates:
        column = np.full(total, NONE, np.int64)
        is_lines = listings[candidate.source].lines_among(candidate.objects)
        whole = ~is_lines
        column[starts[candidate.names[whole]]] = candidate.objects[whole] + offsets[candidate.source]
        for k, name in zip(candidate.objects[is_lines].tolist(), candidate.names[is_lines].tolist(), strict=True):
            count, first = len(lines[candidate.source, k].starts), first_range[candidate.source, k]
            begin = starts[name] + has_whole[name]
            column[begin : begin + count] = np.arange(first, first + count) + offsets[-1]
        columns[candidate.part, candidate.source] = column
    in_order = starts[np.fromiter(map(numbers.__getitem__, names), np.int64, len(names))]
    return Table(_choose(parts, columns, total), in_order, names, ranges, offsets)


def _all_ranges(lines: LineTable, offsets: NDArray[np.int64]) -> tuple[Ranges, dict[tuple[int, int], int]]:
    none = [np.empty(0, np.int64)]
    objects = [np.full(len(found.starts), offsets[source] + k) for (source, k), found in lines.items()]
    starts, lengths = [found.starts for found in lines.values()], [found.lengths for found in lines.values()]
    counts = np.cumsum([0, *map(len, starts)])
    first_range = dict(zip(lines, counts.tolist(), strict=False))
    return Ranges(*(np.concatenate(none + column) for column in (objects, starts, lengths))), first_range


def _layout(
    listings: Sequence[Listing],
    candidates: Sequence[Candidates],
    numbers: Names,
    names: Sequence[str],
    lines: LineTable,
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return, by number of a name, its first sample and whether that is a whole object; and the number of samples."""
    has_whole = np.zeros(len(numbers), np.int64)
    line_counts = np.zeros(len(numbers), np.int64)
    for candidate in candidates:
        is_lines = listings[candidate.source].lines_among(candidate.objects)
        has_whole[candidate.names[~is_lines]] = 1
        for k, name in zip(candidate.objects[is_lines].tolist(), candidate.names[is_lines].tolist(), strict=True):
            line_counts[name] = max(line_counts[name], len(lines[candidate.source, k].starts))
    by_name = np.fromiter(map(numbers.__getitem__, names), np.int64, len(names))
    counts = (has_whole + line_counts)[by_name]
    starts = np.empty(len(numbers), np.int64)
    starts[by_name] = np.cumsum(counts) - counts
    return starts, has_whole, int(counts.sum())


def _choose(
    parts: Sequence[Part], columns: Mapping[tuple[int, int], NDArray[np.int64]], total: int
) -> NDArray[np.int64]:
    """Take all parts of a sample from the first replica that has them all; otherwise each from its first replica."""
    cells = np.full((total, len(parts)), NONE, np.int64)
    for place, part in enumerate(parts):
        for source, _ in reversed(part.roots):
            column = columns[place, source]
            np.copyto(cells[:, place], column, where=column != NONE)
    replicated = [place for place, part in enumerate(parts) if len(part.roots) > 1]
    if len(replicated) < 2:
        return cells
    shared = [
        source for source, _ in parts[replicated[0]].roots if all((place, source) in columns for place in replicated)
    ]
    for source in reversed(shared):
        is_complete = np.logical_and.reduce([columns[place, source] != NONE for place in replicated])
        for place in replicated:
            np.copyto(cells[:, place], columns[place, source], where=is_complete)
    return cells
