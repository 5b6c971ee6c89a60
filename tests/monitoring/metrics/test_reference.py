"""The reference of all metrics is the list of families, and its names are what the package offers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from streaming.monitoring import metrics
from streaming.monitoring.metrics.families import FAMILIES, GROUPS, VALUES
from streaming.monitoring.metrics.reference import main, markdown

REPOSITORY = Path(__file__).resolve().parents[3]
REFERENCE = REPOSITORY / "docs" / "reference" / "metrics.md"


def test_the_reference_is_fresh() -> None:
    """Otherwise write it again: python -m streaming.monitoring.metrics.reference docs/reference/metrics.md"""
    assert REFERENCE.read_text() == markdown()


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To the one file that is named; otherwise it says how."""
    assert main([str(tmp_path / "metrics.md")]) == 0
    assert (tmp_path / "metrics.md").read_text() == markdown()
    assert main([]) == 2
    assert "python -m streaming.monitoring.metrics.reference" in capsys.readouterr().err


def test_every_family_has_a_row() -> None:
    """Each is once in the reference, as it is exposed."""
    rows = [line.split("|")[1].strip() for line in markdown().splitlines() if line.startswith("| `streaming_")]
    assert rows == [f"`{family.name}`" for family in FAMILIES]


def test_the_list_of_families_is_sound() -> None:
    """Names are unique and fit their kind; labels are names or have a list of their values; help is a sentence."""
    assert len({family.name for family in FAMILIES}) == len(FAMILIES) == sum(map(len, GROUPS.values()))
    for family in FAMILIES:
        assert family.kind in ("counter", "gauge", "histogram")
        assert family.help.endswith(".")
        known = {"dataset", "source", "version", "python", "torch", *VALUES}
        assert set(family.labels) <= known, family.key


def test_all_public_names_are_there() -> None:
    """The package gives each name, lists it, and refuses others."""
    for name in metrics.__all__:
        assert getattr(metrics, name).__name__ == name
    assert set(metrics.__all__) <= set(dir(metrics))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = metrics.no_such_name  # type: ignore[attr-defined]


def test_importing_the_package_is_light() -> None:
    """The list of families costs neither torch nor a client for metrics."""
    heavy = {"torch", "prometheus_client", "numpy"}
    code = f"import streaming.monitoring.metrics.families, sys; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout == "set()\n"
