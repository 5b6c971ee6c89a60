"""Thresholds above which a figure becomes a finding. The alerts of `deploy/alerts.yml` use the same values."""

from __future__ import annotations

from typing import Final

WAITING_SHARE: Final = 0.05
"""Share of a step: waiting longer than this for one stage is worth a change."""

HIT_RATIO_SHARE: Final = 0.7
"""Share of the predicted hit ratio below which the observed one is low."""

SMALL_CACHE_RATIO: Final = 0.5
"""Predicted hits per read below which a cache is small, if the trainer waits for the source."""

LEAST_PREDICTED: Final = 0.05
"""Predicted hits per read below which a missing hit does not matter."""

EXPIRED_OF_FETCHED: Final = 0.1
EXPIRED_OF_READS: Final = 0.05
"""Shares of expired samples: above both, the maximum age is too short, and it costs something."""

STARVED_SHARE: Final = 0.1
"""Share of the fetched samples below which hardly any was read ahead."""

ERROR_SHARE: Final = 0.05
"""Share of failed requests to a replica, not counting cancelled ones."""

MEMORY_SHARE: Final = 0.9
"""Share of the memory limit of the process."""

BAD_SHARE: Final = 0.001
"""Share of loaded samples that may be replaced: a tenth of what ends a run (`max_bad_share`)."""

SLOW_RANK_FACTOR: Final = 2.0
"""A rank is slow if it waits this many times as long as the others, and longer than `WAITING_SHARE`."""

LOOP_LAG_S: Final = 0.02
"""Four switch intervals of the interpreter (5 ms each): a loop this late shares its lock with Python that holds it.
Measured on two cores: next to two busy processes 4 ms, with a trainer that counts in a Python loop 47 ms, with one that
sorts lists 233 ms."""

AT_BOUND: Final = 0.9
"""Share of a limit in use above which it is the bottleneck."""
