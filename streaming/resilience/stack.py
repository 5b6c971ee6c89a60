"""All wrappers around the copies of the same objects, in their order."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence

from streaming.errors import ConfigError
from streaming.resilience.breaker import Breaker
from streaming.resilience.concurrency_limit import ConcurrencyLimit
from streaming.resilience.failover import Failover
from streaming.resilience.hedge import Hedge
from streaming.resilience.retry import Retry
from streaming.resilience.settings import DEFAULTS, ResilienceConfig
from streaming.resilience.timing import Clock, Sleep
from streaming.resilience.verify import Verify
from streaming.resilience.wrapper import Expected
from streaming.sources.base import DataSource


def stack(
    sources: Sequence[DataSource],
    settings: ResilienceConfig = DEFAULTS,
    *,
    expected: Sequence[Callable[[str], Expected | None] | None] = (),
    clock: Clock = time.monotonic,
    sleep: Sleep = asyncio.sleep,
    rng: random.Random | None = None,
) -> DataSource:
    """One source out of copies of the same objects, which survives what a copy can do to it.

    `Retry(Hedge(Failover([Verify(Breaker(ConcurrencyLimit(copy))), ...])))`; a single copy needs no
    `Failover`. Named and
    configured as the first copy; closes all of them.

    Args:
        sources: the copies, in the order in which they are asked.
        expected: for each copy what is always known of its objects, see `Verify`; empty for none.

    Raises:
        ConfigError: if there is no source, or another number of `expected`.
    """
    if not sources:
        raise ConfigError("no copies: give at least one source")
    if expected and len(expected) != len(sources):
        raise ConfigError(f"expected is of {len(expected)} copies and there are {len(sources)}: give one for each")
    known = expected or [None] * len(sources)
    common = settings, clock, sleep, rng
    copies = [
        Verify(Breaker(ConcurrencyLimit(source, *common), *common), *common, expected=of_copy)
        for source, of_copy in zip(sources, known, strict=True)
    ]
    reading = copies[0] if len(copies) == 1 else Failover(copies, *common)
    return Retry(Hedge(reading, *common), *common)
