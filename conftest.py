"""Hooks for all tests: leave out and report tests without their server; set one seed; enable SIGINT; measure forks."""

from __future__ import annotations

import os
import random
import runpy
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest_plugins = ["tests.time_limit"]

INSTALLED = Path(sys.prefix) / "services"
"""Folder in which `make services` installs servers that are Python packages."""


def _has(*commands: str) -> bool:
    return all(shutil.which(command) is not None for command in commands)


def _is_ready(name: str) -> bool:
    return (INSTALLED / name / ".ready").exists()


NEEDED: dict[str, tuple[str, Callable[[], bool]]] = {
    "nginx": ("HTTP against nginx", lambda: _has("nginx", "curl")),
    "s3": ("S3 against Ceph's gateway", lambda: _has("radosgw", "ceph-osd", "ceph-mon", "curl")),
    "gcs": ("GCS against fake-gcs-server", lambda: _has("curl") and _is_ready("gcs")),
    "hub": ("the Hub against its stand-in", lambda: _has("nginx", "git", "curl") and _is_ready("hub")),
    "faultproxy": ("faults of HAProxy before nginx", lambda: _has("haproxy", "nginx", "curl")),
    "prometheus": (
        "metrics and alerts against Prometheus",
        lambda: _has("prometheus", "prometheus-alertmanager", "promtool", "amtool", "curl"),
    ),
    "amtool": ("routes of alerts with amtool", lambda: _has("amtool")),
    "promtool": ("rules of alerts with promtool", lambda: _has("promtool")),
    "pushgateway": ("metrics pushed to a gateway", lambda: _has("prometheus-pushgateway", "curl")),
}
"""For each fixture, the tests that need it and a function that says whether its server is installed."""


MEASURED = Path(__file__).parent / "tests" / "measured"
"""Folder of the hook for coverage that this process runs here, and that processes started by tests import."""

if "COVERAGE_PROCESS_CONFIG" in os.environ and str(MEASURED) not in os.environ.get("PYTHONPATH", ""):
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(MEASURED), os.environ.get("PYTHONPATH")]))
    runpy.run_path(str(MEASURED / "sitecustomize.py"))


def _missing() -> dict[str, str]:
    return {fixture: what for fixture, (what, is_installed) in NEEDED.items() if not is_installed()}


def pytest_configure() -> None:
    """Choose the seed of tests that interrupt runs at random places; the workers of xdist inherit it."""
    os.environ.setdefault("STREAMING_CUTS_SEED", str(random.SystemRandom().randrange(2**32)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that need a missing server."""
    missing = _missing()
    left_out = [item for item in items if missing.keys() & set(getattr(item, "fixturenames", ()))]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Let SIGINT interrupt this process and the processes that it starts, also when the tests run in the background.

    A shell starts a background job with SIGINT ignored, and every process below inherits that. The process that only
    distributes tests to the workers of xdist still ignores it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the seed of the interrupted runs, and which tests were not run and why."""
    terminalreporter.write_line(f"STREAMING_CUTS_SEED={os.environ['STREAMING_CUTS_SEED']}")
    for what in _missing().values():
        terminalreporter.write_sep("=", f"NOT RUN: the tests of {what}", yellow=True)
    if _missing():
        terminalreporter.write_line("`make services` installs the servers: it needs apt, root, and PyPI.")
