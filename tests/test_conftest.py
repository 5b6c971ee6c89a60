"""The root's conftest.py enables SIGINT for every test, as in a terminal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

INTERRUPTED = """
import signal, subprocess, sys

def test_own():
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

def test_of_a_child():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('continues')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT, done
"""


def test_sigint_ends_children_also_in_the_background(tmp_path: Path) -> None:
    """A shell starts a background job with SIGINT ignored, and children inherit it; children of tests do not."""
    (tmp_path / "test_it.py").write_text(INTERRUPTED)
    pytest = f"'{sys.executable}' -m pytest -p conftest -p no:cacheprovider -n 2 '{tmp_path}'"
    done = subprocess.run(["sh", "-c", f"{pytest} & wait $!"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
