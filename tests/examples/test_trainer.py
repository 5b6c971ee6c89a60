"""The example trainer gives the same losses with plain PyTorch and with this library."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples"
STEPS = 14  # 24 samples in batches of 4: two epochs and a part of the third


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


def start_trainer(data: Path, loader: str, workers: int) -> subprocess.Popen[str]:
    settings = {"--data": data, "--loader": loader, "--workers": workers, "--steps": STEPS}
    return start("trainer.py", *(str(word) for pair in settings.items() for word in pair))


def summary(out: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


@pytest.fixture(scope="module", params=["grid", "tokens"])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 24 samples in one of the two layouts."""
    root = tmp_path_factory.mktemp(request.param)
    finish(start("make_latents.py", str(root), "--samples", "24", "--layout", request.param))
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_both_loaders_give_the_same_losses_to_the_last_bit(data: Path, workers: int) -> None:
    """Plain PyTorch and the adapter feed the trainer equal batches, in process and from two workers."""
    plain, streaming = (finish(start_trainer(data, loader, workers)) for loader in ("plain", "streaming"))
    assert plain.splitlines()[:-1] == streaming.splitlines()[:-1]
    losses = summary(streaming)["losses"]
    assert summary(plain)["losses"] == losses
    assert len(losses) == STEPS
    assert all(math.isfinite(loss) for loss in losses)
    assert len(set(losses)) == STEPS


def test_the_layouts_hold_the_same_values(tmp_path: Path) -> None:
    """Layout `tokens` is layout `grid` with rows in frame, height, width order, so both train alike."""
    processes = [start("make_latents.py", str(tmp_path / kind), "--layout", kind) for kind in ("grid", "tokens")]
    for process in processes:
        finish(process)
    name = ".precomputed/latents/clip_00/latent_0001.pt"
    grid, tokens = (torch.load(tmp_path / kind / name, weights_only=True) for kind in ("grid", "tokens"))
    channels, frames, height, width = grid["latents"].shape
    assert tokens["latents"].shape == (frames * height * width, channels)
    row = (1 * height + 2) * width + 3
    assert torch.equal(tokens["latents"][row], grid["latents"][:, 1, 2, 3])
    trainers = [start_trainer(tmp_path / kind, "plain", 0) for kind in ("grid", "tokens")]
    first, second = (summary(finish(process))["losses"] for process in trainers)
    assert first == second


def test_the_trainer_shows_two_changed_lines() -> None:
    """The trainer marks exactly the lines that a user changes, and both are about the adapter."""
    lines = (EXAMPLES / "trainer.py").read_text().splitlines()
    changed = [line for line in lines if "# changed line" in line]
    assert len(changed) == 2
    assert all("StreamingDatasetAdapter" in line for line in changed)
