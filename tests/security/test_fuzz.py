"""Half a minute of fuzzing for all parsers together; `make fuzz` takes ten minutes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.security.attack import ROOT, environment

SECONDS = float(os.environ.get("FUZZ_SECONDS", "30"))


@pytest.mark.timeout(4 * SECONDS + 240)
def test_parsers_give_a_value_or_an_error_of_ours() -> None:
    """What nearly is valid is read or refused, in bounded memory and time, by each parser in the list."""
    command = [sys.executable, "-m", "tests.security.fuzz", str(SECONDS)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
