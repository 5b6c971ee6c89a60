"""Changes between a saved index and a new one over the same sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streaming.index.sample_index import SampleIndex

__all__ = ["Changes", "compare"]


@dataclass(frozen=True)
class Changes:
    """The differences between a new index and an old one; true if there are any.

    Attributes:
        added: names of new samples, in order.
        removed: names of removed samples.
        changed: names of samples with a part that is another object, or has another size, ETag or time.
        index: the new index.
    """

    added: list[str]
    removed: list[str]
    changed: list[str]
    index: SampleIndex

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


def compare(old: SampleIndex, new: SampleIndex) -> Changes:
    """Compare two indexes over the same sources. Both are sorted, so they are merged in one pass."""
    changes = Changes([], [], [], new)
    if old.fingerprint == new.fingerprint:
        return changes
    i = j = 0
    while i < len(old) or j < len(new):
        old_key = old.sort_key(i) if i < len(old) else None
        new_key = new.sort_key(j) if j < len(new) else None
        if new_key is None or (old_key is not None and old_key < new_key):
            changes.removed.append(old.name(i))
            i += 1
        elif old_key is None or new_key < old_key:
            changes.added.append(new.name(j))
            j += 1
        else:
            if old.rows(i) != new.rows(j):
                changes.changed.append(old.name(i))
            i, j = i + 1, j + 1
    return changes
