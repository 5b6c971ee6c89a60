"""What the library logs: lines of `event key=value ...`, without secrets, that programs can read back.

Every logger of the library comes from `get_logger`. Its filter runs on records that are really made, after the check of
the level, so that a disabled level costs what it costs without it. A message is a constant with `%` conversions;
values that hold a space, a quotation mark or a control character are quoted, so that a line stays one line and its
pairs stay apart. In a traceback, further lines of a message are indented, and control characters escaped. Events and
their keys are listed in `docs/reference/logs.md`.

No handlers are added: where lines go is for the program to say, by `logging` or, in a script, by `configure`.
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
"""The name of the logger above all of the library's."""

_CONVERSION = re.compile(r"%(?!%)[-+ #0]*[\d*]*(?:\.[\d*]+)?[a-zA-Z]")
_NUMBER = re.compile(r"[-+]?(?:\d+(?P<fraction>\.\d+)?(?P<power>[eE][-+]?\d+)?)")
_PLAIN = re.compile(rf"[^\s\"'=\\{CONTROL}]+")
_LEFT_BY_JSON = re.compile(rf"[{CONTROL}\xa0]")
_PAIR = re.compile(r"(?P<key>[^\s=\"]+)=(?P<value>\"(?:[^\"\\]|\\.)*\"|[^\s\"]*)")
_CONSTANTS = {"True": True, "False": False, "None": None}


def get_logger(name: str) -> logging.Logger:
    """The logger of a module of the library, which lets no secret through: `get_logger(__name__)`.

    Handlers, wherever they are added, get records whose message, arguments and traceback are masked. A record with an
    exception has its traceback as text (`exc_text`) and not the exception itself (`exc_info`).
    """
    logger = logging.getLogger(name)
    logger.addFilter(_FILTER)  # which the logger has once, however often it is added
    return logger


class _Masking(logging.Filter):
    """Masks and quotes what a record holds, in place; handles a record once."""

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "is_masked", False):
            return True
        record.is_masked = True
        if isinstance(record.args, Mapping):
            shown: Any = mask_options(record.args)
            record.args = {
                key: value if isinstance(value, int | float) else _argument(shown[key])
                for key, value in record.args.items()
            }
        elif record.args:
            hidden = _hides(str(record.msg))
            record.args = tuple(
                MASK if number < len(hidden) and hidden[number] and isinstance(value, str) else _argument(value)
                for number, value in enumerate(record.args)
            )
        else:
            record.msg = escaped(mask_text(str(record.msg)))
        if record.exc_info:
            record.exc_text = record.exc_text or _as_traceback(_full(record.exc_info)[1])
            record.exc_info = None
        record.exc_text = mask_text(record.exc_text) if record.exc_text else None
        record.stack_info = mask_text(record.stack_info) if record.stack_info else None
        return True


_FILTER = _Masking()


def _full(exc_info: Any) -> Any:
    return exc_info if isinstance(exc_info, tuple) else (type(exc_info), exc_info, exc_info.__traceback__)


def _as_traceback(error: BaseException | None) -> str | None:
    """The traceback of an error and of all that it came from."""
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


def _argument(value: object) -> object:
    """An argument of a message: numbers as they are, for `%d` and `%.1f`; everything else as masked, quoted text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, BaseException):
        value = f"{type(value).__name__}: {value}"
    elif isinstance(value, Mapping | list | tuple):
        value = mask_options(value)
    return quoted(mask_text(str(value)))


def quoted(text: str) -> str:
    """`text` as the value of a pair: in quotation marks, with JSON's escapes, where it would not be read back else."""
    if _PLAIN.fullmatch(text) and not _NUMBER.fullmatch(text) and text not in _CONSTANTS:
        return text
    # escaped only where it must be: other letters stay readable, half pairs of names that are no UTF-8 do not break
    shown = json_text.dumps(text, ensure_ascii=False)
    return _LEFT_BY_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", shown)


@lru_cache(maxsize=1024)
def _hides(message: str) -> tuple[bool, ...]:
    """Whether each conversion of a message stands behind a secret's name, as in `token=%s`."""
    begin, found = 0, []
    for match in _CONVERSION.finditer(message):
        found.append(not mask_text(f"{message[begin : match.start()]}stand1n").endswith("stand1n"))
        begin = match.end()
    return tuple(found)


def parse(line: str) -> dict[str, Any]:
    """The pairs of a line of the log, with its first word as `event`; numbers, booleans and None as such.

    Takes messages (`event key=value ...`) and lines as `configure` writes them.

    Raises:
        ConfigError: if it is no such line.
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
            raise ConfigError(f"{line!r} is no line of the log: no key=value at character {len(line) - len(rest) + at}")
        pairs[match["key"]] = _value(match["value"])
        at = match.end() + 1
    if not pairs.get("event"):
        raise ConfigError(f"{line!r} is no line of the log: it names no event")
    return pairs


def _value(text: str) -> Any:
    if text.startswith('"'):
        return json_text.loads(text)
    match = _NUMBER.fullmatch(text)
    if match is None:
        return _CONSTANTS.get(text, text)
    return float(text) if match["fraction"] or match["power"] else int(text)


class _Lines(logging.Formatter):
    """One line for each record: pairs, or one JSON object.

    Args:
        as_json: which of them.
        rank: of this process among the trainers, or None.
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
            **_event(record.getMessage()),
        }
        if record.exc_text:
            pairs["exception"] = record.exc_text
        if self._as_json:
            return json_text.dumps(pairs)
        return " ".join(f"{key}={quoted(v) if isinstance(v, str) else v}" for key, v in pairs.items())


def _event(message: str) -> dict[str, Any]:
    try:
        return parse(message)
    except ConfigError:  # of a program's own logger below "streaming"
        return {"event": "message", "text": message}


def configure(level: int | str = "INFO", json: bool = False, stream: TextIO | None = None) -> logging.Handler:
    """Write the library's log, for scripts that do not set up `logging` themselves.

    Calling it again replaces what it set up before. The root logger's handlers do not get these records then.

    Args:
        level: a name or number of `logging`.
        json: one JSON object on each line, in place of `key=value` pairs.
        stream: where to; None is stderr.

    Returns:
        The handler, to remove from `logging.getLogger("streaming")` if wanted.

    Raises:
        ConfigError: if there is no such level.
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
