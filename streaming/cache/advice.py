"""Warnings about cache settings that cannot work, each logged once with the setting to change."""

from __future__ import annotations

import math

from streaming.core.logs import get_logger

__all__ = ["FEW_SAMPLES", "Advice"]

FEW_SAMPLES = 8  # a cache has to hold this many, so that some can be read ahead while others are used

logger = get_logger(__name__)


class Advice:
    """Compares the settings of one cache with the samples and epochs that it serves.

    Args:
        max_bytes: budget of the cache.
        ttl_s: age at which its entries expire; None for never.
    """

    def __init__(self, max_bytes: int, ttl_s: float | None) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = math.inf if ttl_s is None else ttl_s
        self._is_small = False

    def on_read_ahead(self, nbytes: int) -> None:
        """Warn if samples of this size, which are about to be read ahead, are too large for the cache."""
        if nbytes * FEW_SAMPLES > self._max_bytes and not self._is_small:
            self._is_small = True
            logger.warning(
                "cache_too_small max_bytes=%d sample_bytes=%d next_step=%s",
                self._max_bytes,
                nbytes,
                "there is hardly room to read ahead and none to keep samples: set cache_size_gb to "
                f"{FEW_SAMPLES * nbytes / 1e9:.3g} at least, for each rank of a node",
            )

    def on_epoch(self, epoch_s: float | None) -> None:
        """Warn if entries expire sooner than the last epoch took; None before the first epoch has ended."""
        if epoch_s is not None and epoch_s > self._ttl_s:
            logger.warning(
                "cache_ttl_too_short max_ttl_seconds=%g epoch_seconds=%.3g next_step=%s",
                self._ttl_s,
                epoch_s,
                "samples expire before the next epoch reads them: set max_ttl_seconds=None, as a changed object is "
                "noticed without it",
            )
            self._ttl_s = math.inf
