"""A user's function of a sample, run at each read on the reader's own copy."""

from __future__ import annotations

import inspect
import struct
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import torch
import xxhash

from streaming.core.epoch_index import epoch_of
from streaming.errors import PrepareError, StreamingError
from streaming.link.sample_reader import SampleReader
from streaming.telemetry.stages import ACCOUNTS, TRANSFORM

__all__ = ["Transform"]


class Transform:
    """Calls `function(sample)`, or `function(sample, generator)` where it takes two.

    The generator is seeded by (seed, draw, position of the sample), so its numbers depend neither on workers nor on the
    order of reads. The draw is the epoch, or the number of earlier reads of the sample if the epoch is unknown.

    Attributes:
        takes_generator: whether the result depends on the draw.
    """

    def __init__(self, function: Callable[..., Any], seed: int) -> None:
        self._function = function
        self._seed = seed
        self.takes_generator = _takes_two(function)

    def read_many(self, reader: SampleReader, positions: Sequence[int], indices: Sequence[Any]) -> list[Any]:
        """Return the transformed samples at these positions; the indices as the sampler gave them know the epoch."""
        epochs = [epoch_of(index) for index in indices] if self.takes_generator else [0] * len(indices)
        draws = [epoch for epoch in epochs if epoch is not None]
        if len(draws) == len(indices):
            samples = reader.read_many(positions)
        else:  # the loader is unknown: each read of a sample is another draw
            samples, draws = reader.read_drawn(positions)
        began = perf_counter()
        transformed = [
            self(sample, draw, position, reader.name_of)
            for sample, draw, position in zip(samples, draws, positions, strict=True)
        ]
        ACCOUNTS.mine.seconds[TRANSFORM] += perf_counter() - began
        return transformed

    def __call__(self, sample: Any, draw: int, position: int, name_of: Callable[[int], str]) -> Any:
        """Return the result of the function.

        Args:
            sample: the reader's own copy.
            draw: seeds the generator, with the position.
            position: position of the sample in the data set.
            name_of: returns the name of the sample at a position, for the error.

        Raises:
            PrepareError: the function raised an error that is not this library's; that error is the cause.
        """
        try:
            if not self.takes_generator:
                return self._function(sample)
            return self._function(sample, self._generator(draw, position))
        except StreamingError:
            raise
        except Exception as exc:
            name = name_of(position)
            raise PrepareError(
                f"transform failed on sample {position} ({name!r}): {type(exc).__name__}: {exc}", path=name
            ) from exc

    def _generator(self, draw: int, position: int) -> torch.Generator:
        parts = struct.pack("=qqq", self._seed, draw, position)
        return torch.Generator().manual_seed(xxhash.xxh64_intdigest(parts) >> 1)


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except (TypeError, ValueError):  # one argument, or a builtin without a signature
        return False
    return True
