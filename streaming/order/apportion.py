"""Apportion the positions of a run to streams: exact shares in whole numbers.

The counts at position `g` are differences of `(g * cum + total // 2) // total`, where `cum` is the sum of the weights
up to a stream ("cumulative rounding"). They add up to `g`, and each is less than 1 off its share. A count may decrease
between two positions closer than `1 / share`, so counts are only taken at the borders of blocks of that length.

Streams with a share below `1 / MOST` would need larger blocks. Together they are the last in the sum; the last count,
`g` less the others, never decreases. It is split between them by halves of about equal weight: one half is a rounded
share of the whole, the other half the rest, and neither decreases. Such a stream is less than 2 off its share.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import accumulate

from streaming.errors import ConfigError

__all__ = ["Shares", "by_repeats", "by_temperature", "by_weights", "exact"]

LEAST, MOST = 1024, 65_536
"""Positions in a block. One of 1,024 is shuffled in 92 us, one of 64 in 74 us; longer ones take more memory."""


class Shares:
    """Counts in proportion to weights.

    Args:
        weights: integers, one per stream, at least one above 0.

    Attributes:
        block: counts at multiples of this never decrease.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        total = sum(weights)
        self._streams = len(weights)
        self._large = [at for at, weight in enumerate(weights) if weight * MOST >= total]
        self._small = [at for at, weight in enumerate(weights) if 0 < weight * MOST < total]
        self._sums = list(accumulate(weights[at] for at in self._large))
        self._small_sums = [0, *accumulate(weights[at] for at in self._small)]
        self._total = total
        least = min((weights[at] for at in self._large), default=total)
        self.block = max(LEAST, -(-total // least), min(len(weights), MOST))

    def counts(self, position: int) -> list[int]:
        """Return how many of the first `position` positions each stream has."""
        found = [0] * self._streams
        half, before = self._total // 2, 0
        for at, cumulated in zip(self._large, self._sums, strict=True):
            upto = (position * cumulated + half) // self._total
            found[at] = upto - before
            before = upto
        if self._small:
            self._part(position - before, 0, len(self._small), found)
        return found

    def _part(self, count: int, start: int, stop: int, found: list[int]) -> None:
        if not count:
            return
        if stop - start == 1:
            found[self._small[start]] = count
            return
        low, high = self._small_sums[start], self._small_sums[stop]
        middle = min(max(bisect_left(self._small_sums, (low + high) // 2, start, stop), start + 1), stop - 1)
        left = (count * (self._small_sums[middle] - low) + (high - low) // 2) // (high - low)
        self._part(left, start, middle, found)
        self._part(count - left, middle, stop, found)


def by_weights(given: Mapping[str, float], sizes: Mapping[str, int], what: str = "weights") -> list[int]:
    """Return integer weights in the order of the streams.

    Raises:
        ConfigError: a name, a value or a stream cannot be used; the message holds name and value.
    """
    _check_names(given, sizes, what)
    missing = [name for name in sizes if name not in given]
    if missing:
        raise ConfigError(f"stream {missing[0]!r} has no weight in {what}; give it one, or 0 to leave it out")
    found = [exact(given[name], f"{what} of stream {name!r}") for name in sizes]
    if not any(found):
        raise ConfigError(f"{what} are 0 for all streams ({', '.join(sizes)}); give at least one a weight above 0")
    for name, weight in zip(sizes, found, strict=True):
        if weight and not sizes[name]:
            raise ConfigError(f"stream {name!r} has no samples, and a weight of {given[name]} in {what}; give it 0")
    return whole(found)


def by_repeats(given: Mapping[str, float], sizes: Mapping[str, int]) -> list[int]:
    """Return the number of positions in an epoch of each stream; a stream that is not named comes once.

    Raises:
        ConfigError: a name, a value or a stream cannot be used; the message holds name and value.
    """
    _check_names(given, sizes, "repeats")
    found = []
    for name, size in sizes.items():
        times = exact(given.get(name, 1), f"repeats of stream {name!r}")
        if times and not size:
            raise ConfigError(f"stream {name!r} has no samples to repeat {given.get(name, 1)} times; leave it out")
        count = math.floor(times * size + Fraction(1, 2))
        if times and not count:
            raise ConfigError(f"repeats of {given[name]} leave none of the {size} samples of stream {name!r}; give 0")
        found.append(count)
    if not any(found):
        raise ConfigError(f"repeats are 0 for all streams ({', '.join(sizes)}); give at least one a number above 0")
    return found


def by_temperature(temperature: float, sizes: Mapping[str, int]) -> list[int]:
    """Return integer weights in proportion to `size ** (1 / temperature)`: 1 is by size, larger values level them.

    They are rounded to ten digits, so that machines whose `pow` differs in the last bit agree.

    Raises:
        ConfigError: the temperature cannot be used, or a stream has no samples.
    """
    if not exact(temperature, "temperature"):
        raise ConfigError(f"temperature={temperature} must be above 0; 1 is by size")
    largest = max(sizes.values())
    found = []
    for name, size in sizes.items():
        if not size:
            raise ConfigError(f"stream {name!r} has no samples; leave it out of the mixture")
        weight = Fraction(f"{(size / largest) ** (1 / temperature):.9e}")
        if not weight:
            raise ConfigError(f"temperature={temperature} leaves nothing of stream {name!r}; give a higher one")
        found.append(weight)
    return whole(found)


def exact(value: float, what: str) -> Fraction:
    """Return the number exactly as it is written: 0.1 is one tenth.

    Raises:
        ConfigError: the value is not a number, or negative, NaN or infinite.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, str | bool) or not math.isfinite(number) or number < 0:
        raise ConfigError(f"{what} is {value!r}; give a finite number, 0 or more")
    return Fraction(repr(number))


def whole(numbers: Iterable[Fraction]) -> list[int]:
    """Return the smallest integers in the same proportions."""
    numbers = list(numbers)
    common = math.lcm(*(number.denominator for number in numbers))
    found = [int(number * common) for number in numbers]
    shared = math.gcd(*found)
    return [number // shared for number in found]


def _check_names(given: Mapping[str, float], sizes: Mapping[str, int], what: str) -> None:
    for name in given:
        if name not in sizes:
            raise ConfigError(f"{what} name stream {name!r}, which is not one of {', '.join(map(repr, sizes))}")
