"""The sample cache and the look-ahead: what they hold, whether it is used, and what leaves too early."""

from __future__ import annotations

from typing import Any

from dashboards.colours import BAD, GOOD, LIMIT, WARN
from dashboards.frame import assemble
from dashboards.panels import Text, lines, stack, tile
from dashboards.queries import increase, rate, total

__all__ = ["cache"]

_REASONS = {"capacity": "#5794F2", "ttl": "#FF9830", "size": "#B877D9", "type": "#F2495C"}
_FILL = {"entries": GOOD, "reserved": "#5794F2", "budget": LIMIT}


def cache() -> dict[str, Any]:
    """The dashboard."""
    return assemble(
        "cache",
        "Streaming / Cache",
        "Does the cache give what its budget lets expect, and is what comes next there in time?",
        {
            "At a glance": _tiles(),
            "Hits": [_reads(), _ratio(), _saved()],
            "What leaves, what is held": [_evictions(), _refused(), _bytes(), _entries()],
            "Look-ahead": [_depth(), _ahead_bytes(), _late()],
        },
        refresh="1m",
    )


def _tiles() -> list[Any]:
    observed = Text(
        "Observed of predicted",
        "The observed hit ratio as a part of the predicted one.",
        "above 70 % once an epoch is over.",
        "see evictions by reason: ttl and capacity say which setting.",
        "StreamingHitRateLow",
    )
    ratio = Text(
        "Predicted hit ratio",
        "Hits per read to be expected with this budget and order.",
        "any; 100 % means that all fits.",
        "low while the trainer waits for source: the cache is too small for this data set.",
        "StreamingCacheTooSmall",
    )
    filled = Text(
        "Budget in use",
        "Bytes held, with those held for reads under way, of the budget; the fullest rank.",
        "near 100 % when the data set is larger than the budget.",
        "near 0 after an epoch: samples are refused or expire.",
        "StreamingCacheExpiring",
    )
    expired = Text(
        "Samples expired",
        "Samples that left by their age in the time shown.",
        "0: training data does not age.",
        "set max_ttl_seconds to None.",
        "StreamingCacheExpiring",
    )
    part = f"{total('cache_observed_hit_ratio', '', 'avg')} / {total('cache_predicted_hit_ratio', '', 'avg')}"
    held = f"({total('cache_bytes', 'job,rank')} + {total('cache_reserved_bytes', 'job,rank')})"
    used = f"max({held} / {total('cache_capacity_bytes', 'job,rank')})"
    low = ((None, BAD), (0.7, WARN), (0.9, GOOD))
    return [
        tile(observed, "percentunit", 6, {"of predicted": part}, steps=low, decimals=0, none="unknown"),
        tile(
            ratio,
            "percentunit",
            6,
            {"predicted": total("cache_predicted_hit_ratio", "", "avg")},
            decimals=0,
            none="unknown",
        ),
        tile(filled, "percentunit", 6, {"in use": used}, decimals=0),
        tile(
            expired,
            "short",
            6,
            {"expired": increase("cache_evictions", reason="ttl")},
            steps=((None, GOOD), (1.0, WARN)),
            decimals=0,
        ),
    ]


def _reads() -> Any:
    text = Text(
        "Reads, hits, fetches",
        "Samples per second: served without a fetch, found because they were read ahead, and fetched.",
        "fetches fall after the first epoch to what does not fit.",
        "as many fetches as reads in every epoch: nothing is kept; see refused and evictions.",
        "StreamingHitRateLow",
    )
    queries = {
        "hits": rate("cache_hits"),
        "found read ahead": rate("cache_prefetch_hits"),
        "fetches": rate("cache_misses"),
    }
    return lines(text, "ops", 8, queries, colours={"hits": GOOD, "fetches": BAD, "found read ahead": "#5794F2"})


def _ratio() -> Any:
    text = Text(
        "Hit ratio, observed and predicted",
        "Hits per read over the last epoch, beside what budget and order let expect.",
        "observed within 70 % of predicted after the first epoch.",
        "lower: samples expire, are refused, or the order is not the one announced.",
        "StreamingHitRateLow",
    )
    queries = {
        "observed {{dataset}}": total("cache_observed_hit_ratio", "dataset", "avg"),
        "predicted {{dataset}}": total("cache_predicted_hit_ratio", "dataset", "avg"),
    }
    return lines(text, "percentunit", 8, queries, top=1)


