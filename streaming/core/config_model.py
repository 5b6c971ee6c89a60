"""Base of all settings: frozen; an error names the value, its meaning and the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from streaming.core.masking import mask_options, mask_secrets
from streaming.core.units import parse_duration, parse_size
from streaming.errors import ConfigError

__all__ = ["Seconds", "Settings", "Size", "is_near", "suggest"]

Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
Seconds = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]


def suggest(name: object, known: Iterable[str]) -> str:
    """Return the hint of an error about an unknown `name`: the nearest of the `known` names, or all of them."""
    names = sorted(known)
    near = _nearest(name, names)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"


def is_near(name: object, known: Iterable[str]) -> bool:
    """Whether `name` looks like one of the `known` names, misspelt."""
    return bool(_nearest(name, sorted(known)))


def _nearest(name: object, names: list[str]) -> list[str]:
    return difflib.get_close_matches(str(name), names, n=1)


class Settings(BaseModel):
    """Frozen settings that refuse unknown names and bad values, always by a `ConfigError`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as exc:
            # Not chained: pydantic's own text would show the values, secrets included.
            raise ConfigError(_explain(exc, type(self))) from None

    @classmethod
    def setting_names(cls) -> list[str]:
        """Return the names of the settings."""
        return list(cls.model_fields)


def _explain(exc: ValidationError, model: type[Settings]) -> str:
    return "; ".join(_explain_one(dict(error), model) for error in exc.errors(include_url=False))


def _explain_one(error: dict[str, Any], model: type[Settings]) -> str:
    place, setting = ".".join(map(str, error["loc"])), str(error["loc"][0]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        return f"unknown setting {place!r}: {suggest(place, model.setting_names())}"
    if error["type"] == "missing":
        return f"{place} is missing: {_description(model, setting)}"
    cause = error.get("ctx", {}).get("error")
    reason = mask_secrets(str(cause) if isinstance(cause, ConfigError) else error["msg"])
    if setting in ("sources", "mirrors"):  # not shown whole: a nested source may hold secrets
        return f"{place}: {reason}" if cause else f"{place}: {reason} ({_description(model, setting)})"
    return f"{place}={_shown(setting, error['input'])} cannot be used: {reason} ({_description(model, setting)})"


def _description(model: type[Settings], setting: str) -> str:
    field = model.model_fields.get(setting)
    return (field.description if field else None) or "see the reference of settings"


def _shown(setting: str, value: object) -> str:
    if setting in ("credentials", "storage_options"):
        return "***"
    text = mask_secrets(repr(mask_options(value)))
    return text if len(text) <= 200 else f"{text[:200]}..."
