"""One scrape of the metrics: the text exposition as readings by rank."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from prometheus_client.parser import text_string_to_metric_families

from streaming.errors import DecodeError
from streaming.monitoring.metrics.families import FAMILIES, PREFIX

__all__ = ["LABELS", "MetricsSnapshot", "Scrape", "merge", "parse"]

MetricsSnapshot: TypeAlias = Mapping[str, Mapping[tuple[str, ...], float]]
"""`{key: {values of the labels without rank: number}}`. A histogram is three keys: its own with `_bucket` (whose last
label is `le`, cumulative as exposed), `_sum` and `_count`."""


def _series() -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    keys, labels = {}, {}
    for family in FAMILIES:
        parts = {"_bucket": ("le",), "_sum": (), "_count": ()} if family.kind == "histogram" else {"": ()}
        for suffix, more in parts.items():
            keys[family.name + suffix] = family.key + suffix
            labels[family.key + suffix] = (*family.labels, *more)
    return keys, labels


_KEYS, LABELS = _series()
"""Key of each exposed name, and names of the labels, without rank, of each key."""

_UNRANKED: Final = "0"


@dataclass(frozen=True)
class Scrape:
    """The numbers of one moment.

    Attributes:
        taken_at: time of the scrape in seconds since 1970.
        ranks: `{rank: reading}`; empty if there was no metric of this library.
    """

    taken_at: float
    ranks: Mapping[str, MetricsSnapshot] = field(default_factory=dict)


def parse(text: str, taken_at: float | None = None) -> Scrape:
    """Return the metrics of this library in a text exposition, without values that are not finite numbers.

    Args:
        text: answer of a metrics server.
        taken_at: time of the answer in seconds since 1970; None is now.

    Raises:
        DecodeError: it is not a text exposition.
    """
    ranks: dict[str, dict[str, dict[tuple[str, ...], float]]] = {}
    try:
        for family in text_string_to_metric_families(text):
            if not family.name.startswith(PREFIX):
                continue
            for sample in family.samples:
                key = _KEYS.get(sample.name)
                if key is not None and math.isfinite(sample.value):
                    values = tuple(sample.labels.get(label, "") for label in LABELS[key])
                    reading = ranks.setdefault(sample.labels.get("rank", _UNRANKED), {})
                    reading.setdefault(key, {})[values] = float(sample.value)
    except (ValueError, KeyError, IndexError) as exc:
        raise DecodeError(
            f"not a Prometheus text exposition ({' '.join(str(exc).split())[:80]}): give the URL of a metrics server, "
            "such as http://127.0.0.1:8000/metrics"
        ) from exc
    return Scrape(time.time() if taken_at is None else taken_at, ranks)


def merge(scrapes: Iterable[tuple[str, Scrape]]) -> Scrape:
    """Merge the scrapes of several processes, each given with a name, into one.

    A rank that occurs in more than one of them (separate runs, or runs without RANK) becomes `rank@name`.
    """
    named = list(scrapes)
    held = [rank for _, scrape in named for rank in scrape.ranks]
    ranks = {
        f"{rank}@{name}" if held.count(rank) > 1 else rank: reading
        for name, scrape in named
        for rank, reading in scrape.ranks.items()
    }
    return Scrape(max((scrape.taken_at for _, scrape in named), default=0.0), ranks)
