"""Report which listed objects are in no sample and why, and which samples are probably not meant as such."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from streaming.codecs.registry import codec_for, known_suffixes
from streaming.core.logs import get_logger
from streaming.errors import NoSamples
from streaming.index.matching import NONE
from streaming.index.sample_names import PRECOMPUTED
from streaming.telemetry.skipped_objects import BY_SETTINGS, USUAL, Skips, warn_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streaming.index.candidates import Candidates
    from streaming.index.containers.jsonl import Lines
    from streaming.index.listing import Listing
    from streaming.index.matching import Table
    from streaming.index.sample_parts import Part
    from streaming.sources.base import DataSource

METADATA_NAMES: Final = frozenset(
    "annotations captions classes config dataset_dict dataset_info dataset_infos features index info labels license "
    "manifest meta metadata readme schema split splits state stats statistics version vocab".split()
)
"""Names of files that describe a dataset: in Hugging Face and WebDataset repositories, and by trainers."""

MAX_OTHERS_RATIO: Final = 1 / 20
"""Objects of another format are reported if they are at most this share of a part: a few, not a mixture."""

_log = get_logger(__name__)
_REPLICA, _USED, _TWIN, _NO_LINES, _MISSING = range(1, 6)
_REASON_OF: Final = {0: "not_mapped", _TWIN: "compressed_twin", _NO_LINES: "no_lines", _MISSING: "missing_part"}


def find_unread(
    listings: Sequence[Listing], parts: Sequence[Part], mapping: Mapping[str, str] | None = None
) -> list[Skips]:
    """Return for each source what its listing left out. Outside the mapping, objects without a codec are unmapped."""
    found = []
    for source, listing in enumerate(listings):
        roots = {root for part in parts for place, root in part.roots if place == source}
        if mapping is None and any(root.startswith(PRECOMPUTED) for root in roots):
            roots.add(PRECOMPUTED)
        skips, looked_in = Skips(), tuple(roots)
        skips.update(listing.skips)
        for path in listing.unread:
            skips.add("unsupported_suffix" if path.startswith(looked_in) else "not_mapped", path)
        found.append(skips)
    return found


def check_readable(sources: Sequence[DataSource], listings: Sequence[Listing]) -> None:
    """Refuse sources with objects if none of them can be part of a sample.

    Raises:
        NoSamples: with their numbers by reason and suffix.
    """
    if any(map(len, listings)):
        return
    skips = Skips()
    for listing in listings:
        skips.update(left_out(listing))
    check_samples(sources, 0, skips)


def check_samples(sources: Sequence[DataSource], samples: int, skips: Skips) -> None:
    """Refuse an index without samples if its sources have objects.

    Raises:
        NoSamples: with their numbers by reason and suffix.
    """
    if samples or not skips:
        return
    names = ", ".join(repr(source.name) for source in sources)
    text = (
        f"{names}: {skips.total()} objects are stored and none becomes a sample: {skips.describe()}; "
        f"{skips.next_steps()}"
    )
    if "unsupported_suffix" in skips.counts:
        text += f"; the suffixes with a codec are {' '.join(known_suffixes())}, each also with .zst"
    raise NoSamples(text, path=skips.examples[skips.reasons()[0]][0], source=sources[0].name)


def classify(
    listings: Sequence[Listing],
    candidates: Sequence[Candidates],
    lines: Mapping[tuple[int, int], Lines],
    table: Table,
    is_complete: NDArray[np.bool_],
) -> list[NDArray[np.uint8]]:
    """Return for each source the status of each object in its listing, for `find_unused` and `find_unlikely`."""
    total = int(table.offsets[-1])
    status = np.zeros(total, np.uint8)
    for candidate in candidates:
        status[candidate.objects + table.offsets[candidate.source]] = _REPLICA
        status[candidate.twins + table.offsets[candidate.source]] = _TWIN
    for (source, k), found in lines.items():
        if not len(found.starts):
            status[table.offsets[source] + k] = _NO_LINES
    for cells, mark in ((table.cells[~is_complete], _MISSING), (table.cells[is_complete], _USED)):
        status[cells[(cells != NONE) & (cells < total)]] = mark
        status[table.ranges.objects[cells[cells >= total] - total]] = mark
    return np.split(status, table.offsets[1:-1])


def find_unused(listings: Sequence[Listing], statuses: Sequence[NDArray[np.uint8]]) -> Skips:
    """Return the listed objects that are in no sample, without replicas of objects that are."""
    skips = Skips()
    for listing, status in zip(listings, statuses, strict=True):
        for k in np.flatnonzero((status != _REPLICA) & (status != _USED)).tolist():
            skips.add(_REASON_OF[int(status[k])], listing.path(k))
    return skips


def find_unlikely(
    listings: Sequence[Listing], candidates: Sequence[Candidates], statuses: Sequence[NDArray[np.uint8]]
) -> Skips:
    """Return objects that become samples but probably should not: named like metadata, or of a rare format."""
    unlikely = Skips()
    for candidate in candidates:
        objects = candidate.objects[statuses[candidate.source][candidate.objects] == _USED]
        _add_unlikely(unlikely, listings[candidate.source], objects.tolist())
    return unlikely


def left_out(listing: Listing) -> Skips:
    """Return the objects that a listing left out."""
    skips = Skips()
    skips.update(listing.skips)
    for path in listing.unread:
        skips.add("unsupported_suffix", path)
    return skips


def unlikely_samples(listing: Listing) -> Skips:
    """Return the objects of a listing that are probably not meant as samples, if all of it is one part."""
    unlikely = Skips()
    _add_unlikely(unlikely, listing, range(len(listing)))
    return unlikely


def _add_unlikely(unlikely: Skips, listing: Listing, objects: Sequence[int]) -> None:
    names, stems = listing.names, listing.stems
    described = [k for k in objects if names[k][: stems[k]].lower() in METADATA_NAMES]
    if 2 * len(described) >= len(objects):  # each sample has such an object
        described = []
    for k in described:
        unlikely.add("metadata_name", listing.path(k))
    known = set(described)
    suffixes = Counter(listing.suffix(k) for k in objects if k not in known)
    rare = _rare(suffixes)
    for k in objects if rare else ():
        if k not in known and listing.suffix(k) in rare:
            unlikely.add("other_format", listing.path(k))


def _rare(suffixes: Counter[str]) -> set[str]:
    """Return the suffixes of the formats that only a few objects have."""
    formats: Counter[str] = Counter()
    for suffix, count in suffixes.items():
        formats[_format(suffix)] += count
    most = MAX_OTHERS_RATIO * suffixes.total()
    return {suffix for suffix in suffixes if formats[_format(suffix)] <= most}


def _format(suffix: str) -> str:
    return codec_for(f"x{suffix.removesuffix('.zst')}").name


def report(sources: Sequence[DataSource], skips: Skips, unlikely: Skips) -> None:
    """Warn once of objects that were left out unexpectedly, and once of samples that are probably not meant as such."""
    names = ", ".join(source.name for source in sources)
    warn_of(skips, names, without=BY_SETTINGS | USUAL)
    if unlikely:
        _log.warning(
            "unlikely_samples source=%s samples=%d why=%s next_step=%s",
            names,
            unlikely.total(),
            unlikely.describe(),
            f"if they are not samples, leave them out by exclude={_globs(unlikely)} in the source's settings",
        )


def _globs(unlikely: Skips) -> list[str]:
    names = {path.rpartition("/")[2] for path in unlikely.examples.get("metadata_name", ())}
    return sorted(names | {f"*{suffix}" for suffix in unlikely.counts.get("other_format", ())})
