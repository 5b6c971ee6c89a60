"""Bad samples, which cannot be read or decoded: each is replaced and recorded, up to a share of all samples."""

from __future__ import annotations

import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from streaming.cache.reservation import Reservation
from streaming.cache.sample import SmartLRUCache
from streaming.core.atomic_write import append
from streaming.core.logs import get_logger
from streaming.core.masking import mask_text
from streaming.core.miss import MISS
from streaming.engine.fetch import IN_CACHE
from streaming.errors import (
    BadRequest,
    DecodeError,
    ObjectChanged,
    ObjectNotFoundError,
    PrepareError,
    StreamingError,
    TooManyBadSamples,
    TruncatedRead,
)
from streaming.index import SampleIndex
from streaming.order.permutation import Permutation

__all__ = ["BAD", "BadSamples", "Replacing"]

logger = get_logger(__name__)

BAD: Final = (DecodeError, PrepareError, ObjectNotFoundError, ObjectChanged, TruncatedRead, BadRequest)
"""Errors of one sample, unlike those of a source that is down or refuses the login."""

SUBSTITUTES = 8
"""Candidates tried for one bad sample: if a tenth of all samples are bad, one in 10**8 finds none."""

_LEAST = 10  # bad samples below which their share is not checked


class BadSamples:
    """Finds a substitute for each bad sample, the same on every rank and in every run.

    The k-th candidate for sample i is entry i of a permutation of all samples, keyed by seed and k. So substitutes are
    spread evenly, and the choice depends only on which samples are bad.

    Args:
        n: samples in the data set.
        seed: of the order.
        quarantine: file to which a line of JSON is appended for each bad sample; None for none.
        max_share: largest share of bad samples among those loaded; above it, and after ten, the run stops.

    """

    def __init__(self, n: int, seed: int, quarantine: Path | None, max_share: float) -> None:
        self._n = n
        self._seed = seed
        self._quarantine = quarantine
        self._max_share = max_share
        self._known: set[int] = set()
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Number of bad samples, each counted once."""
        return len(self._known)

    def candidates(self, position: int) -> list[int]:
        """Return the samples to try instead of a bad one, in this order: without itself and without duplicates."""
        found = [Permutation(self._n, self._seed, -1 - number)(position) for number in range(SUBSTITUTES)]
        return [sample for sample in dict.fromkeys(found) if sample != position]

    def note(self, position: int, name: str, error: StreamingError, loaded: int) -> None:
        """Count and record a bad sample, once.

        Args:
            loaded: number of good samples loaded so far.

        Raises:
            TooManyBadSamples: the share of bad samples is above the limit; `error` is the cause.
        """
        with self._lock:
            if position in self._known:
                return
            self._known.add(position)
            count = len(self._known)
        logger.warning("bad_sample position=%d name=%s error=%s", position, name, error)
        if self._quarantine is not None:
            self._write(position, name, error)
        share = count / (loaded + count)
        if count > _LEAST and share > self._max_share:
            raise TooManyBadSamples(
                f"{count} of {loaded + count} samples are bad, a share of {share:.3f} where max_bad_share allows "
                f"{self._max_share}; the last was sample {position} ({name!r}): {error}; "
                f"{self._where()} or raise max_bad_share",
                path=error.path,
                source=error.source,
            ) from error

    def _where(self) -> str:
        return "set quarantine_path to see them all" if self._quarantine is None else f"see {self._quarantine}"

    def _write(self, position: int, name: str, error: StreamingError) -> None:
        line: dict[str, Any] = {
            "position": position,
            "name": name,
            "source": error.source,
            "path": error.path,
            "error": type(error).__name__,
            "reason": mask_text(str(error)),
        }
        assert self._quarantine is not None
        try:
            append(self._quarantine, f"{json.dumps(line)}\n".encode())
        except OSError as exc:
            logger.warning("quarantine_failed path=%s error=%s", self._quarantine, exc)
            self._quarantine = None


class Replacing:
    """Loads samples, and caches a substitute in place of each bad one.

    Args:
        load: loads one sample into the cache, by position, in the room that was reserved for it.
        bad: chooses the substitutes and counts.
        index: names the samples.
        cache: holds the samples.
        loaded: returns the number of samples loaded so far.
    """

    def __init__(
        self,
        load: Callable[[int, Reservation | None], Awaitable[Any]],
        bad: BadSamples,
        index: SampleIndex,
        cache: SmartLRUCache,
        loaded: Callable[[], int],
    ) -> None:
        self._load = load
        self._bad = bad
        self._index = index
        self._cache = cache
        self._loaded = loaded

    async def load(self, position: int, reservation: Reservation | None) -> Any:
        """Return one sample or its substitute, owned by the caller, or `IN_CACHE`.

        Raises:
            TooManyBadSamples: see `BadSamples.note`.
            StreamingError: the sample and all candidates are bad, or the source is down.
        """
        try:
            return await self._load(position, reservation)
        except BAD as error:
            self._bad.note(position, self._index.name(position), error, self._loaded())
            first = error
        for candidate in self._bad.candidates(position):
            try:
                sample = await self._sample(candidate)
            except BAD as error:
                self._bad.note(candidate, self._index.name(candidate), error, self._loaded())
            else:
                self._cache.put_nowait(position, sample, reservation=reservation)
                return sample
        raise first

    async def _sample(self, candidate: int) -> Any:
        while True:
            sample = self._cache.get_nowait(candidate, MISS)
            if sample is MISS:
                sample = await self._load(candidate, None)
            if sample is not IN_CACHE:
                return sample
