"""The library's log: lines of `event key=value ...`, without secrets, that programs can read back.

Every logger of the library comes from `get_logger`. Its filter runs only on records that are made, after the check of
the level, so a disabled level costs nothing extra. A message is a constant with `%` conversions, one for each value;
values that hold a space, a quotation mark or a control character are quoted, so a line stays one line and its pairs
stay apart. A record also carries its pairs as the dict `record.fields`, so no handler has to parse the text. In a
traceback, further lines of a message are indented and control characters are escaped. Events and their keys are listed
in `docs/reference/logs.md`.

The library adds no handlers: the program decides where lines go, by `logging` or, in a script, by `configure`.
"""

from __future__ import annotations

import json as json_text
import logging
import os
import re
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, TextIO

from streaming.core.escaping import CONTROL, escaped, escaped_lines
from streaming.core.masking import MASK, mask_options, mask_text
from streaming.errors import ConfigError

__all__ = ["ROOT", "configure", "get_logger", "parse"]

ROOT: Final = "streaming"
"""Name of the logger that is the parent of all of the library's."""

_CONVERSION = re.compile(r"%(?:\.\d)?[a-z]")
_NUMBER = re.compile(r"[-+]?(?:\d+(?P<fraction>\.\d+)?(?P<power>[eE][-+]?\d+)?)")
_PLAIN = re.compile(rf"[^\s\"'=\\{CONTROL}]+")
_LEFT_BY_JSON = re.compile(rf"[{CONTROL}\xa0]")
_PAIR = re.compile(r"(?P<key>[^\s=\"]+)=(?P<value>\"(?:[^\"\\]|\\.)*\"|[^\s\"]*)")
_CONSTANTS = {"True": True, "False": False, "None": None}


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module of the library, which lets no secret through: `get_logger(__name__)`.

    Handlers of this logger and of its parents get records whose message, arguments and traceback are masked. A record
    with an exception has its traceback as text (`exc_text`) and not the exception itself (`exc_info`).
    """
    logger = logging.getLogger(name)
    logger.addFilter(_FILTER)  # a logger keeps it once, however often it is added
    return logger


class _Masking(logging.Filter):
    """Masks and quotes what a record holds, in place, and adds its pairs as `fields`. Handles a record once."""

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "is_masked", False):
            return True
        record.is_masked = True
        if not record.args:
            record.msg = escaped(mask_text(str(record.msg)))
        args = record.args if isinstance(record.args, tuple) else (record.args,)  # logging unpacks a single mapping
        pairs, secret = _pairs_of(str(record.msg))
        if pairs and len(args) == len(secret):
            values = {key: _shown(value, secret[key]) for key, value in zip(secret, args, strict=True)}
            record.args = tuple(quoted(value) if isinstance(value, str) else value for value in values.values())
            numbers = {key: _value(pairs[key] % value) for key, value in values.items() if not isinstance(value, str)}
            record.fields = {**pairs, **values, **numbers}
        else:  # a message of the program's own
            record.msg, record.args = escaped(mask_text(_formatted(record))), ()
            record.fields = {"event": "message", "text": record.msg}
        if record.exc_info:
            record.exc_text = record.exc_text or _as_traceback(_full(record.exc_info)[1])
            record.exc_info = None
        record.exc_text = mask_text(record.exc_text) if record.exc_text else None
        record.stack_info = mask_text(record.stack_info) if record.stack_info else None
        return True


_FILTER = _Masking()


@lru_cache(maxsize=1024)
def _pairs_of(message: str) -> tuple[dict[str, Any], dict[str, bool]]:
    """Return the event and pairs of a message, and whether each key with a conversion names a secret (`token=%s`).

    Both are empty if it does not have the form of the library's messages.
    """
    try:
        pairs = parse(message)
    except ConfigError:
        return {}, {}
    keys = [key for key, value in pairs.items() if _CONVERSION.fullmatch(str(value))]
    return pairs, {key: not mask_text(f"{key}=stand1n").endswith("stand1n") for key in keys}


def _formatted(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # arguments that do not fit
        return f"{record.msg} {record.args}"


def _full(exc_info: Any) -> Any:
    return exc_info if isinstance(exc_info, tuple) else (type(exc_info), exc_info, exc_info.__traceback__)


def _as_traceback(error: BaseException | None) -> str | None:
    """Return the traceback of an error with its causes and contexts."""
    if error is None:
        return None
    found = traceback.TracebackException.from_exception(error)
    for each in _chained(found):
        each._str = escaped_lines(str(each._str))
        notes = each.__notes__ if isinstance(each.__notes__, list | tuple) else ()
        each.__notes__ = [f"    {escaped_lines(str(note))}" for note in notes]
    return "".join(found.format()).removesuffix("\n")


def _chained(found: Any) -> Iterator[Any]:
    waiting = [found]
    while waiting:
        each = waiting.pop()
        yield each
        waiting += filter(None, (each.__cause__, each.__context__, *(each.exceptions or ())))


def _shown(value: object, is_secret: bool) -> Any:
    """Return the value of a pair: numbers as they are, for `%d` and `%.1f`, everything else as masked text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, BaseException):
        value = f"{type(value).__name__}: {value}"
    elif isinstance(value, Mapping | list | tuple):
        value = mask_options(value)
    elif is_secret and isinstance(value, str):
        value = MASK
    return mask_text(str(value))


