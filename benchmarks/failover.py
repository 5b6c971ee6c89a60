"""How long does a training loop pause when its source dies or hangs, and how fast does it continue?

One epoch of raw objects of 20 kB in batches of 64. The primary is a TCP relay in front of nginx. Halfway
through the epoch it refuses all connections, or hangs on all of them; the mirror is nginx itself. The rate of the last
quarter is compared with that of an adapter that has only the mirror. Each epoch starts cold, in its own process.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import report
import servers
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from streaming.adapter import StreamingDatasetAdapter

sys.path.append(str(Path(__file__).parents[1]))
from tests.relay import Relay

NBYTES, BATCH = 20_000, 64


class Epoch(NamedTuple):
    """Objects per second in the second and the last quarter, and the longest wait for a batch in each half."""

    rate_before: float
    rate_after: float
    pause_before_s: float
    pause_s: float


def epoch(url: str, fault: str) -> Epoch:
    """Run an epoch over a relay to the URL with a mirror, or over the URL only if there is no fault."""
    if not fault:
        return _epoch(StreamingDatasetAdapter(servers.at(url)), None)
    with Relay(url) as relay:
        adapter = StreamingDatasetAdapter(servers.at(relay.url, url))
        return _epoch(adapter, relay.kill if fault == "killed" else relay.silence)


def _epoch(adapter: StreamingDatasetAdapter, break_it: object) -> Epoch:
    with adapter:
        batches = adapter.look_ahead(BatchSampler(SequentialSampler(adapter), BATCH, drop_last=True))
        loader = DataLoader(adapter, batch_sampler=batches, collate_fn=len)
        half = len(loader) // 2
        landed = [time.perf_counter()]
        for _ in loader:
            if len(landed) == half and callable(break_it):
                break_it()
            landed.append(time.perf_counter())
    waits = [after - before for before, after in pairwise(landed)]
    quarter = half // 2
    return Epoch(
        quarter * BATCH / (landed[half - 1] - landed[half - 1 - quarter]),
        quarter * BATCH / (landed[-1] - landed[-1 - quarter]),
        max(waits[: half - 1]),
        max(waits[half - 1 :]),
    )


def main() -> None:
    parser = report.options(__doc__, repeats=3)
    parser.add_argument("--objects", type=int, default=24_576, help="objects per epoch (default 24576)")
    arguments = parser.parse_args()
    found: dict[str, list[Epoch]] = {"killed": [], "silent": [], "": []}
    with servers.nginx(arguments.objects, NBYTES, arguments.seed) as url:

        def run(fault: str) -> None:
            found[fault].append(servers.apart(epoch, url, fault))

        report.interleaved(arguments.repeats, {fault: partial(run, fault) for fault in found})
    alone = [each.rate_after for each in found[""]]
    figures: dict[str, object] = {"objects": arguments.objects}
    rows: list[list[object]] = [["", "longest pause s", "worst", "before", "objects/s after", "vs. mirror only"]]
    for fault, epochs in found.items():
        name = f"primary {fault}" if fault else "mirror alone"
        pause = report.spread([each.pause_s for each in epochs])
        before, after = (report.spread([each[place] for each in epochs]) for place in (0, 1))
        share = report.ratio([each.rate_after for each in epochs], alone)
        figures[name] = {
            "longest_pause_s": pause,
            "longest_pause_before_s": report.spread([each.pause_before_s for each in epochs]),
            "rate_before": before,
            "rate_after": after,
            "of_mirror_alone": share,
        }
        rows.append([name, pause["median"], pause["max"], before["median"], after["median"], share["median"]])
    report.table(f"{arguments.objects} objects of {NBYTES} bytes, the primary fails halfway", rows)
    report.emit("failover", figures, seed=arguments.seed)


if __name__ == "__main__":
    main()
