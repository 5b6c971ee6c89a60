"""The example with two mirrors and a local source loses nothing when one mirror dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLES = 60


def run(script: str, *arguments: str | Path) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(REPOSITORY / "examples" / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_sample_comes_once_and_in_order(tmp_path: Path) -> None:
    """Half of the latents come from the mirror; each sample is read once, in the order of the seed."""
    run("make_latents.py", tmp_path, "--samples", str(SAMPLES))
    told = json.loads(run("multi_source/train.py", tmp_path, "--latency-ms", "1", "--step-ms", "1"))
    assert told["samples"] == told["fetched"] == SAMPLES
    assert told["order_unchanged"]
    assert told["primary_answers"] >= SAMPLES // 2
    assert told["mirror_requests"] >= 1
