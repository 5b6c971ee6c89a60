"""Texts generated from the models of the settings: the reference, and docstrings of classes that take them.

To write the reference: `python -m streaming.core.config_reference docs/reference/settings.md`.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic.fields import FieldInfo

from streaming.core.adapter_config import DEFAULT_MAPPING, AdapterConfig
from streaming.core.config_model import Settings
from streaming.core.source_config import SOURCE_ALIASES, SOURCE_TYPES, DataSourceConfig

__all__ = ["documents_settings", "main", "markdown"]

T = TypeVar("T")

_HEAD = """\
# Settings

<!-- Made by `python -m streaming.core.config_reference docs/reference/settings.md`; a test says when it is stale. -->

Settings have the same names as keyword arguments, in a dict, and in a YAML or JSON file. Sizes may be written "8GB" or
"8GiB", times "250ms", "10m" or "1h30m". An unknown name is refused with the nearest valid one, a value that cannot be
used with the reason. The guide says what each is for: see
[options of the adapter](../../INTEGRATION_GUIDE.md#options-of-the-adapter).
"""


def documents_settings(model: type[Settings]) -> Callable[[type[T]], type[T]]:
    """Return a decorator that adds the settings of a model to the "Args" of a class that takes them by name."""
    wrapper = textwrap.TextWrapper(120, " " * 8, " " * 12, break_on_hyphens=False)
    entries = [wrapper.fill(f"{name}: {field.description}.") for name, field in model.model_fields.items()]

    def add(kind: type[T]) -> type[T]:
        before, heading, after = (kind.__doc__ or "").partition("    Args:\n")
        if heading:  # not under python -OO
            kind.__doc__ = "\n".join([before + heading.rstrip(), *entries, after])
        return kind

    return add


def markdown() -> str:
    """Return the text of the reference."""
    parts = [_HEAD, *_table("Adapter", AdapterConfig), *_table("Source", DataSourceConfig), *_names()]
    return "\n".join(parts) + "\n"


def _table(title: str, model: type[Settings]) -> Iterator[str]:
    yield from (f"## {title}", "", "| Setting | Default | Meaning |", "| --- | --- | --- |")
    for name, field in model.model_fields.items():
        yield f"| `{name}` | {_default(field)} | {(field.description or '').replace('|', ',')} |"
    yield ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    return f'`"{value}"`' if isinstance(value, str) else f"`{value:_}`" if type(value) is int else f"`{value}`"


def _names() -> Iterator[str]:
    yield from ("## Names", "", "| What | Names |", "| --- | --- |")
    for kind in dict.fromkeys(SOURCE_TYPES.values()):
        words = [f"`{word}`" for word, means in SOURCE_TYPES.items() if means == kind]
        yield f"| type of source, and scheme of its URLs: {kind} | {' '.join(words)} |"
    for name in dict.fromkeys(SOURCE_ALIASES.values()):
        words = [f"`{word}`" for word, means in SOURCE_ALIASES.items() if means == name]
        yield f"| short for `{name}` in a dict or file | {' '.join(words)} |"
    for part, key in DEFAULT_MAPPING.items():
        yield f"| key of the part `{part}` without `data_mapping` | `{key}` |"


def main(arguments: list[str]) -> int:
    """Write the reference to the file named by the arguments; return 2 if there is none."""
    if len(arguments) != 1:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    Path(arguments[0]).write_text(markdown(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
