"""The value that stands for "nothing is held under this key"."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["MISS"]

MISS: Final[Any] = object()
"""Returned by a look-up in a cache or in what was read ahead, where None may be a sample."""
