"""All constants of the wrappers; the defaults fit without tuning."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from streaming.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ResilienceConfig:
    """Constants for reads that survive a failing source; `streaming.resilience` says where the defaults come from.

    Attributes:
        deadline_s: the longest that one read may take, over all attempts and replicas.
        backoff_base_s: upper bound of the first random pause between two attempts; it doubles from there.
        backoff_max_s: the highest such bound.
        retry_after_max_s: the longest pause that a server may ask for by `Retry-After`.
        retry_ratio: attempts that each successful read earns.
        retry_burst: attempts that may be saved up; also their number at the start.
        min_retries_per_s: attempts per second while nothing succeeds.
        listing_attempts: how often a listing is started.
        initial_concurrency: reads in flight at an endpoint at first; slow answers alone never reduce it below this.
        max_concurrency: upper bound of the reads in flight at an endpoint.
        latency_tolerance: how much slower than their best answers may become before the limit shrinks.
        throttled_s: seconds after a 429 or 503 during which an endpoint counts as throttling.
        hedge_quantile: a read slower than this share of the last ones is hedged with a second read.
        hedge_min_samples: reads to observe before the first hedge.
        hedge_min_s: the earliest moment of a hedge.
        hedge_share: upper bound of the hedges, as a share of the reads.
        breaker_window: reads over which the failure rate is taken.
        breaker_failures: share of failures among them that opens the circuit breaker.
        breaker_consecutive_failures: failures in a row that open it.
        cooldown_s: how long it is open the first time; doubled after each failed probe.
        cooldown_max_s: the longest that it is open.
        replica_selection: `ordered` prefers replicas in their order; `least-loaded` the one with the shortest queue.
        stall_timeout_factor: a read is late after this many times the p99 of its replica.
        stall_timeout_min_s: lower bound of that time.
        stall_timeout_max_s: upper bound of that time, after which the next replica is read too.
        stall_timeout_default_s: that time before a replica has been observed.
        listing_stall_timeout_s: a listing that brings nothing for this long is started on the next replica.
    """

    deadline_s: float = 60.0
    backoff_base_s: float = 0.1
    backoff_max_s: float = 5.0
    retry_after_max_s: float = 60.0
    retry_ratio: float = 0.2
    retry_burst: float = 10.0
    min_retries_per_s: float = 10.0
    listing_attempts: int = 5
    initial_concurrency: int = 32
    max_concurrency: int = 1024
    latency_tolerance: float = 1.5
    throttled_s: float = 5.0
    hedge_quantile: float = 0.98
    hedge_min_samples: int = 50
    hedge_min_s: float = 0.005
    hedge_share: float = 0.05
    breaker_window: int = 20
    breaker_failures: float = 0.5
    breaker_consecutive_failures: int = 5
    cooldown_s: float = 1.0
    cooldown_max_s: float = 30.0
    replica_selection: Literal["ordered", "least-loaded"] = "ordered"
    stall_timeout_factor: float = 4.0
    stall_timeout_min_s: float = 1.0
    stall_timeout_max_s: float = 5.0
    stall_timeout_default_s: float = 2.0
    listing_stall_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: for a number that is not above 0, a share above 1, bounds that cross, or an unknown order.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "replica_selection":
                if value not in ("ordered", "least-loaded"):
                    raise ConfigError(f"replica_selection={value!r} cannot be used: give 'ordered' or 'least-loaded'")
            elif not (isinstance(value, int | float) and 0 < value < float("inf")):
                raise ConfigError(f"{field.name}={value!r} cannot be used: give a number above 0")
        for name in ("hedge_quantile", "hedge_share", "breaker_failures", "retry_ratio"):
            if getattr(self, name) > 1:
                raise ConfigError(f"{name}={getattr(self, name)!r} cannot be used: a share is at most 1")
        for least, most in _BOUNDS:
            if getattr(self, least) > getattr(self, most):
                raise ConfigError(f"{least}={getattr(self, least)} is more than {most}={getattr(self, most)}")


_BOUNDS = (
    ("backoff_base_s", "backoff_max_s"),
    ("initial_concurrency", "max_concurrency"),
    ("cooldown_s", "cooldown_max_s"),
    ("stall_timeout_min_s", "stall_timeout_max_s"),
)
DEFAULTS = ResilienceConfig()
