"""Estimate the memory that the values of a JSON text take, before they are made.

The costs were measured with CPython 3.11 and tracemalloc, at the peak: a list or dict that grows holds the old and the
new memory at once. Repeated keys are counted each time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from streaming.codecs.limits import max_cost
from streaming.errors import ObjectTooLargeError

__all__ = ["check_cost", "without_strings"]

_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
# Up to a thousand strings with the text before them: removing all at once takes many times the memory of the text.
_SEGMENT = re.compile(rf'(?:[^"]*+{_STRING.pattern}){{1,1000}}+|[^"]++', re.DOTALL)

# `[[[...]]]` takes 48 bytes for each character, and a line 8 more.
_MAX_PER_CHARACTER = 64
_LIST, _EMPTY_LIST = 96, 64
_DICT, _EMPTY_DICT = 192, 72  # with one entry, and with none
_ITEM = 18
_ENTRY = 80
_NUMBER = 32
_TEXT = 64
_LINE = 82  # the text of a line, and its place in two lists


def check_cost(text: str, max_bytes: int, *, is_lines: bool = False) -> None:
    """Raise ObjectTooLargeError if the values of `text` take more than the limit. A small text is not scanned.

    Args:
        text: a document, well-formed or not.
        max_bytes: the limit, before the allowance.
        is_lines: whether each line is a document, and copied first.
    """
    if len(text) * _MAX_PER_CHARACTER <= max_cost(max_bytes):
        return
    cost = _cost(text) + (_lines_cost(text) if is_lines else 0)
    if cost > max_cost(max_bytes):
        raise ObjectTooLargeError(f"holds values that take {cost:,} bytes in memory, the limit is {max_bytes:,}")


def without_strings(text: str) -> Iterator[str]:
    """Yield the text between its strings, in pieces."""
    for segment in _SEGMENT.finditer(text):
        yield _STRING.sub("", segment[0])


def _cost(text: str) -> int:
    is_narrow = _width(text) == 1
    lists = empty_lists = dicts = empty_dicts = items = entries = texts = characters = 0
    for segment in _SEGMENT.finditer(text):
        bare, found = _STRING.subn("", segment[0])
        texts += found
        lists += bare.count("[")
        empty_lists += bare.count("[]")
        dicts += bare.count("{")
        empty_dicts += bare.count("{}")
        items += bare.count(",") + bare.count("\n")
        entries += bare.count(":")
        if is_narrow:
            characters += len(segment[0]) - len(bare)
        else:
            characters += sum(_width(string[0]) * len(string[0]) for string in _STRING.finditer(segment[0]))
    # Every item and entry that is not a text, an empty list or an empty dict is counted as a number.
    numbers = max(0, 1 + items + entries - texts - empty_lists - empty_dicts)
    return (
        _LIST * (lists - empty_lists)
        + _EMPTY_LIST * empty_lists
        + _DICT * (dicts - empty_dicts)
        + _EMPTY_DICT * empty_dicts
        + _ITEM * items
        + _ENTRY * max(0, entries - dicts + empty_dicts)
        + _NUMBER * numbers
        + _TEXT * texts
        + characters
    )


def _width(text: str) -> int:
    """Return the largest number of bytes of a character in the strings of `text`."""
    return 1 if text.isascii() and "\\u" not in text else 4


def _lines_cost(text: str) -> int:
    return _LINE * text.count("\n") + (1 if text.isascii() else 4) * len(text)
