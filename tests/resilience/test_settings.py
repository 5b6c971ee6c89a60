"""The constants: checked, and documented with their defaults."""

from __future__ import annotations

import dataclasses
import re

import pytest

import streaming.resilience
from streaming.errors import ConfigError
from streaming.resilience import ResilienceConfig


@pytest.mark.parametrize("field", dataclasses.fields(ResilienceConfig), ids=lambda field: field.name)
def test_each_default_is_documented(field: dataclasses.Field[object]) -> None:
    """The package's docstring says the default, and the class what it means."""
    if field.name != "replica_selection":
        stated = re.search(rf"`{field.name}` ([\d.]+)\b", streaming.resilience.__doc__ or "")
        assert stated is not None
        assert float(stated[1]) == field.default
    assert f"{field.name}:" in (ResilienceConfig.__doc__ or "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("deadline_s", 0),
        ("deadline_s", float("inf")),
        ("retry_ratio", 1.5),
        ("replica_selection", "random"),
        ("initial_concurrency", 4096),
        ("backoff_base_s", 9),
        ("hedge_share", "5 %"),
    ],
)
def test_a_bad_value_is_refused(name: str, value: object) -> None:
    """The error names the setting and the value."""
    with pytest.raises(ConfigError, match=f"{name}=.*{re.escape(str(value))}"):
        ResilienceConfig(**{name: value})  # type: ignore[arg-type]
