"""How fast is a cache hit in RAM vs. the fastest decoder that also returns a separate copy?

2.6 MB dicts are timed until every byte was read once, call by call, vs. a copy of the same tensors; samples of 20 kB
(one tensor, eight tensors, token ids, nested JSON) in short bursts vs. everything that can decode them. If the cache
stores a kind compressed, the others decompress too. "json_floats" is JSON that compresses best as text.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import report
import safetensors.torch
import torch
import zstandard

from streaming.cache import SmartLRUCache
from streaming.core.miss import MISS

BURST_S = 50e-6  # calls of one contender before the next one
TURNS = 300  # calls of each contender per round, 20 kB
CALLS = 400  # the same, 2.6 MB, one by one


def latents(shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {"latents": torch.randn(shape)}


def token_ids(count: int, seed: int) -> dict[str, torch.Tensor]:
    """Generate token ids with a Zipf distribution over 50,000, like text."""
    ids = np.random.default_rng(seed).zipf(1.2, 8 * count)
    return {"input_ids": torch.from_numpy(ids[ids < 50_000][:count].astype(np.int64))}


def nested_json(seed: int) -> dict[str, Any]:
    """Generate events like a recorder: about 20 kB of text."""
    choose = random.Random(seed)

    def event() -> dict[str, Any]:
        data = {"source": choose.randrange(6), "id": choose.randrange(3000), "x": choose.randrange(1920), "text": None}
        return {"type": choose.randrange(6), "timestamp": 1_700_000_000_000 + choose.randrange(10**7), "data": data}

    return {"session": f"s{seed}", "events": [event() for _ in range(190)]}


def json_floats(seed: int) -> dict[str, Any]:
    """Generate rounded coordinates."""
    choose = random.Random(seed)
    return {"points": [[round(choose.random(), 3), round(choose.random(), 3)] for _ in range(1400)]}


def read_all(sample: dict[str, torch.Tensor]) -> None:
    for tensor in sample.values():
        tensor.sum()


def decoders(sample: Any, wrap: Callable[[bytes], Callable[[], bytes]]) -> dict[str, Callable[[], Any]]:
    """Return functions that restore this sample, each from its own bytes."""
    if not isinstance(next(iter(sample.values())), torch.Tensor):
        text = wrap(json.dumps(sample, separators=(",", ":")).encode())
        pickled = wrap(pickle.dumps(sample, 5))
        return {"json.loads": lambda: json.loads(text()), "pickle.loads": lambda: pickle.loads(pickled())}
    file = io.BytesIO()
    torch.save(sample, file)
    saved = wrap(file.getvalue())
    safe = wrap(safetensors.torch.save(sample))
    arrays = wrap(pickle.dumps({name: tensor.numpy() for name, tensor in sample.items()}, 5))
    raws = [(name, t.dtype, t.shape, wrap(t.numpy().tobytes())) for name, t in sample.items()]
    return {
        "torch.load": lambda: torch.load(io.BytesIO(saved()), weights_only=True),
        "safetensors": lambda: safetensors.torch.load(safe()),
        "pickle.loads": lambda: {name: torch.from_numpy(a) for name, a in pickle.loads(arrays()).items()},
        "frombuffer": lambda: {n: torch.frombuffer(bytearray(raw()), dtype=d).view(s) for n, d, s, raw in raws},
    }


def bare(data: bytes) -> Callable[[], bytes]:
    return lambda: data


def zipped(data: bytes) -> Callable[[], bytes]:
    frame = zstandard.ZstdCompressor(level=3).compress(data)
    decompress = zstandard.ZstdDecompressor().decompress
    return lambda: decompress(frame)


def in_turns(contenders: dict[str, Callable[[], Any]], turns: int, burst_s: float) -> dict[str, list[float]]:
    """Return the seconds per call of each contender in each of its turns; contenders alternate in short bursts.

    With many short turns, an interruption affects few of them, and not their median.
    """
    calls = {}
    for name, function in contenders.items():
        started = time.perf_counter()
        function()
        calls[name] = max(1, int(burst_s / (time.perf_counter() - started)))
    names = list(contenders)
    spent: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            function, count = contenders[name], calls[name]
            started = time.perf_counter()
            for _ in range(count):
                function()
            spent[name].append((time.perf_counter() - started) / count)
    return spent


def medians_of(rounds: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Return the median of each round per contender."""
    return {name: [report.median(spent[name]) for spent in rounds] for name in rounds[0]}


