"""Where a server that tests need is not installed, those tests are not run, and the last lines say so."""

from __future__ import annotations

import shutil

import pytest

REASON = "nginx is not installed; `make test` installs it by apt where it may, or do: apt-get install nginx-light curl"


def _has_nginx() -> bool:
    return shutil.which("nginx") is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what asks for nginx where there is none."""
    if _has_nginx():
        return
    left_out = [item for item in items if "nginx" in getattr(item, "fixturenames", ())]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was not run, and why."""
    if not _has_nginx():
        terminalreporter.write_sep("=", "NOT RUN: the tests of HTTP against a real server", yellow=True)
        terminalreporter.write_line(REASON)
