"""Let adapters survive a fork of their process: in the child they read through the engine of the parent."""

from __future__ import annotations

import os
import weakref
from typing import Final, Protocol

from streaming.link.sample_reader import SampleReader

__all__ = ["Forkable", "follow_forks", "inherited"]


class Forkable(Protocol):
    """An object whose reader must be replaced in a forked child."""

    def _before_fork(self) -> None:
        """Prepare in the parent what the child will need."""

    def _after_fork_in_child(self) -> None:
        """Replace the reader."""


_followed: Final[weakref.WeakSet[Forkable]] = weakref.WeakSet()
_kept: Final[list[SampleReader]] = []  # readers of the parent, which must not be finalised in the child


def follow_forks(forkable: Forkable) -> None:
    """Call the object's hooks at each fork while it lives."""
    _followed.add(forkable)


def inherited(reader: SampleReader) -> SampleReader:
    """Return a reader through the same engine, which replaces the parent's reader in a forked child."""
    _kept.append(reader)
    return reader.as_worker()


def _prepare() -> None:
    for forkable in list(_followed):
        forkable._before_fork()


def _follow() -> None:
    for forkable in list(_followed):
        forkable._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_prepare, after_in_child=_follow)
