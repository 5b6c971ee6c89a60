"""A user's function of a sample, run at each read on the reader's own copy."""

from __future__ import annotations

import inspect
import struct
from collections.abc import Callable
from typing import Any

import torch
import xxhash

from streaming.errors import PrepareError, StreamingError

__all__ = ["Transform"]


class Transform:
    """Calls `function(sample)`, or `function(sample, generator)` where it takes two.

    The generator is seeded by (seed, epoch, position of the sample in the data set), so that what it draws depends
    neither on workers nor on the order of reads.
    """

    def __init__(self, function: Callable[..., Any], seed: int) -> None:
        self._function = function
        self._seed = seed
        self._takes_generator = _takes_two(function)

    def __call__(self, sample: Any, epoch: int, position: int) -> Any:
        """What the function returns.

        Raises:
            PrepareError: if it raises anything that is not this library's; that is the cause.
        """
        try:
            if not self._takes_generator:
                return self._function(sample)
            return self._function(sample, self._generator(epoch, position))
        except StreamingError:
            raise
        except Exception as exc:
            raise PrepareError(f"transform failed on sample {position}: {type(exc).__name__}: {exc}") from exc

    def _generator(self, epoch: int, position: int) -> torch.Generator:
        parts = struct.pack("=qqq", self._seed, epoch, position)
        return torch.Generator().manual_seed(xxhash.xxh64_intdigest(parts) >> 1)


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except (TypeError, ValueError):  # one argument, or a builtin that shows no signature
        return False
    return True