def quoted(text: str) -> str:
    """Return `text` as the value of a pair, with quotation marks and JSON's escapes where it needs them."""
    if _PLAIN.fullmatch(text) and not _NUMBER.fullmatch(text) and text not in _CONSTANTS:
        return text
    # Only what must be is escaped: other letters stay readable, and names that are not UTF-8 do not break it.
    shown = json_text.dumps(text, ensure_ascii=False)
    return _LEFT_BY_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", shown)


def parse(line: str) -> dict[str, Any]:
    """Return the pairs of a line of the log, with its first word as `event`; numbers, booleans and None as such.

    Takes messages (`event key=value ...`) and lines as `configure` writes them.

    Raises:
        ConfigError: if it is not such a line.
    """
    pairs: dict[str, Any] = {}
    head, _, rest = line.strip().partition(" ")
    if "=" in head:
        rest = line.strip()
    else:
        pairs["event"] = head
    at = 0
    while at < len(rest):
        match = _PAIR.match(rest, at)
        if match is None or rest[match.end() : match.end() + 1] not in ("", " "):
            raise ConfigError(
                f"{line!r} is not a line of the log: no key=value at character {len(line) - len(rest) + at}"
            )
        pairs[match["key"]] = _value(match["value"])
        at = match.end() + 1
    if not pairs.get("event"):
        raise ConfigError(f"{line!r} is not a line of the log: it names no event")
    return pairs


def _value(text: str) -> Any:
    if text.startswith('"'):
        return json_text.loads(text)
    match = _NUMBER.fullmatch(text)
    if match is None:
        return _CONSTANTS.get(text, text)
    return float(text) if match["fraction"] or match["power"] else int(text)


class _Lines(logging.Formatter):
    """Formats each record as one line of pairs or as a JSON object.

    Args:
        as_json: whether lines are JSON.
        rank: rank of this process, or None.
    """

    def __init__(self, as_json: bool, rank: str | None) -> None:
        super().__init__()
        self._as_json = as_json
        self._rank = rank

    def format(self, record: logging.LogRecord) -> str:
        pairs: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **({} if self._rank is None else {"rank": self._rank}),
            **record.fields,  # type: ignore[attr-defined]  # set by the filter
        }
        if record.exc_text:
            pairs["exception"] = record.exc_text
        if self._as_json:
            return json_text.dumps(pairs)
        return " ".join(f"{key}={quoted(v) if isinstance(v, str) else v}" for key, v in pairs.items())


def configure(level: int | str = "INFO", json: bool = False, stream: TextIO | None = None) -> logging.Handler:
    """Write the library's log, for scripts that do not set up `logging` themselves.

    Calling it again replaces the earlier set-up. The handlers of the root logger then no longer get these records.

    Args:
        level: a name or number of `logging`.
        json: write one JSON object per line instead of `key=value` pairs.
        stream: where to write; None is stderr.

    Returns:
        The handler, so that you can remove it from `logging.getLogger("streaming")`.

    Raises:
        ConfigError: if the level does not exist.
    """
    logger = logging.getLogger(ROOT)
    try:
        logger.setLevel(level.upper() if isinstance(level, str) else level)
    except (TypeError, ValueError) as exc:
        raise ConfigError(f"level={level!r}: give DEBUG, INFO, WARNING, ERROR or CRITICAL") from exc
    for old in [each for each in logger.handlers if isinstance(each.formatter, _Lines)]:
        logger.removeHandler(old)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Lines(json, os.environ.get("RANK")))
    handler.addFilter(_FILTER)
    logger.addHandler(handler)
    logger.propagate = False
    return handler
