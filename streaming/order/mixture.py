"""Mixture of streams by weight: (epoch, position) -> (stream, sample), as a pure function in constant memory.

Positions count over the whole run and are computed in blocks. A stream's count up to the border of a block follows from
its share (`streaming.order.apportion`); within a block the streams are in random order. So the n-th sample of a stream
is known without those before it, and a stream has its own order: each *pass* over it is a new permutation and ends
before the next begins, independent of the epochs of the mixture.

With `repeats`, and by default, each epoch of the mixture has the same counts, and blocks end with it. An epoch of 2.5
passes ends in the middle of one. If each pass were an independent permutation, a sample could come in the last half of
one epoch's first pass and the first half of its last, four times in all, and another twice. So the samples of each half
are fixed (the halves of one permutation), and only their order within the half changes.
"""

from __future__ import annotations

import json
import operator
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xxhash

from streaming.errors import ConfigError
from streaming.order.apportion import Shares, by_repeats, by_temperature, by_weights
from streaming.order.permutation import ALGORITHM as ORDER_ALGORITHM
from streaming.order.permutation import MOST, Permutation

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Mixture"]

ALGORITHM = 1
"""Version of the function; part of every saved state, because another version gives another order."""

SMALL = 1024
"""Passes over streams with fewer samples are computed together, by sorting: a `Permutation` costs 75 us at any size."""

KEPT = 4  # chunks: the current and the previous one, of the reader and of the read-ahead

