"""PromQL made from the list of metric families, so that no panel can ask for a name or label that does not exist.

Every selector holds the variables of the dashboards: `$job` always, `$rank` always, `$dataset` and `$source` where the
family has these labels. A rate goes over `$__rate_interval`, which Grafana sets to at least four scrapes.
"""

from __future__ import annotations

from typing import Final

from streaming.monitoring.metrics.families import FAMILIES

__all__ = [
    "ALERTS",
    "STEP",
    "WAIT",
    "WINDOW",
    "breaker_state",
    "by",
    "else_zero",
    "errors",
    "increase",
    "quantile",
    "rate",
    "selector",
    "share_by",
    "total",
]

WINDOW: Final = "[$__rate_interval]"
NO_ERROR: Final = "ok|cancelled"
"""Outcomes that do not count as errors of a source: a request is also cancelled when a second one was faster."""

_BY_KEY = {family.key: family for family in FAMILIES}

ALERTS: Final = 'alertname=~"Streaming.*",job=~"$job|"'
"""Matchers for the alerts of this job, and for those without a job, whose `job` is the empty string."""


def selector(key: str, part: str = "", **fixed: str) -> str:
    """Select the series of a family that the variables choose.

    Args:
        key: of the family.
        part: "_bucket", "_sum" or "_count" of a histogram.
        fixed: labels with the regular expression that they must match; one that starts with "!" must not match.

    Raises:
        KeyError: no such family.
        ValueError: no such label.
    """
    family = _BY_KEY[key]
    if unknown := set(fixed) - set(family.labels):
        raise ValueError(f"{key} has no label {sorted(unknown)}, but {family.labels}")
    variables = ["job", *(name for name in ("dataset", "source") if name in family.labels), "rank"]
    matchers = [f'{name}=~"${name}"' for name in variables]
    matchers += [f'{name}{"!~" if value[0] == "!" else "=~"}"{value.lstrip("!")}"' for name, value in fixed.items()]
    return f"{family.name}{part}{{{','.join(matchers)}}}"


def by(aggregation: str, labels: str, inner: str) -> str:
    """Aggregate by the labels, which are separated by commas; over everything if the text is empty."""
    return f"{aggregation} by ({labels}) ({inner})" if labels else f"{aggregation}({inner})"


def rate(key: str, labels: str = "", **fixed: str) -> str:
    """Increase of a counter per second, summed by the labels."""
    return by("sum", labels, f"rate({selector(key, **fixed)}{WINDOW})")


def increase(key: str, labels: str = "", **fixed: str) -> str:
    """Increase of a counter over the time range of the dashboard, summed by the labels."""
    return by("sum", labels, f"increase({selector(key, **fixed)}[$__range])")


def total(key: str, labels: str = "", aggregation: str = "sum", **fixed: str) -> str:
    """Value of a gauge, aggregated by the labels."""
    return by(aggregation, labels, selector(key, **fixed))


def quantile(q: float, labels: str = "") -> str:
    """A quantile of the seconds that answered requests took."""
    inner = f"rate({selector('source_request_duration_seconds', '_bucket')}{WINDOW})"
    return f"histogram_quantile({q}, {by('sum', f'le, {labels}' if labels else 'le', inner)})"


def errors(labels: str = "") -> str:
    """Requests per second that a source failed."""
    return rate("source_requests", labels, outcome=f"!{NO_ERROR}")


def breaker_state(labels: str) -> str:
    """0 closed, 1 half-open, 2 open: the worst of all ranks; 0 for a source without a breaker."""
    worst = " or ".join(
        f"{number} * max by ({labels}) ({selector('source_breaker_state', state=state)}) > 0"
        for number, state in ((2, "open"), (1, "half-open"))
    )
    return f"{worst} or 0 * max by ({labels}) ({selector('source_in_flight')})"


def else_zero(expression: str) -> str:
    """The expression, or a single 0 where it has no series because nothing of the kind ever happened."""
    return f"({expression}) or on() vector(0)"


def share_by(labels: str) -> str:
    """Share of its time that the trainer waited, 0 to 1, by the labels."""
    wait, busy = rate("trainer_wait_seconds", labels), rate("trainer_busy_seconds", labels)
    return f"{wait} / ({wait} + {busy})"


STEP: Final = f"scalar({rate('trainer_wait_seconds')} + {rate('trainer_busy_seconds')})"
"""Total time of the trainer, in seconds per second and rank."""

WAIT: Final = share_by("")
"""Share of that time that the trainer waits."""
