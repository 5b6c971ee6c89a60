"""Objects that do not become samples: how many, why, with which suffixes, and the first few by name.

Each listing of a source counts what it leaves out in a new `Skips`, and sets it as the source's `skipped` when it is
complete; the index adds what it leaves out. Only `list_files` and the index, which use the objects, log a warning.
Memory is bounded, whatever the number of objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from streaming.core.logs import get_logger

__all__ = ["BY_SETTINGS", "NEXT_STEPS", "REASONS", "USUAL", "Skips", "suffix_of", "warn_of"]

REASONS: Final = {
    "unsupported_suffix": "with a suffix that no codec reads",
    "symlink_outside_root": "that link out of the root",
    "broken_link": "that link to nothing",
    "special_file": "not a regular file",
    "folder_name": "named like a folder",
    "outside_root": "with a name that is not a path below the root",
    "separator_in_name": "with a separator or NUL in the name",
    "not_in_engine": "with a key that obstore cannot read",
    "no_lines": "with blank lines only",
    "missing_part": "of samples that lack a part",
    "hidden": "hidden",
    "compressed_twin": "next to the same object uncompressed",
    "not_mapped": "outside the folders of data_mapping",
    "excluded": "left out by exclude",
    "not_included": "not selected by include",
    "metadata_name": "named like metadata",
    "other_format": "of another format than the rest",
}
"""Reasons to leave an object out or to warn about it, with their words in a message."""

_RENAME: Final = "rename these objects"
NEXT_STEPS: Final = {
    "unsupported_suffix": "convert them to a format that has a codec (unpack archives), or register a codec with "
    "streaming.codecs.register_codec",
    "symlink_outside_root": "make the root a folder that holds what the links lead to",
    "broken_link": "repair or remove the links",
    "special_file": "move pipes, sockets and devices out of the root",
    "folder_name": _RENAME,
    "outside_root": _RENAME,
    "separator_in_name": _RENAME,
    "not_in_engine": "set engine to 'aioboto3' (S3) or 'gcsfs' (GCS), which reads them, or rename these objects",
    "no_lines": "check what wrote the empty objects",
    "hidden": "rename what begins with a dot",
    "missing_part": "check data_mapping, or give `rename` rules that make the names of the parts equal",
    "not_mapped": "check data_mapping",
    "excluded": "check include and exclude of the source",
    "not_included": "check include and exclude of the source",
}
"""Next step for each reason."""

BY_SETTINGS: Final = frozenset({"not_mapped", "excluded", "not_included"})
"""Left out because of the settings; not counted as skipped."""

USUAL: Final = frozenset({"hidden", "compressed_twin", "missing_part"})
"""Counted without a warning: left out by convention, or logged as `samples_dropped`."""

MOST_SUFFIXES: Final = 20  # counted separately per reason; numbers after a dot would be a suffix each
MOST_EXAMPLES: Final = 3
SHOWN_CHARACTERS: Final = 120  # of a path in a message; a key of S3 has up to 1,024
_WRAPPING = (".zst", ".gz", ".bz2", ".xz")

_log = get_logger(__name__)


def suffix_of(path: str) -> str:
    """Return the suffix of a path in lower case, such as `.parquet` or `.tar.gz`; empty if it has none."""
    name = path[path.rfind("/") + 1 :].lower()
    stem, dot, last = name.rpartition(".")
    if not (stem and last):
        return ""
    suffix = dot + last
    inner, dot, before = stem.rpartition(".")
    return f".{before}{suffix}" if suffix in _WRAPPING and dot and inner and before else suffix


class Skips:
    """Counts of objects left out, by reason and suffix. One thread adds at a time.

    Attributes:
        counts: `{reason: {suffix: objects}}`; beyond 20 suffixes per reason, the others are counted under `...`.
        examples: `{reason: the first few paths}`.
    """

    def __init__(self) -> None:
        self.counts: dict[str, dict[str, int]] = {}
        self.examples: dict[str, list[str]] = {}

    def add(self, reason: str, path: str) -> None:
        """Count one object that is left out for one of `REASONS`."""
        self._count(reason, suffix_of(path), 1)
        examples = self.examples.setdefault(reason, [])
        if len(examples) < MOST_EXAMPLES:
            examples.append(path)

    def update(self, other: Skips) -> None:
        """Add the counts of another one."""
        for reason, suffixes in other.counts.items():
            for suffix, count in suffixes.items():
                self._count(reason, suffix, count)
        for reason, paths in other.examples.items():
            examples = self.examples.setdefault(reason, [])
            examples += paths[: MOST_EXAMPLES - len(examples)]

    def below(self, folder: str) -> Skips:
        """Return the same with paths relative to `folder`, with which all of them begin."""
        skips = Skips()
        skips.counts = {reason: dict(suffixes) for reason, suffixes in self.counts.items()}
        skips.examples = {
            reason: [path.removeprefix(folder) for path in paths] for reason, paths in self.examples.items()
        }
        return skips

    def _count(self, reason: str, suffix: str, count: int) -> None:
        suffixes = self.counts.setdefault(reason, {})
        if suffix not in suffixes and len(suffixes) >= MOST_SUFFIXES:
            suffix = "..."
        suffixes[suffix] = suffixes.get(suffix, 0) + count

    def __bool__(self) -> bool:
        return bool(self.counts)

    def total(self, *, without: frozenset[str] = frozenset()) -> int:
        """Number of objects left out, not counting those for these reasons."""
        return sum(sum(suffixes.values()) for reason, suffixes in self.counts.items() if reason not in without)

    def describe(self, *, without: frozenset[str] = frozenset()) -> str:
        """Describe the objects in words, the most frequent reason first; empty if no other reason is left."""
        return "; ".join(map(self._describe_one, self.reasons(without=without)))

    def next_steps(self, *, without: frozenset[str] = frozenset()) -> str:
        """Say what to do, for the most frequent reason first."""
        known = (NEXT_STEPS[reason] for reason in self.reasons(without=without) if reason in NEXT_STEPS)
        return "; ".join(dict.fromkeys(known)) or "check what is stored there"

    def reasons(self, *, without: frozenset[str] = frozenset()) -> list[str]:
        """Every reason except these, the most frequent first."""
        reasons = [reason for reason in self.counts if reason not in without]
        return sorted(reasons, key=lambda reason: -sum(self.counts[reason].values()))

    def _describe_one(self, reason: str) -> str:
        by_count = sorted(self.counts[reason].items(), key=lambda each: -each[1])
        suffixes = ", ".join(f"{_printable(suffix) or 'no suffix'} {number}" for suffix, number in by_count)
        first = self.examples[reason][0]
        count = sum(self.counts[reason].values())
        return f"{count} {REASONS.get(reason, reason)} ({suffixes}; first {_shortened(first)!r})"

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for `from_json`."""
        return {"counts": self.counts, "examples": self.examples}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Skips:
        """Return what `to_json` was called on."""
        skips = cls()
        skips.counts, skips.examples = value["counts"], value["examples"]
        return skips


def warn_of(skips: Skips, names: str, *, without: frozenset[str] = frozenset()) -> None:
    """Log one warning about what was left out, if anything, not counting these reasons.

    Args:
        names: names of the sources.
    """
    if count := skips.total(without=without):
        _log.warning(
            "objects_skipped source=%s objects=%d why=%s next_step=%s",
            names,
            count,
            skips.describe(without=without),
            skips.next_steps(without=without),
        )


def _shortened(path: str) -> str:
    return path if len(path) <= SHOWN_CHARACTERS else f"{path[:SHOWN_CHARACTERS]}..."


def _printable(suffix: str) -> str:
    shown = _shortened(suffix)
    return shown if shown.isprintable() else repr(shown)[1:-1]
