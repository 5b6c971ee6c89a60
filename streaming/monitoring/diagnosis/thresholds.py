"""Where a figure becomes a finding. The alerts of `deploy/alerts.yml` fire at the same values, held on."""

from __future__ import annotations

from typing import Final

WAITING_SHARE: Final = 0.05
"""Of a step: waiting longer than this for one stage is worth a change."""

HIT_RATIO_SHARE: Final = 0.7
"""Of the predicted hit ratio: an observed one below is low."""

SMALL_CACHE_RATIO: Final = 0.5
"""Predicted hits per read below which a cache is small, if the trainer waits for the source."""

LEAST_PREDICTED: Final = 0.05
"""Predicted hits per read below which nobody misses them."""

EXPIRED_OF_FETCHED: Final = 0.1
EXPIRED_OF_READS: Final = 0.05
"""Entries that left by their age: above both, the age is too short, and it costs something."""

STARVED_SHARE: Final = 0.1
"""Of the samples that were fetched: below, hardly any was read ahead."""

ERROR_SHARE: Final = 0.05
"""Of the requests to a copy that were not cancelled."""

MEMORY_SHARE: Final = 0.9
"""Of the memory that the process may use."""

BAD_SHARE: Final = 0.001
"""Of the samples that were loaded: how many may be replaced; a tenth of what ends a run (`max_bad_share`)."""

SLOW_RANK_FACTOR: Final = 2.0
"""A rank is slow that waits longer than this many times what the others do, and longer than `WAITING_SHARE`."""

LOOP_LAG_S: Final = 0.02
"""Four switch intervals of the interpreter (5 ms each): a loop this late shares its lock with Python that holds it.
Measured: with two busy processes beside it on two cores 4 ms, with a trainer that counts in a Python loop 47 ms, with
one that sorts lists 233 ms."""

AT_BOUND: Final = 0.9
"""Of a limit: in use to this share, it is what bounds."""
