"""What becomes of adapters when their process forks: in the child they read through the owner in the parent."""

from __future__ import annotations

import os
import weakref
from typing import Final, Protocol

from streaming.link.sample_reader import SampleReader

__all__ = ["Forkable", "follow_forks", "inherited"]


class Forkable(Protocol):
    """What has a reader that has to be another in a forked child."""

    def _before_fork(self) -> None:
        """In the parent: prepare what the child will need."""

    def _after_fork_in_child(self) -> None:
        """Take another reader."""


_followed: Final[weakref.WeakSet[Forkable]] = weakref.WeakSet()
_of_parents: Final[list[SampleReader]] = []  # never finalised in the child


def follow_forks(forkable: Forkable) -> None:
    """Tell it of each fork while it lives."""
    _followed.add(forkable)


def inherited(reader: SampleReader) -> SampleReader:
    """In a forked child: a reader through the same owner, in place of that of the parent."""
    _of_parents.append(reader)
    return reader.as_worker()


def _prepare() -> None:
    for forkable in list(_followed):
        forkable._before_fork()


def _follow() -> None:
    for forkable in list(_followed):
        forkable._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_prepare, after_in_child=_follow)
