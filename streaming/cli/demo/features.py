"""Turn the events of an rrweb recording into the input of the demo's model.

rrweb numbers its events: `type` is their kind, and for incremental ones (type 3) `data.source` says of what. Together
they are the *kind* of an event. A kind and the pause before the event make one token, so that a recording becomes a
sentence; the shares of kinds and pauses make one short vector.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["FEATURES", "KINDS", "PADDING", "PAUSES", "VOCABULARY", "event_features", "kind_of", "pause_bucket"]

PADDING = 0
"""Token id of padding; real tokens start at 1."""

INCREMENTAL = 3
TYPES, SOURCES = 8, 17  # rrweb 2: EventType 0 to 7, IncrementalSource 0 to 16
OTHER_KIND = TYPES + SOURCES
KINDS = OTHER_KIND + 1
PAUSES = 16
"""Buckets of the pause before an event: 0 for none, then one per power of two milliseconds, the last open."""

VOCABULARY = 1 + KINDS * PAUSES
FEATURES = KINDS + PAUSES + 2


def kind_of(event: dict[str, Any]) -> int:
    """Return the kind of an event in [0, KINDS): its type, or 8 + source if incremental; the last if unknown."""
    event_type = event.get("type")
    if event_type == INCREMENTAL:
        data = event.get("data")
        source = data.get("source") if isinstance(data, dict) else None
        return TYPES + source if isinstance(source, int) and 0 <= source < SOURCES else OTHER_KIND
    return event_type if isinstance(event_type, int) and 0 <= event_type < TYPES else OTHER_KIND


def pause_bucket(milliseconds: float) -> int:
    """Return the bucket of a pause in [0, PAUSES); events out of order count as no pause."""
    return min(PAUSES - 1, int(milliseconds).bit_length()) if milliseconds >= 1 else 0


def event_features(sample: dict[str, Any]) -> dict[str, Any]:
    """Turn `{"events": [...], "label": {...}}` into tensors; for the adapter's `prepare=`.

    Returns:
        `features` float32 [FEATURES] (shares of kinds, shares of pauses, log length, log number of events), `tokens`
        int64 [events] in [1, VOCABULARY), `page` int, the class to predict.
    """
    import torch

    events = sample["events"]
    kinds, pauses = [0] * KINDS, [0] * PAUSES
    tokens = []
    before = events[0]["timestamp"] if events else 0
    for event in events:
        kind, pause = kind_of(event), pause_bucket(event["timestamp"] - before)
        before = event["timestamp"]
        kinds[kind] += 1
        pauses[pause] += 1
        tokens.append(1 + kind * PAUSES + pause)
    count = max(len(events), 1)
    seconds = max(0.0, (before - events[0]["timestamp"]) / 1000) if events else 0.0
    features = [n / count for n in (*kinds, *pauses)] + [math.log1p(seconds) / 10, math.log1p(len(events)) / 10]
    return {
        "features": torch.tensor(features, dtype=torch.float32),
        "tokens": torch.tensor(tokens, dtype=torch.int64),
        "page": int(sample["label"]["page_id"]),
    }
