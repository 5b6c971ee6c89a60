"""What the objects of a JSON text take in memory, before the first of them is made.

The cost of each kind was measured with CPython 3.11 by tracemalloc, at its peak: a list that grows, and a dict that is
resized, hold the old memory and the new at once. Keys count as if none were repeated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from streaming.codecs.limits import most_cost
from streaming.errors import ObjectTooLargeError

__all__ = ["check_cost", "without_strings"]

_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
# Up to a thousand strings with what is before them: to remove all of a text at once takes many times its memory.
_SEGMENT = re.compile(rf'(?:[^"]*+{_STRING.pattern}){{1,1000}}+|[^"]++', re.DOTALL)

# `[[[...]]]` takes 48 bytes for each character, and a line 8 more.
_MOST_PER_CHARACTER = 64
_LIST, _EMPTY_LIST = 96, 64
_DICT, _EMPTY_DICT = 192, 72  # with one entry, and with none
_ITEM = 18
_ENTRY = 80
_NUMBER = 32
_TEXT = 64
_LINE = 82  # the text of a line, and its place in two lists


def check_cost(text: str, max_bytes: int, *, is_lines: bool = False) -> None:
    """Raises ObjectTooLargeError if what `text` stands for takes more than the limit. A small text is not looked at.

    Args:
        text: a document, well-formed or not.
        max_bytes: the limit; an allowance is added.
        is_lines: whether each line is a document, and copied first.
    """
    if len(text) * _MOST_PER_CHARACTER <= most_cost(max_bytes):
        return
    cost = _cost(text) + (_lines_cost(text) if is_lines else 0)
    if cost > most_cost(max_bytes):
        raise ObjectTooLargeError(f"holds values that take {cost:,} bytes in memory, the limit is {max_bytes:,}")


def without_strings(text: str) -> Iterator[str]:
    """The text between its strings, in pieces."""
    for segment in _SEGMENT.finditer(text):
        yield _STRING.sub("", segment[0])


def _cost(text: str) -> int:
    is_narrow = _width(text) == 1
    lists = no_lists = dicts = no_dicts = items = entries = texts = characters = 0
    for segment in _SEGMENT.finditer(text):
        bare, found = _STRING.subn("", segment[0])
        texts += found
        lists += bare.count("[")
        no_lists += bare.count("[]")
        dicts += bare.count("{")
        no_dicts += bare.count("{}")
        items += bare.count(",") + bare.count("\n")
        entries += bare.count(":")
        if is_narrow:
            characters += len(segment[0]) - len(bare)
        else:
            characters += sum(_width(string[0]) * len(string[0]) for string in _STRING.finditer(segment[0]))
    # Each place in a list, and each entry, holds a number if neither a text nor nothing.
    numbers = max(0, 1 + items + entries - texts - no_lists - no_dicts)
    return (
        _LIST * (lists - no_lists)
        + _EMPTY_LIST * no_lists
        + _DICT * (dicts - no_dicts)
        + _EMPTY_DICT * no_dicts
        + _ITEM * items
        + _ENTRY * max(0, entries - dicts + no_dicts)
        + _NUMBER * numbers
        + _TEXT * texts
        + characters
    )


def _width(text: str) -> int:
    """Bytes of a character in the strings that `text` stands for, at most."""
    return 1 if text.isascii() and "\\u" not in text else 4


def _lines_cost(text: str) -> int:
    return _LINE * text.count("\n") + (1 if text.isascii() else 4) * len(text)
