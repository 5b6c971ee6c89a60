"""Order of samples as a pure function: (seed, epoch, position) -> sample, and back, in constant memory.

A permutation of `range(n)` by a Feistel network over a mixed radix: a number is written as `left * b + right` with
`a * b >= n`, and in each round a keyed hash of one half is added to the other, modulo its radix (Black and Rogaway,
"Ciphers with Arbitrary Finite Domains", 2002, section 5). A result of `n` or more is mapped again ("cycle walking"),
which keeps it a permutation; `a` and `b` are near the square root of `n`, so that this happens to fewer than one in
`sqrt(n)`. Networks over bits walk up to four times per number just above a power of two.

The hash of a round is that of splitmix64 (Steele, Lea and Flood, 2014) over the half and the round's key, without the
last step, which does not change the upper bits. The upper 32 are scaled to the radix by a multiplication (Lemire,
2019), whose bias is at most `a / 2**32`.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np
import xxhash

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Step = Callable[[NDArray[np.uint64]], NDArray[np.uint64]]

__all__ = ["ALGORITHM", "Order", "Permutation", "Sequential", "Shuffled"]

ALGORITHM = 1
"""Version of the function; part of every saved state, because another version gives another order."""

MOST = 2**62
ROUNDS = 6
"""Four look random up to the root of the domain (Luby and Rackoff, 1988); two more are a margin."""

_CHUNK = 1 << 15  # numbers at a time: their intermediate arrays stay in the second-level cache
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # of splitmix64
_U30, _U27, _U32 = np.uint64(30), np.uint64(27), np.uint64(32)


class Permutation:
    """Order of one epoch.

    Args:
        n: number of samples; 0 to 2**62.
        seed: any 64-bit integer.
        epoch: any 64-bit integer; each has its own order.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, n: int, seed: int = 0, epoch: int = 0) -> None:
        if not 0 <= n <= MOST:
            raise ValueError(f"n={n} is out of range: an order is of 0 to 2**62 samples")
        for name, value in (("seed", seed), ("epoch", epoch)):
            if not -(2**63) <= value < 2**63:
                raise ValueError(f"{name}={value} is out of range: give a 64-bit integer")
        self.n = n
        self.seed = seed
        self.epoch = epoch
        self._a = math.isqrt(max(n - 1, 0)) + 1
        self._b = -(-max(n, 1) // self._a)
        keys = (struct.pack("<qqqqq", ALGORITHM, n, seed, epoch, number) for number in range(ROUNDS))
        self._keys = [np.uint64(xxhash.xxh3_64_intdigest(key)) for key in keys]

    @overload
    def __call__(self, positions: int) -> int: ...
    @overload
    def __call__(self, positions: NDArray[np.integer]) -> NDArray[np.int64]: ...
    def __call__(self, positions: int | NDArray[np.integer]) -> int | NDArray[np.int64]:
        """Return the samples at some positions of the epoch, as int64 of the same shape; an int for an int.

        Raises:
            IndexError: a position is not in `range(n)`.
        """
        return self._mapped(positions, self._forward)

    @overload
    def inverse(self, samples: int) -> int: ...
    @overload
    def inverse(self, samples: NDArray[np.integer]) -> NDArray[np.int64]: ...
    def inverse(self, samples: int | NDArray[np.integer]) -> int | NDArray[np.int64]:
        """Return the positions of some samples in the epoch.

        Raises:
            IndexError: a sample is not in `range(n)`.
        """
        return self._mapped(samples, self._backward)

    def _mapped(self, numbers: int | NDArray[np.integer], step: Step) -> int | NDArray[np.int64]:
        given = np.asarray(numbers)
        if given.size and not (given.dtype.kind in "iu" and 0 <= int(given.min()) and int(given.max()) < self.n):
            raise IndexError(f"positions and samples are integers from 0 to n - 1 = {self.n - 1}")
        flat = given.reshape(-1).astype(np.uint64)
        for start in range(0, len(flat), _CHUNK):
            flat[start : start + _CHUNK] = self._walked(flat[start : start + _CHUNK], step)
        found = flat.astype(np.int64).reshape(given.shape)
        return int(found) if isinstance(numbers, int) else found

    def _walked(self, numbers: NDArray[np.uint64], step: Step) -> NDArray[np.uint64]:
        found = step(numbers)
        outside = np.flatnonzero(found >= self.n)
        while len(outside):
            found[outside] = step(found[outside])
            outside = outside[found[outside] >= self.n]
        return found

    def _forward(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        a, b = np.uint64(self._a), np.uint64(self._b)
        left = numbers // b
        right = numbers - left * b
        for pair in range(0, ROUNDS, 2):
            left = _sum(left, _hash(right, self._keys[pair], a), a)
            right = _sum(right, _hash(left, self._keys[pair + 1], b), b)
        return left * b + right

    def _backward(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        a, b = np.uint64(self._a), np.uint64(self._b)
        left = numbers // b
        right = numbers - left * b
        for pair in range(ROUNDS - 2, -1, -2):
            right = _difference(right, _hash(left, self._keys[pair + 1], b), b)
            left = _difference(left, _hash(right, self._keys[pair], a), a)
        return left * b + right


def _hash(half: NDArray[np.uint64], key: np.uint64, radix: np.uint64) -> NDArray[np.uint64]:
    """Return a number below `radix` for each half."""
    mixed = half ^ key
    mixed ^= mixed >> _U30
    mixed *= _FIRST
    mixed ^= mixed >> _U27
    mixed *= _SECOND
    mixed >>= _U32
    mixed *= radix
    mixed >>= _U32
    return mixed


def _sum(numbers: NDArray[np.uint64], more: NDArray[np.uint64], radix: np.uint64) -> NDArray[np.uint64]:
    """Return `(numbers + more) % radix` of numbers below it; a comparison is cheaper than a division."""
    more += numbers
    more -= radix * (more >= radix)
    return more


def _difference(numbers: NDArray[np.uint64], less: NDArray[np.uint64], radix: np.uint64) -> NDArray[np.uint64]:
    found = numbers + radix
    found -= less
    found -= radix * (found >= radix)
    return found


class Order(Protocol):
    """Order of a whole run: the sample at each position of each epoch. A pure function.

    Attributes:
        epoch_size: number of positions in an epoch.
        num_samples: number of samples in the data set; equal to `epoch_size` if each comes once in an epoch.
    """

    epoch_size: int
    num_samples: int

    def samples(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the samples at the positions `start` to `stop` (half-open, in `range(epoch_size)`) of an epoch."""

    def settings(self, before: int | None = None) -> dict[str, Any]:
        """Return what the order depends on, as JSON of a few short values; equal settings give equal orders.

        Args:
            before: only what it depends on before this position of the run, `epoch * n + position in the epoch`.
        """


class Shuffled:
    """A new order in each epoch.

    Args:
        n: number of samples.
        seed: any 64-bit integer.
    """

    def __init__(self, n: int, seed: int = 0) -> None:
        self._permutation = Permutation(n, seed)
        self.epoch_size = self.num_samples = n
        self.seed = seed

    def samples(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        if epoch != self._permutation.epoch:
            self._permutation = Permutation(self.epoch_size, self.seed, epoch)
        return self._permutation(np.arange(start, stop))

    def settings(self, before: int | None = None) -> dict[str, Any]:
        return {"order": "shuffled", "n": self.epoch_size, "seed": self.seed, "algorithm": ALGORITHM}


class Sequential:
    """Order from the first sample to the last in each epoch."""

    def __init__(self, n: int) -> None:
        self.epoch_size = self.num_samples = n

    def samples(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        if not 0 <= start <= stop <= self.epoch_size:
            raise IndexError(f"positions {start} to {stop} are not within 0 to n = {self.epoch_size}")
        return np.arange(start, stop, dtype=np.int64)

    def settings(self, before: int | None = None) -> dict[str, Any]:
        return {"order": "sequential", "n": self.epoch_size}
