"""Memory that this process uses, and may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["memory_limit", "resident_memory"]


def resident_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory that this process uses, or None without `/proc`."""
    try:
        pages = int((root / "proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory_limit(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory that this process may use: the least of the machine's and its control groups' limits.

    Each enclosing group may set a limit. Without one, version 2 of control groups says "max", and version 1 a number
    larger than any memory.

    Args:
        root: the root of the file system.
    """
    limits = [limit for path in _limit_files(root) if (limit := _number(path)) is not None]
    machine = _machine_memory()
    return min([*limits, machine] if machine is not None else limits, default=None)


def _limit_files(root: Path) -> Iterator[Path]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            yield from _upwards(root / "sys/fs/cgroup", group, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _upwards(root / "sys/fs/cgroup/memory", group, "memory.limit_in_bytes")


def _upwards(mount: Path, group: str, name: str) -> Iterator[Path]:
    """Yield the file of a group and of each enclosing one; in a container the mount itself is often the group."""
    parts = [part for part in group.split("/") if part not in ("", "..")]
    for count in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:count], name)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such group here, or "max"
        return None


def _machine_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
