"""Escape untrusted text for people to read: names of objects, labels, messages of servers.

A control character in a name can move the cursor, hide what was printed, or begin a line that looks like one of ours; a
bidi override shows a name backwards. Each is written as in a Python literal: `\\x1b`, `\\u202e`.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["CONTROL", "escaped", "escaped_lines"]

CONTROL: Final = (
    r"\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks, embeddings, overrides and isolates of bidi text
    r"\u2028\u2029"  # ends of lines and paragraphs
    r"\ud800-\udfff"  # bytes of a name that are not UTF-8, which no terminal takes
)
"""Characters that are escaped, as the inside of a character class of `re`."""

_CONTROL = re.compile(f"[{CONTROL}]")


def escaped(text: str) -> str:
    """Return `text` on one line and without control characters."""
    return _CONTROL.sub(_escape, text)


def escaped_lines(text: str) -> str:
    """Return `text` without control characters but with its lines, indented so that none looks like a new log entry."""
    return "\n    ".join(map(escaped, text.split("\n")))


def _escape(match: re.Match[str]) -> str:
    return ascii(match[0])[1:-1]
