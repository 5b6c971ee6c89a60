"""Dashboard of the sample cache and prefetch: what they hold, whether it is used, and what expires too early."""

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
        "Does the cache serve as much as its budget allows, and are samples ready when they are read?",
        {
            "At a glance": _tiles(),
            "Hits": [_reads(), _ratio(), _saved()],
            "Evictions and contents": [_evictions(), _refused(), _bytes(), _entries()],
            "Look-ahead": [_depth(), _ahead_bytes(), _late()],
        },
        refresh="1m",
    )


def _tiles() -> list[Any]:
    observed = Text(
        "Observed of predicted",
        "Observed hit ratio divided by the predicted one.",
        "above 70 % after the first epoch.",
        "see evictions by reason: ttl and capacity show which setting to change.",
        "StreamingHitRateLow",
    )
    ratio = Text(
        "Predicted hit ratio",
        "Expected hits per read with this budget and order.",
        "any; 100 % means that the whole data set fits.",
        "low while the trainer waits for source: the cache is too small for this data set.",
        "StreamingCacheTooSmall",
    )
    filled = Text(
        "Budget in use",
        "Bytes used and reserved for reads in flight, as a share of the budget; the fullest rank.",
        "near 100 % when the data set is larger than the budget.",
        "near 0 after an epoch: samples are not kept or expire.",
        "StreamingCacheExpiring",
    )
    expired = Text(
        "Samples expired",
        "Samples that expired in the time range.",
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
        "Samples per second: served without a fetch, prefetched, and fetched.",
        "after the first epoch only what does not fit is fetched.",
        "as many fetches as reads in every epoch: nothing is kept; see evictions and samples not kept.",
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
        "Hits per read over the last epoch, and the ratio expected with this budget and order.",
        "observed within 70 % of predicted after the first epoch.",
        "lower: samples expire, are not kept, or the order is not the one announced.",
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
        "Bytes of the samples stored so far, over the bytes they were stored in.",
        "1 for data that does not compress, 1.2 or more where compression pays.",
        "near 1 while the trainer waits for cache: set compression_type to none.",
        "StreamingCacheTooSmall",
    )
    return lines(text, "x", 8, {"{{dataset}}": total("cache_compression_ratio", "dataset", "avg")})


def _evictions() -> Any:
    text = Text(
        "Evictions by reason",
        "Samples evicted per second: to make room (capacity), or by age (ttl).",
        "only capacity, and no more than fetches.",
        "ttl: set max_ttl_seconds to None; capacity with a low hit ratio: give the cache more memory.",
        "StreamingCacheExpiring",
    )
    return stack(text, "ops", 6, {"{{reason}}": rate("cache_evictions", "reason")}, colours=_REASONS)


def _refused() -> Any:
    text = Text(
        "Samples not kept, by reason",
        "Samples per second that were not kept: too large (size), or of unsupported types (type).",
        "0.",
        "size: the budget is smaller than a few samples; type: prepare returns objects that are not tensors or "
        "plain values.",
        "StreamingCacheTooSmall",
    )
    return stack(text, "ops", 6, {"{{reason}}": rate("cache_rejections", "reason")}, colours=_REASONS)


def _bytes() -> Any:
    text = Text(
        "Bytes of the budget",
        "Bytes used by samples, reserved for reads in flight, and the budget; summed over ranks.",
        "the sum below the budget at all times.",
        "full with a low hit ratio: the hit ratio grows in proportion to the budget.",
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
        "grows during the first epoch, then level.",
        "falls during an epoch: samples expire or grew larger.",
        "StreamingCacheExpiring",
    )
    return lines(text, "short", 6, {"{{dataset}}": total("cache_entries", "dataset")})


def _depth() -> Any:
    text = Text(
        "Samples read ahead",
        "Read ahead or in flight, only in flight, announced but not begun, and the limit.",
        "ahead near depth.",
        "ahead near 0 and many not begun: no room in the budget, or the concurrency limit of the endpoint is reached.",
        "StreamingPrefetchStarved",
    )
    queries = {
        "ahead": total("prefetch_buffered_samples"),
        "in flight": total("prefetch_in_flight"),
        "not begun": total("prefetch_queued_samples"),
        "depth": total("prefetch_depth"),
    }
    colours = {"ahead": GOOD, "in flight": "#5794F2", "not begun": "#8E8E8E", "depth": LIMIT}
    return lines(text, "short", 8, queries, colours=colours)


def _ahead_bytes() -> Any:
    text = Text(
        "Bytes read ahead",
        "Bytes of the budget used by samples read ahead, their limit, and the ranks without room.",
        "below the limit; no rank without room for long.",
        "at the limit while the trainer waits for source: a larger cache allows more prefetch.",
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
        "Share of the reads whose sample was still in flight.",
        "near 0.",
        "prefetch begins too late for this latency: raise prefetch_ahead, or set it to None (adaptive).",
        "StreamingPrefetchStarved",
    )
    return lines(text, "percentunit", 8, {"late": f"{rate('prefetch_late')} / {rate('reads')}"}, colours={"late": BAD})
