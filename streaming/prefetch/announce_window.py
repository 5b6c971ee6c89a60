"""How far ahead of a sampler its samples are announced: a little until most of them prove to be read, then far."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from streaming.core.logs import get_logger

__all__ = ["HORIZON", "AnnounceWindow"]

logger = get_logger(__name__)

HORIZON = 8192
"""Most samples announced and not yet drawn: twice the deepest read-ahead."""

FIRST = 64
"""Samples announced ahead at first. Doubles with each batch that is read as it was drawn: seven make the horizon."""

_FEWEST = 32  # samples drawn before a verdict
_BATCHES = 4  # batches read before a verdict
_OUTSTANDING = 4  # a verdict needs this many times what was drawn and not read when the first batch had been read
_FILTERED = 0.75  # if less of what is drawn is read, it is filtered: each of two ranks reads half
_WHOLE = 0.9  # if this much is read, all of it is


class _Moment(NamedTuple):
    drawn: int
    read: int


class AnnounceWindow:
    """Compares what is drawn from a sampler with what is read.

    A loader may read only a part of what it draws: those of Accelerate and other frameworks divide the batches of every
    rank's sampler among the ranks. Reading ahead would then fetch what other ranks read. If this is detected, `size` is
    0 from then on, and one warning is logged.

    Args:
        reads: returns the number of samples read so far; None if all that is drawn is known to be read.

    Attributes:
        size: most samples that may be announced and not drawn yet.
    """

    def __init__(self, reads: Callable[[], int] | None) -> None:
        self.size = HORIZON if reads is None else FIRST
        self._reads = reads
        self.begin()

    def begin(self) -> None:
        """Begin a pass over the sampler. What was drawn before and never read is ignored."""
        self._drawn = 0
        self._announced = 0
        self._batches = 0
        self._begin = _Moment(0, 0 if self._reads is None else self._reads())
        self._first: _Moment | None = None
        self._last = self._begin

    @property
    def is_settled(self) -> bool:
        """Whether `size` is final."""
        return self._reads is None

    def admit(self, count: int) -> bool:
        """Return whether the next `count` samples are announced: at first only close to what was read."""
        if self._reads is None:
            return self.size > 0
        if self._announced + count > self.size + self._reads() - self._begin.read:
            return False
        self._announced += count
        return True

    def drawn(self, count: int) -> bool:
        """Count samples that the loader drew, and return whether it is clear now that it does not read them all."""
        if self._reads is None:
            return False
        self._drawn += count
        now = _Moment(self._drawn, self._reads())
        if now.read < self._last.read:  # the counts were reset
            self.begin()
        elif now.read > self._last.read:
            self._last = now
            self._first = self._first or now
            self._batches += 1
            return self._judge(self._first, now)
        return False

    def _judge(self, first: _Moment, now: _Moment) -> bool:
        drawn, read = now.drawn - first.drawn, now.read - first.read
        outstanding = first.drawn - (first.read - self._begin.read)
        if drawn and read >= _FILTERED * drawn:
            self.size = min(2 * self.size, HORIZON)
        if self._batches < _BATCHES or drawn < max(_FEWEST, _OUTSTANDING * outstanding):
            return False
        if read >= _WHOLE * drawn:
            self._reads, self.size = None, HORIZON
        elif read < _FILTERED * drawn:
            self._reads, self.size = None, 0
            logger.warning(
                "look_ahead_stopped drawn=%d read=%d next_step=%s",
                drawn,
                read,
                "a layer between the sampler and the data set drops samples, such as a loader that divides batches "
                "among ranks: wrap the sampler behind it, or use StreamingDataLoader, which divides batches itself",
            )
            return True
        return False
