"""Select objects by the globs `include` and `exclude` of a source.

A pattern without a slash is matched against the name of an object in any folder, one with a slash against its path from
the root: `*` and `?` stop at a slash, `**/` matches any folders, `[a-z]` and `[!a-z]` one character. A pattern that
ends in a slash matches everything below that folder. Case matters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from streaming.errors import ConfigError

__all__ = ["Selection", "check_globs", "selection"]

Selection = Callable[[str], str]
"""Function of a path: why it is left out, as in `streaming.telemetry.skipped_objects`; empty if it is not."""

_TOKENS: Final = re.compile(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)


def check_globs(value: object) -> tuple[str, ...]:
    """Return the patterns of a setting: one, or a list of them.

    Raises:
        ConfigError: the value is anything else, or a pattern is empty.
    """
    patterns = (value,) if isinstance(value, str) else value
    if not isinstance(patterns, list | tuple) or not all(isinstance(each, str) and each for each in patterns):
        raise ConfigError("must be a pattern such as '*.pt', or a list of patterns")
    try:
        _matcher(patterns)
    except re.error as exc:
        raise ConfigError(f"must be a pattern such as '*.pt', or a list of patterns: {exc.msg}") from exc
    return tuple(patterns)


@lru_cache(maxsize=256)
def selection(include: tuple[str, ...], exclude: tuple[str, ...]) -> Selection | None:
    """Return a function that says why a path is left out, or None if none is. `exclude` wins over `include`."""
    if not (include or exclude):
        return None
    is_included = _matcher(include) if include else None
    is_excluded = _matcher(exclude) if exclude else None

    def why(path: str) -> str:
        if is_excluded is not None and is_excluded(path):
            return "excluded"
        return "" if is_included is None or is_included(path) else "not_included"

    return why


def _matcher(patterns: Sequence[str]) -> Callable[[str], object]:
    return re.compile("|".join(f"(?:{_expression(pattern)})" for pattern in patterns), re.DOTALL).fullmatch


def _expression(pattern: str) -> str:
    if pattern.endswith("/"):
        pattern += "**"
    if "/" not in pattern:
        pattern = f"**/{pattern}"
    return "".join(map(_piece, _TOKENS.findall(pattern.removeprefix("/"))))


def _piece(token: str) -> str:
    if token == "**/":
        return "(?:.*/)?"
    if token == "**":
        return ".*"
    if token == "*":
        return "[^/]*"
    if token == "?":
        return "[^/]"
    if len(token) > 2:
        return f"(?!/)[{'^' if token[1] == '!' else ''}{_escaped(token[1:-1].removeprefix('!'))}]"
    return re.escape(token)


def _escaped(characters: str) -> str:
    """Escape the characters of a set; a range keeps its hyphen."""
    return re.sub(r"([\\\[\]^&~|])", r"\\\1", characters)