def _saved() -> Any:
    text = Text(
        "Compression ratio",
        "Bytes of the samples stored so far over what they were stored in.",
        "1 for data that does not compress, 1.2 and more where compression pays.",
        "near 1 with a busy stage cache: set compression_type to none.",
        "StreamingCacheTooSmall",
    )
    return lines(text, "x", 8, {"{{dataset}}": total("cache_compression_ratio", "dataset", "avg")})


def _evictions() -> Any:
    text = Text(
        "Samples that left, by reason",
        "Samples per second that left: to make room (capacity), or by their age (ttl).",
        "capacity alone, and no more than fetches.",
        "ttl: set max_ttl_seconds to None; capacity with a low hit ratio: give the cache more memory.",
        "StreamingCacheExpiring",
    )
    return stack(text, "ops", 6, {"{{reason}}": rate("cache_evictions", "reason")}, colours=_REASONS)


def _refused() -> Any:
    text = Text(
        "Samples not kept, by reason",
        "Samples per second that were not kept: larger than the room (size), or of other types (type).",
        "0.",
        "size: the budget is smaller than a few samples; type: prepare returns objects that are no tensors or "
        "plain values.",
        "StreamingCacheTooSmall",
    )
    return stack(text, "ops", 6, {"{{reason}}": rate("cache_rejections", "reason")}, colours=_REASONS)


def _bytes() -> Any:
    text = Text(
        "Bytes of the budget",
        "What samples take, what is held for reads under way, and the budget; sums over the ranks.",
        "the sum below the budget at all times.",
        "full with a low hit ratio: a larger budget holds more; the hit ratio grows with it in proportion.",
        "StreamingCacheTooSmall",
    )
    queries = {
        "entries": total("cache_bytes"),
        "reserved": total("cache_reserved_bytes"),
        "budget": total("cache_capacity_bytes"),
    }
    return lines(text, "bytes", 6, queries, colours=_FILL)


def _entries() -> Any:
    text = Text(
        "Samples held",
        "Number of samples in the cache of each data set, all ranks.",
        "grows through the first epoch, then level.",
        "falls during an epoch: samples expire or grew larger.",
        "StreamingCacheExpiring",
    )
    return lines(text, "short", 6, {"{{dataset}}": total("cache_entries", "dataset")})


def _depth() -> Any:
    text = Text(
        "Samples read ahead",
        "Read ahead or on their way, only on their way, announced and not begun, and the most that may be ahead.",
        "ahead near depth.",
        "ahead near 0 and much waiting: no room in the budget, or the endpoint takes no more at a time.",
        "StreamingPrefetchStarved",
    )
    queries = {
        "ahead": total("prefetch_buffered_samples"),
        "on their way": total("prefetch_in_flight"),
        "not begun": total("prefetch_queued_samples"),
        "depth": total("prefetch_depth"),
    }
    colours = {"ahead": GOOD, "on their way": "#5794F2", "not begun": "#8E8E8E", "depth": LIMIT}
    return lines(text, "short", 8, queries, colours=colours)


def _ahead_bytes() -> Any:
    text = Text(
        "Bytes read ahead",
        "Bytes of the budget held by what was read ahead, with the most that may be, and the ranks that find no room.",
        "below the most; no rank without room for long.",
        "at the most while the trainer waits for source: a larger cache lets the look-ahead go deeper.",
        "StreamingPrefetchStarved",
    )
    queries = {
        "ahead": total("prefetch_bytes"),
        "most": total("prefetch_max_bytes"),
        "full, times the most": f"{total('prefetch_budget_exhausted', '', 'avg')} * {total('prefetch_max_bytes')}",
    }
    colours = {"ahead": GOOD, "most": LIMIT, "full, times the most": WARN}
    return lines(text, "bytes", 8, queries, colours=colours)


def _late() -> Any:
    text = Text(
        "Late reads ahead",
        "Part of the reads whose sample was on its way, but not there.",
        "near 0.",
        "the look-ahead begins too late for this latency: raise prefetch_ahead or leave it to itself (None).",
        "StreamingPrefetchStarved",
    )
    return lines(text, "percentunit", 8, {"late": f"{rate('prefetch_late')} / {rate('reads')}"}, colours={"late": BAD})
