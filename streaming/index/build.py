"""Build an index: list the sources, name the samples, find lines, join and pack. About 10 s for 1,000,000 objects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from streaming.core.logs import get_logger
from streaming.errors import MissingPart
from streaming.index.candidates import Candidates, Names, check_names, find_candidates
from streaming.index.containers.jsonl import Lines, find_lines
from streaming.index.layout import pack
from streaming.index.listing import Listing, list_source
from streaming.index.matching import NONE, Table, match
from streaming.index.object_report import (
    check_readable,
    check_samples,
    classify,
    find_unlikely,
    find_unread,
    find_unused,
)
from streaming.index.sample_names import NamingRules
from streaming.index.sample_parts import Part, check_distinct, find_parts
from streaming.telemetry.skipped_objects import BY_SETTINGS, USUAL, Skips

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streaming.sources.base import DataSource

__all__ = ["KnownLines", "build_buffer"]

LINE_READERS = 4
"""Number of objects whose lines are found at once: reading and searching overlap, in at most 4 x 8 MiB of memory."""

KnownLines = Mapping[tuple[int, str, int, int], Lines]
"""Lines of an earlier index, by source, path, size and validator of their object."""

_log = get_logger(__name__)
_T = TypeVar("_T")


async def build_buffer(sources: Sequence[DataSource], header: Mapping[str, Any], known_lines: KnownLines) -> bytes:
    """Return the packed index over some sources.

    Args:
        header: `data_mapping`, `rename` and `missing`, and anything else to store with them.
        known_lines: of objects that need not be read again if they are unchanged.

    Raises:
        ConfigError, IndexBuildError, SourceError: as `SampleIndex.build`.
    """
    check_distinct(sources)
    listings = await _gather([list_source(source) for source in sources])
    check_readable(sources, listings)
    parts = find_parts(sources, listings, header["data_mapping"])
    naming = NamingRules([part.name for part in parts], header["rename"])
    candidates, numbers = await asyncio.to_thread(find_candidates, sources, listings, parts, naming)
    check_names(numbers)
    lines = await _find_all_lines(sources, listings, candidates, known_lines)
    return await asyncio.to_thread(_join, sources, listings, parts, candidates, numbers, lines, header)


async def _gather(coroutines: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Return the results; the first failure cancels the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _find_all_lines(
    sources: Sequence[DataSource], listings: Sequence[Listing], candidates: Sequence[Candidates], known: KnownLines
) -> dict[tuple[int, int], Lines]:
    """Return the lines of each object of lines, in the order of sources and listings."""
    places = sorted(
        {
            (candidate.source, k)
            for candidate in candidates
            for k in candidate.objects[listings[candidate.source].lines_among(candidate.objects)].tolist()
        }
    )
    found: dict[tuple[int, int], Lines] = {}
    waiting = iter(places)

    async def find_next() -> None:
        for source, k in waiting:
            listing = listings[source]
            lines = known.get((source, listing.path(k), listing.sizes[k], listing.validators[k]))
            if lines is None or not listing.validators[k]:
                lines = await find_lines(sources[source], listing.path(k), listing.sizes[k])
            listing.sizes[k] = lines.size
            found[source, k] = lines

    await _gather([find_next() for _ in range(min(LINE_READERS, len(places)))])
    return {place: found[place] for place in places}


def _join(
    sources: Sequence[DataSource],
    listings: Sequence[Listing],
    parts: Sequence[Part],
    candidates: Sequence[Candidates],
    numbers: Names,
    lines: Mapping[tuple[int, int], Lines],
    header: Mapping[str, Any],
) -> bytes:
    table = match(listings, parts, candidates, numbers, lines)
    is_complete = (table.cells != NONE).all(axis=1)
    dropped = len(is_complete) - int(is_complete.sum())
    unread = find_unread(listings, parts, header["data_mapping"])
    if dropped and header["missing"] == "raise":
        raise _missing(sources, listings, parts, table, is_complete, dropped, unread)
    statuses = classify(listings, candidates, lines, table, is_complete)
    skips = find_unused(listings, statuses)
    for each in unread:
        skips.update(each)
    check_samples(sources, len(is_complete) - dropped, skips)
    if dropped:
        _log.info("samples_dropped dropped=%d of=%d reason=missing_part", dropped, len(is_complete))
    report = {"skips": skips.to_json(), "unlikely": find_unlikely(listings, candidates, statuses).to_json()}
    rows = [{"key": part.key, "name": part.name, "roots": part.roots} for part in parts]
    etags = [listing.has_etags for listing in listings]
    header = {**header, **report, "parts": rows, "dropped": dropped, "etags": etags}
    return pack(header, listings, table, table.cells[is_complete])


def _missing(
    sources: Sequence[DataSource],
    listings: Sequence[Listing],
    parts: Sequence[Part],
    table: Table,
    is_complete: NDArray[np.bool_],
    dropped: int,
    unread: Sequence[Skips],
) -> MissingPart:
    sample = int(np.flatnonzero(~is_complete)[0])
    row = table.cells[sample]
    part = parts[int(np.flatnonzero(row == NONE)[0])]
    source, k, line = table.place(int(row[row != NONE][0]))
    path = listings[source].path(k)
    name = table.names[int(np.searchsorted(table.starts, sample, side="right")) - 1] + ("" if line < 0 else f"#{line}")
    left_out = [unread[place].describe(without=BY_SETTINGS | USUAL) for place in dict(part.roots)]
    also = "".join(f" (not read there: {text})" for text in left_out if text)
    looked = " and ".join(f"{sources[place].name!r} below {root or '/'!r}" for place, root in part.roots)
    return MissingPart(
        f"sample {name!r} lacks its part {part.name!r} (key {part.key!r}): looked in {looked}{also}, and found "
        f"only {path!r} in {sources[source].name!r}; {dropped} of {len(is_complete)} samples lack a part: add the "
        "objects, give `rename` rules that make their names equal, name in data_mapping only the parts you want, "
        "exclude objects that are not samples by `exclude` in the source's settings, or set missing='drop'",
        path=path,
        source=sources[source].name,
    )
