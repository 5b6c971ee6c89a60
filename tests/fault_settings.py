"""Eight faults of a training run: how each is planted, and the alert and finding that must name it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

__all__ = ["BATCH", "FAULTS", "HEALTHY", "Fault", "Setting"]

BATCH: Final = 4


@dataclass(frozen=True)
class Setting:
    """Settings of a run. The first group may change while it runs, the second needs another adapter.

    Attributes:
        step_s: seconds of the trainer's own work for each batch.
        line_s: seconds that the line takes for each object; on every rank, or on `line_rank` alone.
        collate_s, decode_s: seconds for each batch, and for each sample.
        is_primary_up: whether the primary answers.
        has_mirror: whether there is a mirror.
        samples: number of samples of the data set.
        cache_share: share of them that the cache has room for.
        ttl_s: `max_ttl_seconds`.
        ahead: `prefetch_ahead`.
        suffix: of the objects; the codec of `.slow` takes `decode_s`.
    """

    step_s: float = 0.06
    line_s: float = 0.004
    line_rank: int | None = None
    collate_s: float = 0.0
    decode_s: float = 0.0
    is_primary_up: bool = True

    has_mirror: bool = False
    samples: int = 4000
    cache_share: float = 1.5
    ttl_s: float | None = None
    ahead: int | None = None
    suffix: str = ".npy"

    def needs_another_adapter(self, other: Setting) -> bool:
        """Whether the two differ in a setting of the adapter."""
        made_of = ("has_mirror", "samples", "cache_share", "ttl_s", "ahead", "suffix")
        return any(getattr(self, name) != getattr(other, name) for name in made_of)


HEALTHY: Final = Setting()


@dataclass(frozen=True)
class Fault:
    """A fault that is planted, and the alert and finding that must name it.

    Attributes:
        name: of the run.
        alert: name of the alert that must fire; empty: no serious one may fire.
        code: code of the first finding of the verdict.
        setting, repaired: the run with the fault and without.
        labels: labels of the alert.
        ranks: number of processes of the run.
        stage: stage to which its waits are attributed.
        resource: the serial resource that bounds the run: "line", "decode" or "collate"; empty if waits do not measure
            it.
    """

    name: str
    alert: str
    code: str
    setting: Setting
    repaired: Setting
    labels: Mapping[str, str] = field(default_factory=dict)
    ranks: int = 1
    stage: str = ""
    resource: str = ""

    @property
    def first_pass(self) -> int:
        """Number of steps of the first pass over the data, if the fault shows only after it."""
        return self.setting.samples // BATCH if self.setting.samples < HEALTHY.samples else 0


def _fault(
    name: str, alert: str, code: str, *, ranks: int = 1, stage: str = "", resource: str = "", **given: Any
) -> Fault:
    labels, repair = given.pop("labels", {}), given.pop("repair", {})
    setting = replace(HEALTHY, **given)
    return Fault(name, alert, code, setting, replace(setting, **repair), labels, ranks, stage, resource)


_SMALL: Final[dict[str, Any]] = {"samples": 80, "line_s": 0.03}
"""A small data set, so that several passes are over soon, on a line that fetches it in 2.4 s."""

FAULTS: Final = {
    fault.name: fault
    for fault in (
        _fault("healthy", "", "TrainerBound"),
        _fault(
            "slow-source",
            "StreamingTrainerWaiting",
            "TrainerWaiting/source",
            labels={"stage": "source"},
            line_s=0.03,
            repair={"line_s": HEALTHY.line_s},
            stage="source",
            resource="line",
        ),
        _fault(
            "slow-codec",
            "StreamingTrainerWaiting",
            "TrainerWaiting/decode",
            labels={"stage": "decode"},
            decode_s=0.03,
            suffix=".slow",
            repair={"decode_s": 0.0},
            stage="decode",
            resource="decode",
        ),
        _fault(
            "slow-collate",
            "StreamingTrainerWaiting",
            "TrainerWaiting/collate",
            labels={"stage": "collate"},
            collate_s=0.04,
            repair={"collate_s": HEALTHY.collate_s},
            stage="collate",
            resource="collate",
        ),
        _fault(
            "small-cache",
            "StreamingCacheTooSmall",
            "CacheTooSmall",
            cache_share=0.2,
            **_SMALL,
            repair={"cache_share": HEALTHY.cache_share},
            stage="source",
            resource="line",
        ),
        _fault(
            "short-ttl",
            "StreamingCacheExpiring",
            "CacheExpiring",
            ttl_s=1.5,
            ahead=16,
            **_SMALL,
            repair={"ttl_s": None},
        ),
        _fault(
            "breaker-open",
            "StreamingBreakerOpen",
            "BreakerOpen",
            labels={"source": "primary"},
            is_primary_up=False,
            has_mirror=True,
            repair={"is_primary_up": True},
        ),
        _fault(
            "slow-rank",
            "StreamingRankSlow",
            "RankSlow",
            labels={"rank": "1"},
            ranks=3,
            line_s=0.03,
            line_rank=1,
            repair={"line_s": HEALTHY.line_s},
            stage="source",
            resource="line",
        ),
        _fault("trainer-bound", "StreamingTrainerBound", "TrainerBound", step_s=0.3, repair={"step_s": HEALTHY.step_s}),
    )
}
"""All faults by name; `healthy` has none."""
