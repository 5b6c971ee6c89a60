"""Does the cache store samples as small as `zstd -3` does, and waste no time on data that does not shrink?

Token ids, masks and text are compared with zstd over their bare bytes, which a reader could not decode; JSON and the
recordings with zstd over their text. "npy" is zstd over a complete .npy file. Random floats show the cost of the
trials: CPU time of `encode` with and without compression, vs. that of the trials only.
"""

from __future__ import annotations

import io
import json
import pydoc_data.topics
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import report
import zstandard

from streaming.cache import SmartLRUCache

RECORDINGS = Path(__file__).parent.parent / "examples" / "data" / "recordings"
Case = tuple[Any, bytes]  # a sample, and the bytes for zstd


def token_ids(dtype: type, count: int, seed: int) -> Iterator[Case]:
    """Generate sequences of 256 to 4,096 ids, Zipf over 50,000."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        ids = rng.zipf(1.2, 40_000)
        array = ids[ids < 50_000][: rng.integers(256, 4096)].astype(dtype)
        yield {"input_ids": array}, array.tobytes()


def mlm_masks(count: int, seed: int) -> Iterator[Case]:
    """Generate masks of 15 % of 4,096 places, at random."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        mask = rng.random(4096) < 0.15
        yield {"mask": mask}, mask.tobytes()


def segment_masks(count: int, seed: int) -> Iterator[Case]:
    """Generate images of 256 x 256 with 24 to 64 overlapping rectangles, as labels 0 to 9."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        mask = np.zeros((256, 256), np.uint8)
        for top, left, height, width in rng.integers(0, 128, (rng.integers(24, 64), 4)):
            mask[top : top + height, left : left + width] = rng.integers(0, 10)
        yield {"mask": mask}, mask.tobytes()


def texts() -> Iterator[Case]:
    """Yield the chapters of Python's manual."""
    for text in pydoc_data.topics.topics.values():
        yield {"text": text}, text.encode()


def records(count: int, seed: int) -> Iterator[Case]:
    """Generate nested JSON of some 20 kB, half of it numbers."""
    choose = random.Random(seed)
    for number in range(count):
        events = [
            {"type": choose.randrange(6), "at": choose.randrange(10**7), "x": round(choose.random(), 3), "on": True}
            for _ in range(choose.randrange(100, 500))
        ]
        sample = {"id": f"s{number}", "events": events}
        yield sample, json.dumps(sample, separators=(",", ":")).encode()


def recordings(folder: Path) -> Iterator[Case]:
    """Yield recorded browser sessions."""
    for path in sorted(folder.glob("*.json.zst")):
        text = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
        yield json.loads(text), text


def as_npy(sample: Any, raw: bytes) -> bytes:
    array = next(iter(sample.values()), None) if isinstance(sample, dict) else None
    if not isinstance(array, np.ndarray):
        return raw
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def measure(cases: Iterator[Case]) -> dict[str, float]:
    """Return the size of the samples, their size with zstd and in the cache, and the ratios."""
    cache = SmartLRUCache(max_size_bytes=1_000_000)
    zstd = zstandard.ZstdCompressor(level=3)
    raw_bytes = zstd_bytes = npy_bytes = stored = count = 0
    for sample, raw in cases:
        entry = cache.encode(sample)
        assert entry is not None
        count += 1
        raw_bytes += len(raw)
        zstd_bytes += len(zstd.compress(raw))
        npy_bytes += len(zstd.compress(as_npy(sample, raw)))
        stored += entry.nbytes
    return {
        "samples": count,
        "bytes_per_sample": raw_bytes / count,
        "compression_ratio": raw_bytes / stored,
        "of_zstd_bare": zstd_bytes / stored,
        "of_zstd_npy": npy_bytes / stored,
    }


def random_floats(repeats: int, seed: int) -> dict[str, Any]:
    """Measure the CPU time of the first 200 encodings of 1.3 MB that does not shrink, vs. the trials only."""
    array = np.random.default_rng(seed).standard_normal(320_000).astype(np.float32)
    entry = SmartLRUCache(max_size_bytes=10_000_000).encode({"x": array})
    assert entry is not None
    zstd = zstandard.ZstdCompressor(level=3)
    raw = array.tobytes()
    middle = (len(raw) - 65_536) // 2
    slices = [raw[:65_536], raw[middle : middle + 65_536], raw[-65_536:]]

    def encode(compress: bool) -> float:
        cache = SmartLRUCache(max_size_bytes=10_000_000)
        return cpu_time(lambda: [cache.encode({"x": array}, compress) for _ in range(200)])

    def trials() -> float:
        # The first three and every 64th.
        return cpu_time(lambda: [zstd.compress(piece) for _ in range(6) for piece in slices])

    runs = {"on": lambda: encode(True), "off": lambda: encode(False), "trials": trials}
    times = report.interleaved(repeats, runs)
    extra = [on - off for on, off in zip(times["on"], times["off"], strict=True)]
    return {
        "compression_ratio": array.nbytes / entry.nbytes,
        "us_per_encode": {name: report.median(values) / 200 * 1e6 for name, values in times.items()},
        "extra_over_trials": report.ratio(extra, times["trials"]),
    }


def cpu_time(function: Callable[[], Any]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def main() -> None:
    """Run every kind, print a table and one line of JSON."""
    parser = report.options(__doc__)
    parser.add_argument("--recordings", type=Path, default=RECORDINGS, help="a folder of *.json.zst")
    arguments = parser.parse_args()
    seed = arguments.seed
    figures: dict[str, Any] = {
        "token_ids_int64": measure(token_ids(np.int64, 200, seed)),
        "token_ids_uint16": measure(token_ids(np.uint16, 200, seed)),
        "mlm_masks": measure(mlm_masks(200, seed)),
        "segment_masks": measure(segment_masks(100, seed)),
        "text": measure(texts()),
        "json": measure(records(100, seed)),
        "recordings": measure(recordings(arguments.recordings)),
    }
    rows: list[list[Any]] = [["kind", "samples", "bytes each", "ratio", "of zstd -3 bare", "of zstd -3 .npy"]]
    rows += [[name, *map(float, figure.values())] for name, figure in figures.items()]
    figures["random_floats"] = floats = random_floats(arguments.repeats, seed)
    report.table("Stored size vs. zstd -3 per sample (above 1: smaller than zstd)", rows)
    extra = floats["extra_over_trials"]["median"]
    print(f"random floats: ratio {floats['compression_ratio']:.3f}, CPU time {extra:.2f}x that of the trials")
    report.emit("compression", figures, seed=seed)


if __name__ == "__main__":
    main()