def small(name: str, sample: Any, repeats: int) -> dict[str, Any]:
    """Measure one 20 kB case: microseconds of each contender, and the ratio vs. the best of the others."""
    cache = SmartLRUCache(max_size_bytes=10_000_000)
    cache.put_nowait("k", sample)
    is_zipped = cache.get_metrics().total_bytes_saved > 0
    others = decoders(sample, zipped if is_zipped else bare)
    if not is_zipped and "json" not in name:
        others["clone"] = lambda: {key: tensor.clone() for key, tensor in sample.items()}
    contenders = {"hit": lambda: cache.get_nowait("k", MISS), **others}
    times = medians_of([in_turns(contenders, TURNS, BURST_S) for _ in range(repeats)])
    medians = {key: report.median(values) for key, values in times.items()}
    best = min(others, key=medians.__getitem__)
    figures = {
        "stored_compressed": is_zipped,
        "us": {key: value * 1e6 for key, value in medians.items()},
        "hits_per_s": 1 / medians["hit"],
        "best_other": best,
        "speed_over_best": report.ratio(times[best], times["hit"]),
    }
    if "json" in name:
        figures["speed_over_json_loads"] = report.ratio(times["json.loads"], times["hit"])
    return figures


def large(sample: dict[str, torch.Tensor], repeats: int) -> dict[str, Any]:
    """Measure 2.6 MB, call by call: medians, ratio vs. the fastest copy, and tail latencies."""
    cache = SmartLRUCache(max_size_bytes=20_000_000)
    cache.put_nowait("k", sample)
    is_zipped = cache.get_metrics().total_bytes_saved > 0
    raw = zipped(b"".join(tensor.numpy().tobytes() for tensor in sample.values()))
    dtype, shape = next((tensor.dtype, tensor.shape) for tensor in sample.values())
    contenders: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
        "hit": lambda: cache.get_nowait("k", MISS),
        "clone": lambda: {key: tensor.clone() for key, tensor in sample.items()},
    }
    if is_zipped:
        contenders["zstd"] = lambda: {"x": torch.frombuffer(bytearray(raw()), dtype=dtype).view(shape)}
    # The reference under another name, which shows the noise of the measurement.
    contenders["clone again"] = contenders["clone"]
    reading = {key: lambda f=f: read_all(f()) for key, f in contenders.items()}
    rounds = [in_turns(reading, CALLS, 0.0) for _ in range(repeats)]
    best = "zstd" if is_zipped else "clone"
    medians = medians_of(rounds)
    tails = {key: [float(np.quantile(r[key], 0.99)) / report.median(r[key]) for r in rounds] for key in contenders}
    return {
        "stored_compressed": is_zipped,
        "us": {key: report.median(values) * 1e6 for key, values in medians.items()},
        "hits_per_s": 1 / report.median(medians["hit"]),
        "best_other": best,
        "speed_over_best": report.ratio(medians[best], medians["hit"]),
        "p99_over_median": {key: report.median(values) for key, values in tails.items()},
        "tail_over_memcpy_tail": report.ratio(tails["hit"], tails["clone"]),
    }


def main() -> None:
    """Run every case, print a table and one line of JSON."""
    arguments = report.options(__doc__, repeats=9).parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    cases: dict[str, Any] = {
        "one_tensor": latents((16, 8, 40)),
        "eight_tensors": {f"t{n}": torch.randn(640) for n in range(8)},
        "token_ids": token_ids(2560, arguments.seed),
        "json": nested_json(arguments.seed),
        "json_floats": json_floats(arguments.seed),
    }
    figures = {f"20kB_{name}": small(name, sample, arguments.repeats) for name, sample in cases.items()}
    figures["2.6MB_latents"] = large(latents((16, 16, 64, 40)), arguments.repeats)
    figures["2.6MB_token_ids"] = large(token_ids(327_680, arguments.seed), max(1, arguments.repeats // 3))
    rows: list[list[Any]] = [["sample", "hit us", "hits/s", "best other", "us", "speed ratio", "min", "max"]]
    for name, case in figures.items():
        ratio = case["speed_over_best"]
        best = case["best_other"]
        rows.append([name, case["us"]["hit"], round(case["hits_per_s"]), best, case["us"][best], *ratio.values()])
    report.table("Cache hits in RAM vs. the best decoder that returns a separate copy", rows)
    for name in ("20kB_json", "20kB_json_floats"):
        print(name, "vs. json.loads", f"{figures[name]['speed_over_json_loads']['median']:.2f}")
    print("2.6 MB p99/median vs. memcpy's", f"{figures['2.6MB_latents']['tail_over_memcpy_tail']['median']:.2f}")
    report.emit("hit", figures, seed=arguments.seed)


if __name__ == "__main__":
    main()
