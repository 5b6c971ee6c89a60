"""How soon after the imports does the first batch arrive, with a warm index?

A fresh process each time: 10,000 local files, saved index, adapter, look-ahead, batch of 64. The clock starts when the
imports are done.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import report

CHILD = """
import json, sys, time
import torch
from torch.utils.data import DataLoader, RandomSampler
from streaming.adapter import StreamingDatasetAdapter

started = time.perf_counter()
adapter = StreamingDatasetAdapter({"name": "data", "type": "local", "path": sys.argv[1]}, index_path=sys.argv[2])
sampler = adapter.look_ahead(RandomSampler(adapter))
batch = next(iter(DataLoader(adapter, batch_size=64, sampler=sampler)))
assert len(batch["idx"]) == 64
print(json.dumps(time.perf_counter() - started))
"""
FILES = 10_000


def main() -> None:
    """Run everything and print a table and one line of JSON."""
    parser = report.options(__doc__, repeats=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "data")
        root.mkdir()
        for i in range(FILES):
            (root / f"{i:05d}.npy").write_bytes(npy_bytes(i))
        command = [sys.executable, "-c", CHILD, str(root), str(Path(folder, "index"))]

        def first_batch() -> float:
            return float(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))

        cold = first_batch()
        seconds = report.interleaved(arguments.repeats, {"warm": first_batch})["warm"]
    figures = {
        "files": FILES,
        "first_batch_seconds_without_index": cold,
        "first_batch_seconds": report.median(seconds),
        "first_batch_seconds_max": max(seconds),
    }
    report.emit("first_batch", figures, seed=arguments.seed)


def npy_bytes(seed: int) -> bytes:
    """Return one `.npy` object of 20 kB."""
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, np.random.default_rng(seed).standard_normal(2500))
    return buffer.getvalue()


if __name__ == "__main__":
    main()
