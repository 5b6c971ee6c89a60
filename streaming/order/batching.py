"""Group samples by their lengths, as a pure function of the order: batches of a token budget, and packs.

The positions of an epoch are planned a window at a time. Within a window the samples are grouped by length, and the
groups ("units") are shuffled, so that long ones do not follow each other; within a unit samples keep their order. Only
the lengths are read, before anything is fetched, and a unit does not depend on how it is read.

Wider windows waste less and shuffle less: samples of similar length in a window are grouped. Samples of different
windows never are.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import xxhash

from streaming.errors import ConfigError
from streaming.order.bin_packing import best_fit, first_fit
from streaming.order.permutation import Order, Permutation

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BatchPlan", "SequencePacking", "TokenBudgetBatching"]

ALGORITHM = 1
"""Version of the functions; part of every saved state, because another version gives other units."""

WINDOW = 8192
KEPT_WINDOWS = 4  # the current and the previous one, of the reader and of the read-ahead
KEPT_EPOCHS = 3
_CHUNK = 1 << 20  # lengths checked and digested at a time


class BatchPlan(Protocol):
    """Units of an order: the groups of samples that make up batches or packs. A pure function of the order."""

    def num_groups(self, epoch: int) -> int:
        """Return the number of units in the epoch. Plans it all once: about a second per million samples."""

    def read(self, epoch: int, start: int, stop: int) -> list[NDArray[np.int64]]:
        """Return the samples of the units `start` to `stop` (half-open), one array per unit."""

    def settings(self) -> dict[str, Any]:
        """Return what the plan depends on besides the order, as JSON; its keys differ from those of an order."""

    def padding(self, epoch: int) -> float:
        """Return the share of the epoch's tokens that are padding, from 0."""


class _Lengths:
    """Checked lengths of a data set's samples; a file is memory-mapped."""

    def __init__(self, lengths: NDArray[np.integer[Any]] | Sequence[int] | str | os.PathLike[str]) -> None:
        self.name, self.values = _opened(lengths)
        if self.values.ndim != 1 or self.values.dtype.kind not in "iu":
            raise ConfigError(
                f"{self.name} are {self.values.dtype} of shape {list(self.values.shape)}; give a list of whole numbers"
            )
        self.longest = 0
        if len(self.values):
            shortest = int(self.values.argmin())
            if self.values[shortest] < 1:
                raise ConfigError(
                    f"sample {shortest} has length {self.values[shortest]} in {self.name}; give 1 or more"
                )
            self.longest = int(self.values.argmax())

    def check(self, max_tokens: int, multiple_of: int = 1) -> None:
        """Refuse a sample that does not fit in a unit."""
        if len(self.values) and _raised(int(self.values[self.longest]), multiple_of) > max_tokens:
            padded = f", padded to a multiple of {multiple_of}," if multiple_of > 1 else ""
            raise ConfigError(
                f"sample {self.longest} has length {self.values[self.longest]}{padded} and max_tokens is {max_tokens}: "
                "raise max_tokens, or cut such samples in `prepare` and give the lengths after the cut"
            )

    def check_order(self, order: Order) -> None:
        if order.num_samples != len(self.values):
            raise ConfigError(f"{self.name} are of {len(self.values)} samples and the data set has {order.num_samples}")

    @cached_property
    def digest(self) -> str:
        digest = xxhash.xxh3_64()
        for start in range(0, len(self.values), _CHUNK):
            digest.update(np.ascontiguousarray(self.values[start : start + _CHUNK], dtype="<i8").data)
        return str(digest.hexdigest())


