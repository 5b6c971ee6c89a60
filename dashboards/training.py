"""The training run: its speed and place, its ranks side by side, its processes."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.models.dashboard import DynamicConfigValue

from dashboards.colours import BAD, BUSY, GOOD, LIMIT, STAGE, WARN
from dashboards.frame import assemble
from dashboards.panels import Text, bars, lines, matrix, rows, stack, tile
from dashboards.queries import STEP, else_zero, rate, selector, share_by, total

__all__ = ["training"]

_WAITING = ((None, GOOD), (0.05, WARN), (0.1, BAD))
_STAGES = {name: colour for name, colour in STAGE.items() if name != BUSY}


def training() -> dict[str, Any]:
    """The dashboard."""
    return assemble(
        "training",
        "Streaming / Training run",
        "How fast is the run, where is it, and which rank or process differs from the others?",
        {
            "At a glance": _tiles(),
            "Speed and position": [_samples(), _batches(), _epoch(), _position()],
            "Comparison of ranks": [_matrix(), _slowest(), _stages(), _reads()],
            "Batches and samples": [_padding(), _bad(), _objects()],
            "Processes": [_memory(), _lag(), _scrape(), _builds()],
        },
        refresh="1m",
    )


def _tiles() -> list[Any]:
    samples = Text(
        "Samples per second",
        "Samples delivered to the trainers, all ranks.",
        "the same as an hour ago.",
        "see below whether the trainers wait or are slower themselves.",
        "StreamingNoProgress",
    )
    epoch = Text(
        "Epoch",
        "Current epoch of the rank that is furthest behind.",
        "grows.",
        "flat for longer than an epoch takes: no progress.",
        "StreamingNoProgress",
    )
    bad = Text(
        "Bad samples",
        "Samples replaced so far because they could not be loaded, each counted once.",
        "0.",
        "the log names each with its error; many in a row are a damaged upload.",
        "StreamingBadSamples",
    )
    memory = Text(
        "Memory of the limit",
        "Resident memory of trainer and reading process (their shared cache once) over the limit; fullest rank.",
        "below 90 %.",
        "make the cache smaller, or give the job more memory.",
        "StreamingMemoryNearLimit",
    )
    resident = total("process_resident_memory_bytes", "job,rank")
    owner = selector("process_resident_memory_bytes", process="owner")
    shared = f"({total('cache_bytes', 'job,rank')} and on(job, rank) {owner})"
    limit = total("process_memory_limit_bytes", "job,rank", "min")
    used = f"({resident} - {shared} or {resident}) / {limit}"
    stalled = ((None, BAD), (0.000001, GOOD))
    return [
        tile(samples, "short", 6, {"samples": rate("loader_samples")}, steps=stalled, decimals=1),
        tile(epoch, "none", 6, {"epoch": total("loader_epoch", "", "min")}, decimals=0),
        tile(bad, "short", 6, {"bad": total("samples_replaced")}, steps=((None, GOOD), (1.0, WARN)), decimals=0),
        tile(
            memory,
            "percentunit",
            6,
            {"of the limit": f"max({used})"},
            steps=((None, GOOD), (0.8, WARN), (0.9, BAD)),
            decimals=0,
        ),
    ]


def _samples() -> Any:
    text = Text(
        "Samples per second by rank",
        "Samples delivered to each rank's trainer; packs and groups count as one.",
        "lines together and level.",
        "all lower: waiting or a slower step; one lower: the ranks are not in sync.",
        "StreamingNoProgress",
    )
    return lines(text, "short", 6, {"rank {{rank}}": rate("loader_samples", "rank")})


def _batches() -> Any:
    text = Text(
        "Batches per second by rank",
        "Batches delivered to each rank's trainer.",
        "the same on all ranks.",
        "differs for long: the ranks are not in sync, and the run will hang at its next collective.",
        "StreamingRankSlow",
    )
    return lines(text, "short", 6, {"rank {{rank}}": rate("loader_batches", "rank")})


def _epoch() -> Any:
    text = Text(
        "Epoch by rank",
        "Current epoch, or the next one between epochs.",
        "stairs, the same on all ranks.",
        "ranks an epoch apart for longer than a batch: not in sync; a step down: the run resumed from an older state.",
        "StreamingNoProgress",
    )
    return lines(text, "none", 6, {"rank {{rank}}": total("loader_epoch", "rank", "max")})


def _position() -> Any:
    text = Text(
        "Position in the epoch",
        "Samples or groups of the epoch delivered so far, over all ranks.",
        "a sawtooth of constant height.",
        "flat: no progress; cut short: the run was restarted without its state.",
        "StreamingNoProgress",
    )
    return lines(text, "short", 6, {"{{dataset}}": total("loader_position", "dataset", "max")})


def _matrix() -> Any:
    text = Text(
        "Wait by rank and stage",
        "Share of each rank's time that its trainer waited, by stage.",
        "green.",
        "a red column: this stage on all ranks; a red row: this rank's host or network.",
        "StreamingRankSlow",
    )
    whole = f"({rate('trainer_wait_seconds', 'rank')} + {rate('trainer_busy_seconds', 'rank')})"
    part = f"{rate('trainer_wait_seconds', 'rank,stage')} / on(rank) group_left() {whole}"
    return matrix(text, "percentunit", 24, part, row="rank", column="stage", steps=_WAITING, height=7)


def _slowest() -> Any:
    text = Text(
        "Ranks that wait most",
        "The ten ranks whose trainers wait the largest share of their time.",
        "all similar, below 5 %.",
        "the first far above the others: StreamingRankSlow; look at its host.",
        "StreamingRankSlow",
    )
    return bars(
        text, "percentunit", 8, {"rank {{rank}}": f"sort_desc(topk(10, {share_by('rank')}))"}, steps=_WAITING, top=1
    )


def _stages() -> Any:
    text = Text(
        "Waits by stage",
        "Waits of the ranks chosen above by stage, as shares of the trainers' time.",
        "below 5 % together.",
        "choose one rank above to see its own.",
        "StreamingTrainerWaiting",
    )
    queries = {"{{stage}}": f"{rate('trainer_wait_seconds', 'stage')} / {STEP}"}
    return stack(text, "percentunit", 8, queries, colours=_STAGES)


def _reads() -> Any:
    text = Text(
        "Waits of the reads, by stage",
        "Seconds per second that reads waited, in trainers and workers; several may wait at once.",
        "near 0 after the first epoch.",
        "high while the trainer does not wait: workers hide it, and nothing has to change.",
        "StreamingTrainerWaiting",
    )
    return stack(text, "s", 8, {"{{stage}}": rate("read_wait_seconds", "stage")}, colours=_STAGES)


def _padding() -> Any:
    text = Text(
        "Padding",
        "Share of padding in the batches of this epoch; 0 without batching by length.",
        "below 10 % with length buckets.",
        "higher: sort into buckets by length, or pack.",
        "StreamingTrainerBound",
    )
    padding = total("loader_padding_ratio", "dataset", "avg")
    return lines(text, "percentunit", 8, {"padding {{dataset}}": else_zero(padding)})


def _bad() -> Any:
    text = Text(
        "Bad samples so far",
        "Samples replaced because they could not be loaded, each counted once, since the start.",
        "0.",
        "the log names each with its error; above max_bad_share the run stops.",
        "StreamingBadSamples",
    )
    return lines(text, "short", 8, {"{{dataset}}": total("samples_replaced", "dataset")})


def _objects() -> Any:
    text = Text(
        "Reads and fetches",
        "Samples read, and objects fetched for them, per second.",
        "fetches fall after the first epoch by the hit ratio.",
        "fetches above reads: samples have several objects, or prefetch reads what is not used.",
        "StreamingHitRateLow",
    )
    queries = {"samples read": rate("reads"), "objects fetched": rate("fetched_objects")}
    return lines(text, "ops", 8, queries, colours={"samples read": GOOD, "objects fetched": "#5794F2"})


def _memory() -> Any:
    text = Text(
        "Memory by rank",
        "Resident memory of each trainer and of the process that reads for it, and the memory limit.",
        "level after the first epoch, below 90 % of the limit.",
        "keeps growing in the trainer: a leak in the training loop; in the owner: report it with the cache's bytes.",
        "StreamingMemoryNearLimit",
    )
    queries = {
        "rank {{rank}} {{process}}": total("process_resident_memory_bytes", "rank,process"),
        "limit": total("process_memory_limit_bytes", "", "min"),
    }
    return lines(text, "bytes", 6, queries, colours={"limit": LIMIT})


def _lag() -> Any:
    text = Text(
        "Event loop lag",
        "90th percentile of how late timers of the event loop that reads ran, over the last 10 s.",
        "below 20 ms.",
        "higher: the trainer's Python holds the interpreter lock; set owner='process' of the adapter.",
        "StreamingTrainerWaiting",
    )
    return lines(text, "s", 6, {"rank {{rank}} {{process}}": total("event_loop_lag_seconds", "rank,process", "max")})


def _scrape() -> Any:
    text = Text(
        "Cost of a scrape",
        "Duration of the last scrape of these numbers, and failed readings per second.",
        "below 20 ms, no failures.",
        "failures: a data set is closing or its reading process is gone; the last numbers are shown meanwhile.",
        "StreamingScrapeGone",
    )
    queries = {
        "seconds rank {{rank}}": total("scrape_duration_seconds", "rank", "max"),
        "failures": else_zero(rate("scrape_errors")),
    }
    own = [DynamicConfigValue("unit", "ops"), DynamicConfigValue("custom.axisPlacement", "right")]
    return lines(text, "s", 6, queries, colours={"failures": BAD}).override_by_name("failures", own)


def _builds() -> Any:
    text = Text(
        "Versions",
        "Versions of this library, Python and torch, by rank.",
        "the same on all ranks.",
        "ranks that differ: rebuild the image, or find the host with an old one.",
    )
    columns = ("rank", "version", "python", "torch")
    return rows(text, "none", 6, selector("build_info"), columns=columns, value="running", height=8)
