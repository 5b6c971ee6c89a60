"""Parse sizes and times as people write them: "8GB" (10^9 bytes), "8GiB" (2^30), "250ms", "10m", "1h30m"."""

from __future__ import annotations

import math
import re
from typing import TypeGuard

from streaming.errors import ConfigError

__all__ = ["GB", "parse_duration", "parse_size"]

GB = 10**9

_PREFIXES = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgtp]?)(i?)b?\s*", re.IGNORECASE)
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_PART = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|m|h|d)\s*")
_DURATION = re.compile(f"(?:{_DURATION_PART.pattern})+")


def parse_size(value: int | float | str) -> int:
    """Return the bytes in "8GB" (10^9), "8GiB" (2^30), "100 kB", "512" or a whole number of bytes.

    Raises:
        ConfigError: the value is neither, or negative.
    """
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        number, prefix, binary = match.groups()
        return round(float(number) * math.pow(1024 if binary else 1000, _PREFIXES[prefix.lower()]))
    if _is_number(value) and value >= 0 and float(value).is_integer():
        return int(value)
    raise ConfigError(f"{value!r} is not a size: write a number of bytes, or a text like '8GB' or '512MiB'")


def parse_duration(value: int | float | str) -> float:
    """Return the seconds in "250ms", "10m", "1h30m", "60" or a number of seconds.

    Raises:
        ConfigError: the value is neither, or negative, or not finite.
    """
    if isinstance(value, str):
        if _DURATION.fullmatch(value):
            return sum(float(number) * _DURATION_UNITS[unit] for number, unit in _DURATION_PART.findall(value))
        if re.fullmatch(r"\s*(\d+(\.\d*)?|\.\d+)\s*", value):
            return float(value)
    elif _is_number(value) and value >= 0:
        return float(value)
    raise ConfigError(f"{value!r} is not a time: write a number of seconds, or a text like '250ms', '10m' or '1h30m'")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
