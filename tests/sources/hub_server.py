"""A Hub to read from: the stand-in of `tests/services`, whose repositories a test fills by commits."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import INSTALLED, SERVICES
from tests.loopback import held_ports


@dataclass(frozen=True)
class Hub:
    """A running stand-in: `url` is its endpoint, `folder` is where it keeps its data."""

    url: str
    folder: Path

    def commit(self, repo: str, files: Mapping[str, bytes | None]) -> str:
        """Commit files to a data set, which is created if missing (None removes a file), and return the commit."""
        root = self.folder / "mirror" / "datasets" / repo
        for path, data in files.items():
            target = root / path
            if data is None:
                target.unlink()
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        command = [sys.executable, "-I", str(SERVICES / "hub_publish.py"), str(self.folder), repo]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def running_hub(folder: Path) -> Iterator[Hub]:
    """Start a stand-in without repositories at free ports of loopback, and end it.

    Args:
        folder: an empty folder of its own.
    """
    (folder / "repos").mkdir()
    environment = {**os.environ, "HF_REPOS": str(folder / "repos"), "VENV": str(INSTALLED / "hub")}
    with held_ports(2) as (port, upstream):
        environment["OLAH_PORT"] = str(upstream)
        command = ["bash", str(SERVICES / "start-hfhub.sh"), str(folder), str(port)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            yield Hub(f"http://127.0.0.1:{port}", folder)
        finally:
            subprocess.run(["bash", str(SERVICES / "stop.sh"), str(folder)], check=True)
