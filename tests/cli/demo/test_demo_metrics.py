"""The demo that runs until it is stopped, and its metrics meanwhile."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

SHIPPED = Path(__file__).resolve().parents[3] / "examples" / "data"


def test_endless_demo_serves_and_writes_its_metrics_until_stopped(tmp_path: Path) -> None:
    """With --loop it trains on and on; its server and its file say what the trainer waited; SIGTERM ends it."""
    target = tmp_path / "rank.prom"
    command = [sys.executable, "-m", "streaming.cli", "demo", "--data", str(SHIPPED), "--latency-ms", "1", "--loop"]
    command += ["--step-ms", "5", "--metrics-port", "0", "--metrics-file", str(target)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            found = re.search(r"metrics at (http://127\.0\.0\.1:\d+)/metrics", process.stderr.readline())
            assert found is not None
            assert any(line.split()[0] == "3" for line in process.stdout)
            with urllib.request.urlopen(f"{found[1]}/metrics", timeout=60) as answer:
                text = answer.read().decode()
            with urllib.request.urlopen(f"{found[1]}/healthz", timeout=60) as answer:
                assert answer.status == 200
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    assert process.returncode == 143
    served = {family.name: family.samples for family in text_string_to_metric_families(text)}
    [steps] = served["streaming_trainer_steps"]
    [busy] = served["streaming_trainer_busy_seconds"]
    assert busy.value >= 0.004 * steps.value > 0
    assert {sample.labels["stage"] for sample in served["streaming_trainer_wait_seconds"]} >= {"source", "collate"}
    written = {family.name: family.samples for family in text_string_to_metric_families(target.read_text())}
    assert written["streaming_trainer_steps"][0].value >= steps.value
