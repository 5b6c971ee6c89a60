"""The stages that a trainer may wait for, and the account in which each thread that makes batches records its time."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from operator import add
from typing import Final

__all__ = ["ACCOUNTS", "STAGES", "Account", "Accounts", "by_stage"]

STAGES: Final = ("source", "decompress", "decode", "prepare", "cache", "transform", "collate", "device", "queue")
"""In the order in which a sample passes them:

- `source`: transfer of the bytes, with retries, hedges and waits for the concurrency limit of the endpoint;
- `decompress`: decompression of an object that ends in `.zst`;
- `decode`: from bytes to a sample;
- `prepare`, `transform`, `collate`: the user's functions, or the defaults; `collate` includes the DataLoader's work
  around it, where the trainer makes its own batches;
- `cache`: copying samples out of the cache, with their decompression, or encoding them for it;
- `device`: starting the copies to an accelerator;
- `queue`: everything else: a finished batch was on its way from a worker, or a read waited for room in the budget.
"""

SOURCE, DECOMPRESS, DECODE, PREPARE, CACHE, TRANSFORM, COLLATE, DEVICE, QUEUE = range(len(STAGES))


def by_stage(seconds: Sequence[float]) -> dict[tuple[str, ...], float]:
    """Return the seconds under the names of their stages."""
    return {(stage,): part for stage, part in zip(STAGES, seconds, strict=True)}


class Account:
    """Seconds of one thread by stage.

    Attributes:
        seconds: one number for each of `STAGES`; replaced by another list while one operation is measured.
    """

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = [0.0] * len(STAGES)

    def add(self, seconds: Sequence[float]) -> None:
        """Add seconds to each stage."""
        self.seconds[:] = map(add, self.seconds, seconds)


class Accounts(threading.local):
    """One account per thread.

    Attributes:
        mine: the account of this thread.
    """

    def __init__(self) -> None:  # called in each thread on first use
        self.mine = Account()


ACCOUNTS: Final = Accounts()


def _reset_in_child() -> None:
    """Start a new account in a forked child: a worker is forked while its parent waits for a batch."""
    ACCOUNTS.mine = Account()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
