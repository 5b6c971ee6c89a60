"""Is an adapter with defaults as fast behind 30 ms of latency as the best fixed number of reads in flight?

Raw objects of 20 kB behind HAProxy, which delays each request. The reference is the best of several bare obstore loops
with 8 to 512 reads in flight and the same codec. The adapter starts cold in its own process; its rate is measured after
the warm-up. It runs with its defaults, with `concurrency=512`, and with its defaults without latency.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from statistics import median

import obstore.store
import report
import servers
import uvloop
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from streaming.adapter import StreamingDatasetAdapter
from streaming.codecs import decode

OBJECTS, NBYTES, BATCH = 81_920, 20_000, 64
LATENCY_MS = 30
FIXED = (8, 32, 128, 512)
WARM_UP_S, MEASURED_S = 7.0, 3.0
BARE_WARM_UP_S = 0.5
STEP_S = 0.25  # resolution of the curve of the rate


def bare(url: str, in_flight: int) -> float:
    """Return the objects per second of that many tasks that read and decode."""

    async def run() -> float:
        get = obstore.store.HTTPStore.from_url(url, client_options={"allow_http": True}).get_async
        started = time.perf_counter()
        ends = started + BARE_WARM_UP_S + MEASURED_S
        counted = 0

        async def work(names: Iterator[int]) -> None:
            nonlocal counted
            for number in names:
                name = f"{number % 100:02d}/{number:06d}.bin"
                decode(await (await get(name)).bytes_async(), name)
                now = time.perf_counter()
                if now > ends:
                    return
                counted += now > started + BARE_WARM_UP_S

        names = cycle(range(OBJECTS))
        await asyncio.gather(*(work(names) for _ in range(in_flight)))
        return counted / MEASURED_S

    return uvloop.run(run())


def streamed(url: str, concurrency: int | None) -> tuple[float, float, float]:
    """Return the objects per second after warm-up, the seconds until 0.9 of that, and the median of reads in flight."""
    landed: list[float] = []
    in_flight: list[int] = []
    with StreamingDatasetAdapter(servers.at(url), concurrency=concurrency) as adapter:
        batches = adapter.look_ahead(BatchSampler(SequentialSampler(adapter), BATCH, drop_last=True))
        started = time.perf_counter()
        for _ in DataLoader(adapter, batch_sampler=batches, collate_fn=len):
            landed.append(time.perf_counter() - started)
            if landed[-1] > WARM_UP_S + MEASURED_S:
                break
            if len(landed) % 16 == 0 and landed[-1] > WARM_UP_S:
                in_flight.append(int(adapter.get_cache_stats()["in_flight"]))
    if landed[-1] < WARM_UP_S + MEASURED_S:
        raise RuntimeError(f"{OBJECTS} objects were read within {landed[-1]:.1f} s: give more")
    rate = BATCH * sum(WARM_UP_S < seconds for seconds in landed) / (landed[-1] - WARM_UP_S)
    return rate, _reached(landed, 0.9 * rate), median(in_flight or [0])


def _reached(landed: list[float], rate: float) -> float:
    """Return the end of the first step in which batches arrived at this rate."""
    steps = [0] * (int(landed[-1] / STEP_S) + 1)
    for seconds in landed:
        steps[int(seconds / STEP_S)] += 1
    return next(STEP_S * (step + 1) for step, count in enumerate(steps) if count * BATCH >= rate * STEP_S)


def main() -> None:
    parser = report.options(__doc__, repeats=2)
    arguments = parser.parse_args()
    details: dict[str, list[tuple[float, float, float]]] = {"default": [], "concurrency=512": [], "no latency": []}
    with servers.nginx(OBJECTS, NBYTES, arguments.seed) as url, servers.fault_proxy(url) as proxy:

        def adapter(name: str, latency_ms: int, concurrency: int | None) -> float:
            proxy.set(latency_ms=latency_ms)
            details[name].append(servers.apart(streamed, proxy.url, concurrency))
            proxy.set(latency_ms=LATENCY_MS)
            return details[name][-1][0]

        proxy.set(latency_ms=LATENCY_MS)
        runs = {str(number): partial(bare, proxy.url, number) for number in FIXED}
        runs["default"] = partial(adapter, "default", LATENCY_MS, None)
        runs["concurrency=512"] = partial(adapter, "concurrency=512", LATENCY_MS, 512)
        runs["no latency"] = partial(adapter, "no latency", 0, None)
        rates = report.interleaved(arguments.repeats, runs)
    best = [max(fixed) for fixed in zip(*(rates[str(number)] for number in FIXED), strict=True)]
    figures: dict[str, object] = {
        "latency_ms": LATENCY_MS,
        "warm_up_s": WARM_UP_S,
        "objects_per_second": {name: report.spread(values) for name, values in rates.items()},
    }
    rows: list[list[object]] = [["", "objects/s", "vs. best fixed", "vs. no latency", "s to 0.9", "in flight"]]
    rows += [[f"bare, {number} in flight", median(rates[str(number)]), "", "", "", number] for number in FIXED]
    for name in details:
        reached, in_flight = (report.spread([run[place] for run in details[name]]) for place in (1, 2))
        of_best, of_free = report.ratio(rates[name], best), report.ratio(rates[name], rates["no latency"])
        figures[name] = {
            "of_best_fixed": of_best,
            "of_no_latency": of_free,
            "s_to_0.9": reached,
            "in_flight": in_flight,
        }
        cells = [of_best["median"], of_free["median"], reached["median"], in_flight["median"]]
        rows.append([f"adapter, {name}", median(rates[name]), *cells])
    report.table(f"{NBYTES} bytes behind {LATENCY_MS} ms", rows)
    report.emit("latency_proxy", figures, seed=arguments.seed)


if __name__ == "__main__":
    main()
