"""Every constant of the wrappers, in one place, each with its source; a user need not touch any."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from streaming.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ResilienceConfig:
    """How reads survive a source that fails; the module `streaming.resilience` says where each default comes from.

    Attributes:
        deadline_s: the longest one read may take, over all attempts and copies.
        backoff_base_s: the first pause before another attempt is random between 0 and this; it doubles from there.
        backoff_max_s: the longest such pause.
        retry_after_max_s: the longest that `Retry-After` of a server is waited for.
        retry_ratio: attempts that each successful read earns.
        retry_burst: most attempts saved up, and those there are at the start.
        min_retries_per_s: attempts each second where nothing succeeds.
        listing_attempts: how often a listing is started.
        initial_concurrency: reads in flight at an endpoint at first; slower answers alone never bring it below this.
        max_concurrency: most reads in flight at an endpoint.
        latency_tolerance: how much slower than at best answers may become before fewer reads are in flight.
        throttled_s: how long after a 429 or 503 an endpoint counts as throttling.
        hedge_quantile: a read slower than this share of the last ones gets a second beside it.
        hedge_min_samples: reads to be observed first.
        hedge_min_s: no second read is started sooner.
        hedge_share: most second reads, as a share of reads.
        breaker_window: outcomes that the failure rate is taken over.
        breaker_failures: share of failures among them that opens the breaker.
        breaker_consecutive_failures: failures in a row that open it.
        cooldown_s: how long it is open the first time; doubled after each failed probe.
        cooldown_max_s: the longest it is open.
        replica_selection: `ordered` asks the copies as given; `least-loaded` the one with the shortest queue first.
        stall_timeout_factor: a copy is late after so many times its observed p99.
        stall_timeout_min_s: but not sooner than this.
        stall_timeout_max_s: and at the latest after this, when the next copy is asked too.
        stall_timeout_default_s: what counts before a copy has been observed.
        listing_stall_timeout_s: a listing that brings nothing for so long is started on the next copy.
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
        """Refuse what cannot be meant.

        Raises:
            ConfigError: for a number that is not above 0, a share above 1, bounds that cross, or an unknown order.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "replica_selection":
                if value not in ("ordered", "least-loaded"):
                    raise ConfigError(f"replica_selection={value!r} cannot be used: say 'ordered' or 'least-loaded'")
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
