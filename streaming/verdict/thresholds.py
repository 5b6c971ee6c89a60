"""Where a figure becomes a finding. The alerts of `deploy/alerts.yml` fire at the same values, held for a while."""

from __future__ import annotations

from typing import Final

WAITING_SHARE: Final = 0.05
"""Of a step: waiting longer than this for one stage is worth a change."""

HIT_RATIO_SHARE: Final = 0.7
"""Of the predicted hit ratio: an observed one below is low."""

SMALL_CACHE_RATIO: Final = 0.5
"""Predicted hits per read below which a cache is small, if the trainer waits for the source."""

EXPIRED_SHARE: Final = 0.1
"""Of the misses: more entries that left by their age than this mean that the age is too short."""

ERROR_SHARE: Final = 0.05
"""Of the requests to a copy that were not cancelled."""

MEMORY_SHARE: Final = 0.9
"""Of the memory that the process may use."""

BAD_SHARE: Final = 0.001
"""Of the samples: how many may be replaced; a tenth of what ends a run (`max_bad_share`)."""

SLOW_RANK_FACTOR: Final = 2.0
"""A rank that waits this many times what the others wait in the median, and more than `WAITING_SHARE`, is slow."""

LOOP_LAG_S: Final = 0.02
"""Four switch intervals of the interpreter (5 ms each): a loop this late shares its lock with Python that holds it."""

AT_BOUND: Final = 0.9
"""Of a limit: in use to this share, it is what bounds."""
