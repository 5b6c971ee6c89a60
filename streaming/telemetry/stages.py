"""What a trainer may wait for, and the account in which each thread that makes batches notes where its time went."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from operator import add
from typing import Final

__all__ = ["ACCOUNTS", "STAGES", "Account", "Accounts", "by_stage"]

STAGES: Final = ("source", "decompress", "decode", "prepare", "cache", "transform", "collate", "device", "queue")
"""In the order in which a sample passes them:

- `source`: the bytes were on their way, with every retry, second request and place in the line of an endpoint;
- `decompress`: of an object that ends in `.zst`;
- `decode`: from bytes to a sample;
- `prepare`, `transform`, `collate`: the functions given by the user, or the ones in their place; `collate` also what
  the DataLoader takes around it, where the trainer makes its batches itself;
- `cache`: copying samples out of the cache, with their decompression, or encoding them for it;
- `device`: starting the copies to an accelerator;
- `queue`: none of these: the batch was finished and on its way from a worker, or a read waited for room in the budget.
"""

SOURCE, DECOMPRESS, DECODE, PREPARE, CACHE, TRANSFORM, COLLATE, DEVICE, QUEUE = range(len(STAGES))


def by_stage(seconds: Sequence[float]) -> dict[tuple[str, ...], float]:
    """Return seconds by stage, under the stages' names."""
    return {(stage,): part for stage, part in zip(STAGES, seconds, strict=True)}


class Account:
    """Seconds of one thread by stage.

    Attributes:
        seconds: one number for each of `STAGES`; whoever wants to know what something takes puts another list in its
            place meanwhile.
    """

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = [0.0] * len(STAGES)

    def add(self, seconds: Sequence[float]) -> None:
        """Note so many seconds of each stage."""
        self.seconds[:] = map(add, self.seconds, seconds)


class Accounts(threading.local):
    """Of each thread its own.

    Attributes:
        mine: that of this thread.
    """

    def __init__(self) -> None:  # called anew in each thread that looks at it
        self.mine = Account()


ACCOUNTS: Final = Accounts()


def _begin_anew() -> None:
    """In a forked child: a worker is forked while its parent waits for a batch."""
    ACCOUNTS.mine = Account()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