class TokenBudgetBatching:
    """Batches of samples of similar length, whose size with padding (samples times the longest) is within a budget.

    Args:
        lengths: length of each sample, in the order of the data set: integers, or the path of a `.npy` file of them.
        max_tokens: most tokens of a batch, including padding.
        window: number of positions of the order that are planned together.
        multiple_of: the collate function pads the longest to a multiple of this.
        max_samples: most samples of a batch; None: unlimited.

    Raises:
        ConfigError: a setting or a length cannot be used, or a sample is longer than a batch; names the sample.
    """

    def __init__(
        self,
        lengths: NDArray[np.integer[Any]] | Sequence[int] | str | os.PathLike[str],
        max_tokens: int,
        *,
        window: int = WINDOW,
        multiple_of: int = 1,
        max_samples: int | None = None,
    ) -> None:
        self.max_tokens = _positive("max_tokens", max_tokens)
        self.window = _positive("window", window)
        self.multiple_of = _positive("multiple_of", multiple_of)
        self.max_samples = None if max_samples is None else _positive("max_samples", max_samples)
        self.lengths = _Lengths(lengths)
        self.lengths.check(max_tokens, multiple_of)

    def plan(self, order: Order) -> BatchPlan:
        """Return the batches of an order.

        Raises:
            ConfigError: the data set has more or fewer samples than there are lengths.
        """
        return _Windowed(order, self)

    def grouped(self, lengths: NDArray[np.int64]) -> _Groups:
        """Fill batches from the longest sample down; the first of each batch, its longest, sets their number."""
        falling = np.argsort(-lengths, kind="stable")
        padded = _raised(lengths[falling], self.multiple_of)
        room = np.minimum(self.max_tokens // padded, self.max_samples or len(lengths)).tolist()
        firsts, at = [], 0
        while at < len(room):
            firsts.append(at)
            at += room[at]
        many = np.diff(firsts, append=len(room))
        groups = np.empty(len(lengths), np.int64)
        groups[falling] = np.repeat(np.arange(len(firsts)), many)
        return _Groups(groups, len(firsts), int((many * padded[firsts]).sum()))

    def settings(self) -> dict[str, Any]:
        return {
            "batching": "token batches",
            "max_tokens": self.max_tokens,
            "window": self.window,
            "multiple_of": self.multiple_of,
            "max_samples": self.max_samples,
        }


class SequencePacking:
    """Packs: sequences of samples whose lengths add up to at most a budget. `PackCollate` collates them.

    Args:
        lengths: length of each sample, in the order of the data set: integers, or the path of a `.npy` file of them.
        max_tokens: most tokens of a pack.
        method: "best-fit" puts a window's samples, from the longest down, each into the fullest pack that has room for
            it. "first-fit" puts them, in their order, each into the first pack with room: what shares a pack is more
            random, and there is more padding.
        window: number of positions of the order that are planned together.

    Raises:
        ConfigError: a setting or a length cannot be used, or a sample is longer than a pack; names the sample.
    """

    def __init__(
        self,
        lengths: NDArray[np.integer[Any]] | Sequence[int] | str | os.PathLike[str],
        max_tokens: int,
        *,
        method: str = "best-fit",
        window: int = WINDOW,
    ) -> None:
        if method not in ("best-fit", "first-fit"):
            raise ConfigError(f"method={method!r} is not a packing method; give 'best-fit' or 'first-fit'")
        self.max_tokens = _positive("max_tokens", max_tokens)
        self.window = _positive("window", window)
        self.method = method
        self.lengths = _Lengths(lengths)
        self.lengths.check(max_tokens)

    def plan(self, order: Order) -> BatchPlan:
        """Return the packs of an order.

        Raises:
            ConfigError: the data set has more or fewer samples than there are lengths.
        """
        return _Windowed(order, self)

    def grouped(self, lengths: NDArray[np.int64]) -> _Groups:
        groups = np.empty(len(lengths), np.int64)
        if self.method == "best-fit":
            falling = np.argsort(-lengths, kind="stable")
            groups[falling] = best_fit(lengths[falling].tolist(), self.max_tokens)
        else:
            groups[:] = first_fit(lengths.tolist(), self.max_tokens)
        number = int(groups.max()) + 1
        return _Groups(groups, number, number * self.max_tokens)

    def settings(self) -> dict[str, Any]:
        return {"batching": self.method, "max_tokens": self.max_tokens, "window": self.window}


class _Groups(NamedTuple):
    group_of: NDArray[np.int64]  # index of the group of each sample
    number: int
    tokens: int  # of all groups, including padding


class _Batching(Protocol):
    window: int
    lengths: _Lengths

    def grouped(self, lengths: NDArray[np.int64]) -> _Groups: ...
    def settings(self) -> dict[str, Any]: ...


class _EpochPlan:
    """Counts of an epoch over the windows planned so far."""

    def __init__(self) -> None:
        self.borders = [0]  # number of units before each window
        self.tokens = self.used = 0  # with padding and without


class _Window(NamedTuple):
    samples: NDArray[np.int64]  # sorted by group
    borders: NDArray[np.int64]  # start of each group, and the end
    turns: NDArray[np.int64]  # the groups in their order


class _Windowed:
    """Plan of a batching over an order, window by window."""

    def __init__(self, order: Order, batching: _Batching) -> None:
        batching.lengths.check_order(order)
        self._order = order
        self._batching = batching
        self._seed = int(order.settings().get("seed", 0))
        self._windows_in_epoch = -(-order.epoch_size // batching.window)
        self._epochs: OrderedDict[int, _EpochPlan] = OrderedDict()
        self._kept: OrderedDict[tuple[int, int], _Window] = OrderedDict()

    def num_groups(self, epoch: int) -> int:
        return self._counted(epoch).borders[-1]

    def padding(self, epoch: int) -> float:
        counted = self._counted(epoch)
        return 1 - counted.used / counted.tokens if counted.tokens else 0.0

    def settings(self) -> dict[str, Any]:
        return {**self._batching.settings(), "lengths": self._batching.lengths.digest, "batching_algorithm": ALGORITHM}

    def read(self, epoch: int, start: int, stop: int) -> list[NDArray[np.int64]]:
        """Return the samples of the units `start` to `stop`.

        Raises:
            IndexError: the units are not within `range(num_groups(epoch))`.
        """
        borders = self._counted(epoch, stop).borders
        if not 0 <= start <= stop <= borders[-1]:
            raise IndexError(f"units {start} to {stop} of epoch {epoch} are not within its {borders[-1]} units")
        found: list[NDArray[np.int64]] = []
        at = start
        while at < stop:
            number = bisect_right(borders, at) - 1
            window = self._window(epoch, number)
            until = min(stop, borders[number + 1])
            turns = window.turns[at - borders[number] : until - borders[number]]
            found.extend(window.samples[window.borders[group] : window.borders[group + 1]] for group in turns)
            at = until
        return found

    def _counted(self, epoch: int, wanted: int | None = None) -> _EpochPlan:
        """Return the epoch, planned until it has the wanted units, or completely for None."""
        if epoch not in self._epochs:
            self._epochs[epoch] = _EpochPlan()
            if len(self._epochs) > KEPT_EPOCHS:
                self._epochs.popitem(last=False)
        self._epochs.move_to_end(epoch)
        counted = self._epochs[epoch]
        while len(counted.borders) <= self._windows_in_epoch and (wanted is None or counted.borders[-1] < wanted):
            _, lengths, groups = self._grouped(epoch, len(counted.borders) - 1)
            counted.borders.append(counted.borders[-1] + groups.number)
            counted.tokens += groups.tokens
            counted.used += int(lengths.sum())
        return counted

    def _grouped(self, epoch: int, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64], _Groups]:
        start = number * self._batching.window
        samples = self._order.samples(epoch, start, min(start + self._batching.window, self._order.epoch_size))
        lengths = self._batching.lengths.values[samples].astype(np.int64)
        return samples, lengths, self._batching.grouped(lengths)

    def _window(self, epoch: int, number: int) -> _Window:
        window = self._kept.get((epoch, number))
        if window is None:
            samples, _, groups = self._grouped(epoch, number)
            borders = np.concatenate([[0], np.cumsum(np.bincount(groups.group_of, minlength=groups.number))])
            key = xxhash.xxh3_64_intdigest(struct.pack("<qq", epoch, number)) - 2**63
            turns = Permutation(groups.number, self._seed, key)(np.arange(groups.number))
            window = _Window(samples[np.argsort(groups.group_of, kind="stable")], borders, turns)
            self._kept[epoch, number] = window
            if len(self._kept) > KEPT_WINDOWS:
                self._kept.popitem(last=False)
        return window


def _opened(
    lengths: NDArray[np.integer[Any]] | Sequence[int] | str | os.PathLike[str],
) -> tuple[str, NDArray[np.integer[Any]]]:
    if not isinstance(lengths, str | os.PathLike):
        try:
            return "lengths", np.asarray(lengths)
        except ValueError as exc:
            raise ConfigError(f"lengths must be a list of whole numbers: {exc}") from exc
    name = f"the lengths in {Path(lengths)}"
    try:
        return name, np.load(lengths, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as exc:
        raise ConfigError(f"{name} cannot be read: {exc}; save them with numpy.save") from exc


def _raised(lengths: Any, multiple: int) -> Any:
    return -(-lengths // multiple) * multiple


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ConfigError(f"{name}={value!r} must be a whole number, 1 or more")
    return int(value)
