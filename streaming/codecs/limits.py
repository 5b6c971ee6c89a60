"""Limits on the memory of a sample. The limit on the bytes of an object also limits what is made of them.

A file of a few bytes can describe many values of tens to hundreds of bytes each. Codecs add up what they are about to
make, at costs measured with CPython 3.11, and stop before that exceeds the limit and an allowance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["ALLOWANCE_BYTES", "are_lengths", "elements", "max_cost"]

ALLOWANCE_BYTES = 1 << 20
"""Added to the limit, so that small objects are never refused for their cost."""

_MAX_AXES = 64  # of NumPy and of torch
_BEYOND = 1 << 63  # the first number that is not a possible size


def max_cost(max_bytes: int) -> int:
    """Return the largest number of bytes that a sample may take, under a limit of `max_bytes`."""
    return max_bytes + ALLOWANCE_BYTES


def are_lengths(numbers: Sequence[Any]) -> bool:
    """Whether these are at most 64 integers from 0 to 2^63 - 1, so that calculations with them are fast."""
    if len(numbers) > _MAX_AXES:
        return False
    for number in numbers:  # a loop: twice as fast as `all` for a few
        if type(number) is not int or not 0 <= number < _BEYOND:
            return False
    return True


def elements(lengths: Iterable[int]) -> int:
    """Return the product of lengths that `are_lengths` accepts, at most 2^63."""
    return min(math.prod(lengths), _BEYOND)
