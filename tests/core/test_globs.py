"""Patterns select paths, and bad patterns are refused."""

from __future__ import annotations

from typing import Any

import pytest

from streaming.core.globs import selection
from streaming.core.source_config import DataSourceConfig
from streaming.errors import ConfigError
from streaming.testing import MemorySource


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("*.pt", ["a.pt", "x/y/a.pt", ".pt", "x/.a.pt", "a\nb.pt"], ["a.pt.zst", "a.PT", "a.pt/b", "apt"]),
        (
            "metadata.json",
            ["metadata.json", "x/metadata.json"],
            ["my-info.json", "info.json/x", "info_json"],
        ),
        ("/metadata.json", ["metadata.json"], ["x/metadata.json"]),
        ("x/*.pt", ["x/a.pt"], ["a.pt", "x/y/a.pt", "w/x/a.pt"]),
        ("x/**/*.pt", ["x/a.pt", "x/y/z/a.pt"], ["a.pt", "xx/a.pt"]),
        ("**/x/*", ["x/a", "w/x/a"], ["x", "wx/a", "x/y/a"]),
        ("x/", ["x/a", "x/y/a"], ["x", "w/x/a"]),
        ("x/**", ["x/a", "x/y/a"], ["x"]),
        ("?.pt", ["a.pt", "x/b.pt"], ["ab.pt", ".pt"]),
        ("[a-c]1[!0-9].pt", ["b1x.pt"], ["d1x.pt", "b12.pt", "b1/.pt"]),
        ("[]^\\].pt", ["].pt", "^.pt", "\\.pt"], ["a.pt", "].pt.pt"]),
        ("a[1.pt", ["a[1.pt"], ["a1.pt"]),
        ("a+(b)|c", ["a+(b)|c"], ["aab", "c"]),
    ],
)
def test_what_a_pattern_selects(pattern: str, matching: list[str], other: list[str]) -> None:
    """A pattern is one for include and one for exclude alike."""
    for path in [*matching, *other]:
        included, excluded = selection((pattern,), ()), selection((), (pattern,))
        assert included is not None
        assert excluded is not None
        is_match = path in matching
        assert (included(path), excluded(path)) == (("", "excluded") if is_match else ("not_included", "")), path


def test_exclude_wins_and_nothing_given_selects_all() -> None:
    """A path that both name is left out; several patterns are alternatives."""
    why = selection(("*.pt", "*.json"), ("metadata.*",))
    assert why is not None
    assert [why(path) for path in ("a.pt", "a.json", "metadata.json", "a.txt")] == ["", "", "excluded", "not_included"]
    assert selection((), ()) is None


@pytest.mark.parametrize("value", [[""], "", [1], 7, {"a": 1}, None, "[z-a]"])
@pytest.mark.parametrize("setting", ["include", "exclude"])
def test_bad_patterns_are_refused(setting: str, value: Any) -> None:
    """The message holds the setting and the value."""
    with pytest.raises(ConfigError, match=rf"{setting}.*must be a pattern"):
        DataSourceConfig("data", "local", "/data", **{setting: value})


def test_patterns_of_a_mirror_are_refused() -> None:
    """Mirrors hold the same objects, so they are selected by the source's patterns."""
    mirror = {"path": "/other", "exclude": "*.txt"}
    with pytest.raises(ConfigError, match="include and exclude belong to the source"):
        DataSourceConfig("data", "local", "/data", mirrors=[mirror])


async def test_list_files_lists_what_is_selected() -> None:
    """One pattern may be given as text; reading by name is as before."""
    config = DataSourceConfig("data", "memory", "memory://data", include=["*.pt", "*.json"], exclude="metadata.json")
    source = MemorySource(config, {"x/a.pt": b"1", "metadata.json": b"2", "b.txt": b"3", "b.json": b"4"})
    assert await source.list_files() == ["b.json", "x/a.pt"]
    assert await source.list_files("x") == ["x/a.pt"]
    assert (await source.read("metadata.json")).data == b"2"
