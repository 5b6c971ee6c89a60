"""JSON documents and JSON lines, by the standard library.

As in `json`, `NaN` and `Infinity` are accepted, the last of duplicate keys wins, and an escaped lone surrogate is kept.
Text must be UTF-8; a byte order mark is skipped.

Values take up to 48 times the memory of their text, so their memory is estimated before they are made, and the default
limit is lower than for tensors.
"""

from __future__ import annotations

import json
import re
import sys
from itertools import accumulate
from typing import Any

from streaming.codecs.base import Buffer, Codec
from streaming.codecs.json_cost import check_cost, without_strings
from streaming.codecs.raw import decode_utf8
from streaming.errors import DecodeError, TruncatedData, UnsafeData

# Before 3.12 only the recursion limit stops the C scanner. If that is raised, 100,000 levels overflow an 8 MB stack and
# kill the process; 10,000 levels need under 2 MB.
_SAFE_DEPTH = 10_000
# 1 GB: the values of 20 to 200 MB of text.
_DEFAULT_MAX_BYTES = 10**9
_BRACKET = re.compile(r"[\[{}\]]")
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1}

_parse = json.JSONDecoder().decode
_dump = json.JSONEncoder(separators=(",", ":")).encode


def decode_json(data: Buffer, max_bytes: int) -> Any:
    """Decode one document.

    Raises: TruncatedData: if it is empty or ends early. UnsafeData: if it nests deeper than the interpreter's
    recursion limit. ObjectTooLargeError: if its values take more than `max_bytes` and 1 MiB. DecodeError: with the
    position, for anything else."""
    text = _text(data, max_bytes)
    check_cost(text, max_bytes)
    try:
        return _parse(text)
    except (ValueError, RecursionError) as exc:
        raise _explain(exc, len(text.rstrip())) from exc


def decode_jsonl(data: Buffer, max_bytes: int) -> list[Any]:
    """Decode one document per line; blank lines are skipped. Raises as `decode_json`."""
    rows = []
    text = _text(data, max_bytes)
    check_cost(text, max_bytes, is_lines=True)
    for number, line in enumerate(text.split("\n"), start=1):
        if not line or line.isspace():
            continue
        try:
            rows.append(_parse(line))
        except (ValueError, RecursionError) as exc:
            error = _explain(exc, len(line.rstrip()))
            raise type(error)(f"line {number:,}: {error}") from exc
    return rows


def encode_json(sample: Any) -> bytes:
    """Encode as compact ASCII. Raises TypeError if JSON cannot represent the sample."""
    return _dump(sample).encode("ascii")


def encode_jsonl(sample: Any) -> bytes:
    """Encode a list, one item per line. Raises TypeError if the sample is not a list."""
    if not isinstance(sample, (list, tuple)):
        raise TypeError(f"JSON lines hold a list, not {type(sample).__name__}")
    return "".join(f"{_dump(row)}\n" for row in sample).encode("ascii")


def _text(data: Buffer, max_bytes: int) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DecodeError("is UTF-16; save it as UTF-8")
    text = decode_utf8(data, max_bytes)
    if text.startswith("\ufeff"):
        text = text[1:]
    if sys.getrecursionlimit() > _SAFE_DEPTH:
        _refuse_deep(text)
    return text


def _refuse_deep(text: str) -> None:
    """Costs one more pass, and is needed only if the recursion limit no longer protects the stack."""
    if text.count("[") + text.count("{") > _SAFE_DEPTH and _depth(text) > _SAFE_DEPTH:
        raise UnsafeData(f"nests deeper than {_SAFE_DEPTH:,} levels")


def _depth(text: str) -> int:
    brackets = (found[0] for piece in without_strings(text) for found in _BRACKET.finditer(piece))
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0)


def _explain(exc: ValueError | RecursionError, length: int) -> DecodeError:
    if isinstance(exc, RecursionError):
        return UnsafeData(f"nests deeper than the recursion limit of {sys.getrecursionlimit():,}")
    if not isinstance(exc, json.JSONDecodeError):
        return DecodeError(f"holds a number that cannot be read: {exc}")
    if length == 0:
        return TruncatedData("holds no JSON: empty or only white space")
    if exc.pos >= length or exc.msg.startswith("Unterminated string"):
        return TruncatedData(f"ends early, at character {length:,}: {exc}")
    return DecodeError(f"is not JSON: {exc}")


JSON = Codec("json", (".json",), decode_json, encode_json, default_max_bytes=_DEFAULT_MAX_BYTES)
JSONL = Codec("jsonl", (".jsonl",), decode_jsonl, encode_jsonl, default_max_bytes=_DEFAULT_MAX_BYTES)
