"""The numbers of a process: memory, its limit, and what runs."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import streaming
from streaming.monitoring.metrics.process_metrics import ProcessReader


def test_the_process_reports_its_versions() -> None:
    """Versions of the library, Python and torch; memory in use is below its limit on a machine like this."""
    reading = ProcessReader(lambda: 12.5).metrics_snapshot()
    [(library, python, torch_version)] = reading["build_info"]
    assert (library, python) == (streaming.__version__, platform.python_version())
    assert torch_version == torch.__version__
    assert reading["start_time_seconds"] == {(): 12.5}
    assert 0 < reading["process_resident_memory_bytes"][("trainer",)] < reading["process_memory_limit_bytes"][()]


def install_torch(site: Path, number: str) -> None:
    """Write the metadata that pip leaves in `site` for a torch with this version."""
    (site / f"torch-{number}.dist-info").mkdir()
    (site / f"torch-{number}.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: torch\nVersion: {number}\n"
    )


@pytest.mark.parametrize("number", ["2.13.0", "2.13.0+cu130", "2.13.0+cpu", "2.14.0a0+git1234567"])
def test_the_build_of_torch_is_the_one_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    """Packages from PyPI leave out in their metadata what the build is for: `2.13.0`, of a torch that says `+cu130`."""
    install_torch(tmp_path, number)
    monkeypatch.syspath_prepend(tmp_path)
    assert version("torch") == number
    [(_, _, torch_version)] = ProcessReader().metrics_snapshot()["build_info"]
    assert torch_version == torch.__version__


def test_a_process_without_torch_reports_the_installed_version(tmp_path: Path) -> None:
    """Metrics do not import torch, whose import takes a second, only to say its version."""
    install_torch(tmp_path, "2.99.0")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from streaming.monitoring.metrics.process_metrics import ProcessReader\n"
        "[(_, _, number)] = ProcessReader().metrics_snapshot()['build_info']\n"
        "print(number, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2.99.0", "False"]
