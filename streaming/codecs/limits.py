"""What an object may cost its reader. The limit on its bytes is also one on what is made of them.

A file of a few bytes can stand for many objects, and each of them costs tens to hundreds of bytes. Codecs add up what
they are about to make, at costs measured with CPython 3.11, and stop before they make more than the limit and an
allowance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["ALLOWANCE_BYTES", "are_lengths", "elements", "most_cost"]

ALLOWANCE_BYTES = 1 << 20
"""On top of the limit: objects that are much smaller than this are then never refused for what they cost."""

_MOST_AXES = 64  # of NumPy and of torch
_BEYOND = 1 << 63  # the first number that no size in memory can be


def most_cost(max_bytes: int) -> int:
    """The most bytes that all objects made from one may take, under a limit of `max_bytes`."""
    return max_bytes + ALLOWANCE_BYTES


def are_lengths(numbers: Sequence[Any]) -> bool:
    """Whether these are at most 64 integers from 0 to 2^63 - 1, so that calculating with them takes no time."""
    if len(numbers) > _MOST_AXES:
        return False
    for number in numbers:  # a loop: twice as fast as `all` for a few
        if type(number) is not int or not 0 <= number < _BEYOND:
            return False
    return True


def elements(lengths: Iterable[int]) -> int:
    """The product of what `are_lengths` allows, at most 4,032 bits long; 2^63 where it is larger."""
    return min(math.prod(lengths), _BEYOND)
