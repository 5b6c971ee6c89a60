"""Counts of the reads of each sample, for random transforms under loaders that the library does not know."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

__all__ = ["ReadCounts"]


class ReadCounts:
    """Counts the reads of each sample, over all threads and workers.

    Takes 4 bytes per sample from the first count on; a count wraps after 2^32 reads.

    Args:
        samples: number of samples in the data set.
    """

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._counts: np.ndarray[tuple[int], np.dtype[np.uint32]] | None = None
        self._lock = threading.Lock()

    def count(self, positions: Sequence[int]) -> list[int]:
        """Count one read of each sample and return the counts before it."""
        with self._lock:
            if self._counts is None:
                self._counts = np.zeros(self._samples, np.uint32)  # untouched memory costs nothing
            counts = self._counts
            before = []
            for position in positions:  # one by one: a sample may be in the batch twice
                before.append(int(counts[position]))
                counts[position] += 1
            return before
