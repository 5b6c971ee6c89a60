"""Wrappers that let reads survive a failing source; `stack` builds all of them around the replicas of a source.

::

    Retry                 tries again: full jitter, Retry-After, a budget, a deadline over everything
    └── Hedge             a second read for one that is late
        └── Failover      the next replica where one cannot serve or does not answer
            └── Guard     one for each replica: its circuit breaker, the concurrency limit of its host, and a check of
                          size, ETag and checksum

`ResilienceConfig` holds every constant. The defaults and where they come from:

- `deadline_s` 60: longer than an outage that restarts a server takes, shorter than a trainer's watchdog (NCCL: 600).
- `retry_after_max_s` 60: equal to `deadline_s`; most servers ask for less.
- `backoff_base_s` 0.1, `backoff_max_s` 5: full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015);
  the cap keeps the pause after an outage below 5 s.
- `retry_ratio` 0.2, `min_retries_per_s` 10: Finagle's RetryBudget; `retry_burst` 10: what the minimum is for a second.
- `listing_attempts` 5: with the pauses above, 1.5 s on average.
- `initial_concurrency` 32: hides 30 ms at 1,000 reads a second; `max_concurrency` 1024: twice the most that ever paid.
- `latency_tolerance` 1.5: Gradient2Limit's. In the simulation of tests/resilience/test_concurrency_limit.py (30 ms, 500
  to 20,000 reads a second, even and exponential jitter) it reaches 0.98 of the best fixed concurrency of 8 to 512 or
  more, where 1.2 reached 0.60 and 1.0 (Vegas) 0.22 under exponential jitter.
- `throttled_s` 5: a few rounds of back-off.
- `hedge_quantile` 0.98, `hedge_share` 0.05: "The Tail at Scale" (Dean and Barroso, 2013) spends 5 % after p95; p98
  needs 2 %, which leaves room. `hedge_min_samples` 50: the first for which a p98 is not the maximum.
  `hedge_min_s` 0.005: below, the delays of the event loop itself are hedged.
- `breaker_window` 20, `breaker_failures` 0.5, `breaker_consecutive_failures` 5: as resilience4j's 50 %, over a shorter
  window; five in a row detect a dead replica before the window is full.
- `cooldown_s` 1, `cooldown_max_s` 30: gRPC's connection back-off begins at 1 s; a replica that is back is used within
  30 s.
- `stall_timeout_factor` 4, `stall_timeout_min_s` 1, `stall_timeout_max_s` 5, `stall_timeout_default_s` 2: a replica
  that does not answer delays a read by 5 s at most, and a healthy one is never that far beyond its p99.
- `listing_stall_timeout_s` 10: ten times a slow page of 1,000 names.
"""

from streaming.resilience.breaker import CircuitBreaker, State, is_failure
from streaming.resilience.concurrency_limit import ConcurrencyLimit
from streaming.resilience.context import Context
from streaming.resilience.failover import Failover
from streaming.resilience.guard import Guard
from streaming.resilience.hedge import Hedge
from streaming.resilience.history import Attempt, attempts_of
from streaming.resilience.request_outcome import is_throttle, request_outcome
from streaming.resilience.retry import Retry
from streaming.resilience.retry_budget import RetryBudget
from streaming.resilience.settings import ResilienceConfig
from streaming.resilience.stack import stack
from streaming.resilience.wrapper import Wrapper

__all__ = [
    "Attempt",
    "CircuitBreaker",
    "ConcurrencyLimit",
    "Context",
    "Failover",
    "Guard",
    "Hedge",
    "ResilienceConfig",
    "Retry",
    "RetryBudget",
    "State",
    "Wrapper",
    "attempts_of",
    "is_failure",
    "is_throttle",
    "request_outcome",
    "stack",
]