_GOLDEN, _FIRST, _SECOND = (np.uint64(key) for key in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class Mixture:
    """Order of a run over several streams; an `Order`.

    Samples are numbered over all streams in the given order: those of the first, then those of the second.

    Args:
        sizes: `{stream: number of samples}`.
        weights: `{stream: weight}` for every stream, in any unit; 0 leaves a stream out. At most one of `weights`,
            `repeats` and `temperature`; without them every sample comes once in an epoch.
        repeats: `{stream: r}`, 1 for other streams: in each epoch every sample of the stream comes `floor(r)` or
            `ceil(r)` times, `round(r * size)` in all.
        temperature: weights are `size ** (1 / temperature)`.
        epoch_size: number of positions in an epoch; by default the sum of the sizes, or of the repeats.
        seed: any 64-bit integer.
        shuffle: False reads each stream from its first sample to its last, spread evenly.
        weight_schedule: `{position of the run: weights from there on}`; a position of the run is
            `epoch * epoch_size + position in the epoch`. The order before it is the same as without the change.

    Attributes:
        epoch_size: number of positions in an epoch.
        num_samples: number of samples in all streams.

    Raises:
        ConfigError: a setting cannot be used; the message names the stream and the value.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        weights: Mapping[str, float] | None = None,
        *,
        repeats: Mapping[str, float] | None = None,
        temperature: float | None = None,
        epoch_size: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        weight_schedule: Mapping[int, Mapping[str, float]] | None = None,
    ) -> None:
        _check_choice(weights=weights, repeats=repeats, temperature=temperature)
        sizes = _checked_sizes(sizes)
        self.names = tuple(sizes)
        self.num_samples = sum(sizes.values())
        self.seed = Permutation(1, seed).seed
        self.shuffle = shuffle
        self._ends = np.cumsum(list(sizes.values()), dtype=np.int64)
        first = self._first_weights(sizes, weights, repeats, temperature)
        self.epoch_size = _checked_epoch_size(epoch_size, self.num_samples if repeats is None else sum(first))
        if repeats is not None and self.epoch_size != sum(first):
            raise ConfigError(
                f"repeats make epochs of {sum(first)} positions, not epoch_size={self.epoch_size}: leave epoch_size out"
            )
        is_exact = sum(first) == self.epoch_size and weights is None and temperature in (None, 1)
        self._digest = _digest([list(sizes.items()), first, is_exact])
        self._streams = [
            _Stream(size, _seed(seed, name), count if is_exact else size, shuffle)
            for (name, size), count in zip(sizes.items(), first, strict=True)
        ]
        self._segments = [_Segment(0, [0] * len(sizes), Shares(first), self.epoch_size if is_exact else None, first)]
        self._chunks: dict[int, _SampleChunk] = {}
        self._add(dict(weight_schedule or {}), sizes, repeats is not None)

    def _first_weights(
        self,
        sizes: Mapping[str, int],
        weights: Mapping[str, float] | None,
        repeats: Mapping[str, float] | None,
        temperature: float | None,
    ) -> list[int]:
        if weights is not None:
            return by_weights(weights, sizes)
        if temperature is not None and temperature != 1:
            return by_temperature(temperature, sizes)
        return by_repeats(repeats or {}, sizes)

    def _add(self, changes: Mapping[int, Mapping[str, float]], sizes: Mapping[str, int], is_repeated: bool) -> None:
        if changes and is_repeated:
            raise ConfigError("weight_schedule breaks the exact counts of repeats; give weights or temperature instead")
        last = -1
        for position, weights in changes.items():
            if isinstance(position, bool) or not isinstance(position, int | np.integer) or position <= last:
                raise ConfigError(f"weight_schedule holds position {position!r}; give integers from 0, ascending")
            last = int(position)
            chosen = by_weights(weights, sizes, f"the weights from position {position} on")
            segment = _Segment(last, self._counts(last), Shares(chosen), None, chosen)
            self._segments.append(segment)
            self._chunks.clear()

    # -- as an order

    def samples(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the samples at the positions `start` to `stop` (half-open) of an epoch.

        Raises:
            IndexError: the positions are not within `range(n)`, or the epoch is negative.
        """
        if not (0 <= start <= stop <= self.epoch_size and epoch >= 0):
            raise IndexError(f"positions {start} to {stop} of epoch {epoch} are not within 0 to n = {self.epoch_size}")
        at, end = epoch * self.epoch_size + start, epoch * self.epoch_size + stop
        found = [np.empty(0, np.int64)]
        while at < end:
            chunk = self._chunk(at)
            until = min(end, chunk.stop)
            found.append(chunk.numbers[at - chunk.start : until - chunk.start])
            at = until
        return np.concatenate(found)

    def settings(self, before: int | None = None) -> dict[str, Any]:
        """Return what the order depends on, as JSON of fewer than 300 bytes.

        Args:
            before: leave out changes from this position of the run on, which do not affect the order before it.
        """
        changes = [[at.start, at.weights] for at in self._segments[1:] if before is None or at.start < before]
        return {
            "order": "mixture",
            "n": self.epoch_size,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "streams": len(self.names),
            "digest": self._digest,
            "changes": _digest(changes) if changes else None,
            "algorithm": [ORDER_ALGORITHM, ALGORITHM],
        }

    # -- as streams

    def stream_of(self, numbers: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return, for samples as numbered by `samples`, the index of the stream and the sample in it."""
        streams = np.searchsorted(self._ends, numbers, side="right")
        starts = self._ends - np.diff(self._ends, prepend=0)
        return streams, numbers - starts[streams]

    def counts(self, epoch: int, position: int) -> dict[str, int]:
        """Return how many samples of each stream the run has before this position."""
        return dict(zip(self.names, self._counts(epoch * self.epoch_size + position), strict=True))

    def _counts(self, at: int) -> list[int]:
        chunk = self._chunk(at)
        streams, _ = self.stream_of(chunk.numbers[: at - chunk.start])
        inside = np.bincount(streams, minlength=len(self.names)).tolist()
        return [before + more for before, more in zip(chunk.counts, inside, strict=True)]

    # -- chunks: several blocks, computed together

    def _chunk(self, at: int) -> _SampleChunk:
        """The chunk that holds this position of the run; a few are kept."""
        for chunk in list(self._chunks.values()):
            if chunk.start <= at < chunk.stop:
                return chunk
        number = bisect_right(self._segments, at, key=operator.attrgetter("start")) - 1
        segment = self._segments[number]
        epoch, within = divmod(at - segment.start, segment.period) if segment.period else (0, at - segment.start)
        length = segment.shares.block * max(1, _chunk_length(len(self.names)) // segment.shares.block)
        start = within // length * length
        stop = min(start + length, segment.period or start + length)
        chunk = self._made(segment, epoch, start, stop)
        if number + 1 < len(self._segments):
            chunk = chunk._replace(stop=min(chunk.stop, self._segments[number + 1].start))
        self._chunks[chunk.start] = chunk
        while len(self._chunks) > KEPT:
            self._chunks.pop(next(iter(self._chunks)), None)
        return chunk

    def _made(self, segment: _Segment, epoch: int, start: int, stop: int) -> _SampleChunk:
        origin = segment.start + epoch * (segment.period or 0)
        base = [count + epoch * weight for count, weight in zip(segment.base, segment.weights, strict=True)]
        borders = [*range(start, stop, segment.shares.block), stop]
        shared = np.array([segment.shares.counts(border) for border in borders])
        counts = [count + int(more) for count, more in zip(base, shared[0], strict=True)]
        blocks = zip(borders, np.diff(shared, axis=0), strict=False)
        streams = np.concatenate([self._slots(taken, origin + border) for border, taken in blocks])
        by_stream = np.argsort(streams, kind="stable")
        numbers = np.empty(stop - start, np.int64)
        at = 0
        totals = shared[-1] - shared[0]
        for stream in np.flatnonzero(totals):
            places = by_stream[at : at + totals[stream]]
            first = int(self._ends[stream - 1]) if stream else 0
            samples = self._streams[stream].samples(counts[stream], counts[stream] + int(totals[stream]))
            numbers[places] = samples + first
            at += len(places)
        return _SampleChunk(origin + start, origin + stop, numbers, counts)

    def _slots(self, taken: NDArray[np.int64], position: int) -> NDArray[np.unsignedinteger[Any]]:
        """Return the stream of each position of a block."""
        present = np.flatnonzero(taken)
        counts = taken[present]
        narrow = np.uint16 if len(self.names) <= 2**16 else np.uint32  # sorted by radix, 3.5 times as fast
        streams: NDArray[np.unsignedinteger[Any]] = np.repeat(present.astype(narrow), counts)
        if self.shuffle:
            return streams[Permutation(len(streams), self.seed, position)(np.arange(len(streams)))]
        ranks = np.arange(len(streams)) - np.repeat(np.cumsum(counts) - counts, counts)
        return streams[np.argsort((ranks + 0.5) / np.repeat(counts, counts), kind="stable")]


@dataclass(frozen=True)
class _Segment:
    """Part of the run from `start` on, with one set of weights.

    Attributes:
        base: count of each stream before it.
        period: number of positions, with `weights` samples of each stream, after which counts repeat; None: never.
    """

    start: int
    base: list[int]
    shares: Shares
    period: int | None
    weights: list[int]


class _SampleChunk(NamedTuple):
    start: int
    stop: int
    numbers: NDArray[np.int64]
    counts: list[int]


class _Stream:
    """Samples of one stream, pass after pass.

    Args:
        n: number of samples.
        seed: seed of this stream.
        per_epoch: number of samples in an epoch of the mixture; if it is not a multiple of `n`, the last pass is split.
        shuffle: whether passes are permuted.
    """

    def __init__(self, n: int, seed: int, per_epoch: int, shuffle: bool) -> None:
        self.n = n
        self.seed = seed
        self.per_epoch = per_epoch if n and per_epoch % n else 0
        self.shuffle = shuffle

    def samples(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the samples at the places `start` to `stop` of the stream's whole run."""
        if not self.shuffle:
            return np.arange(start, stop) % self.n
        found = []
        while start < stop:
            low, high = self._span(start)
            if high - low < self.n:
                until = min(stop, high)
                found.append(self._parted(low, high, start, until))
            else:
                until = min(stop, self._whole_until(start))
                found.append(self._passes(start, until))
            start = until
        return np.concatenate(found)

    def _span(self, place: int) -> tuple[int, int]:
        """Return the range that is shuffled together: the pass of this place, or its part within one epoch."""
        low = place // self.n * self.n
        if not self.per_epoch:
            return low, low + self.n
        epoch = place // self.per_epoch
        return max(low, epoch * self.per_epoch), min(low + self.n, (epoch + 1) * self.per_epoch)

    def _whole_until(self, place: int) -> int:
        """Return the end of the whole passes that this place is in."""
        if not self.per_epoch:
            return int(MOST)
        return (place // self.per_epoch + 1) * self.per_epoch // self.n * self.n

    def _parted(self, low: int, high: int, start: int, stop: int) -> NDArray[np.int64]:
        within = Permutation(high - low, _seed(self.seed, "part"), low)(np.arange(start - low, stop - low))
        return Permutation(self.n, _seed(self.seed, "parts"))(within + low % self.n)

    def _passes(self, start: int, stop: int) -> NDArray[np.int64]:
        if self.n < SMALL:
            return self._sorted(start, stop)
        found = []
        for number in range(start // self.n, -(-stop // self.n)):
            first = number * self.n
            places = np.arange(max(start - first, 0), min(stop - first, self.n))
            found.append(Permutation(self.n, self.seed, number)(places))
        return np.concatenate(found)

    def _sorted(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return passes in the order of random keys: splitmix64 (Steele, Lea and Flood, 2014) of the places."""
        first = start // self.n * self.n
        keys = np.arange(first, -(-stop // self.n) * self.n).astype(np.uint64)
        keys = (keys + np.uint64(1)) * _GOLDEN + np.uint64(self.seed % 2**64)
        keys = (keys ^ keys >> np.uint64(30)) * _FIRST
        keys = (keys ^ keys >> np.uint64(27)) * _SECOND
        keys ^= keys >> np.uint64(31)
        passes = np.argsort(keys.reshape(-1, self.n), axis=1, kind="stable")
        return passes.reshape(-1)[start - first : stop - first]


def _chunk_length(streams: int) -> int:
    """Return the number of positions computed at once: a call costs 75 us per stream; at most 2 MiB."""
    return min(max(1024 * streams, 16_384), 2**18)


def _seed(seed: int, name: str) -> int:
    return int(xxhash.xxh3_64_intdigest(json.dumps([seed, name]).encode())) - 2**63


def _digest(found: object) -> str:
    return str(xxhash.xxh3_64_hexdigest(json.dumps(found).encode()))


def _check_choice(**given: object) -> None:
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(named)} are given; each sets the weights of the streams: give one of them")


def _checked_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    found = {}
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 0:
            raise ConfigError(f"stream {name!r} has size {size!r}; give a whole number, 0 or more")
        found[str(name)] = int(size)
    if not found:
        raise ConfigError("a mixture needs at least one stream")
    if sum(found.values()) > MOST:
        raise ConfigError(f"the streams have {sum(found.values())} samples; an order has at most 2**62")
    return found


def _checked_epoch_size(epoch_size: int | None, default: int) -> int:
    if epoch_size is None:
        return default
    if isinstance(epoch_size, bool) or not isinstance(epoch_size, int | np.integer) or epoch_size < 1:
        raise ConfigError(f"epoch_size={epoch_size!r} must be a whole number, 1 or more")
    return int(epoch_size)
