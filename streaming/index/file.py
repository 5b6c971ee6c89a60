"""Save an index atomically, and map it so that all processes share its pages."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
from pathlib import Path

from streaming.core.atomic_write import replacing
from streaming.errors import IndexFileError

__all__ = ["map_file", "save_file"]

_BINARY = getattr(os, "O_BINARY", 0)


def save_file(path: Path, data: bytes | mmap.mmap) -> mmap.mmap:
    """Write a file next to `path`, flush it to the disk, and move it to `path`.

    Several processes may save at once. Each writes a file of its own, the last one stays, and each maps its own.

    Returns:
        A map of the new file.

    Raises:
        OSError: if it cannot be written (disk full, folder not writable); a file at `path` stays as it was.
        FileExistsError: if `path` is a folder, device or pipe.
    """
    if path.exists() and not path.is_file():
        text = "the index cannot replace what is not a file; give another path"
        raise FileExistsError(errno.EEXIST, text, str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        _flush_folder(path.parent)
    except OSError as exc:
        text = f"the index cannot be saved ({exc.strerror}); nothing was left behind: make room, or choose another path"
        raise OSError(exc.errno, text, str(path)) from exc
    return mapped


def _flush_folder(folder: Path) -> None:
    """Make the new name survive a power cut, on systems where folders can be flushed; ignored on others."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def map_file(path: Path, *, is_shared: bool = False) -> mmap.mmap:
    """Map a file read-only.

    Args:
        is_shared: whether users other than this one and root may own or write the file.

    Raises:
        FileNotFoundError: or another OSError, if it cannot be opened.
        IndexFileError: if it is empty or not a regular file, or others could have written it.
    """
    # Non-blocking, so that a pipe at this path does not hang.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | _BINARY)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise IndexFileError(f"the index {path} is not a regular file; give another path", path=str(path))
        if not is_shared:
            _check_writers(path, status)
        if not status.st_size:
            raise IndexFileError(f"the index {path} is empty: it was cut short; build it again", path=str(path))
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)


def _check_writers(path: Path, status: os.stat_result) -> None:
    """Refuse a file that others could have written: an index decides which objects are read."""
    if not hasattr(os, "geteuid"):
        return
    if status.st_uid not in (os.geteuid(), 0):
        why, step = f"belongs to user {status.st_uid}", "build one of your own"
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        why, step = f"may be written by others (mode {stat.S_IMODE(status.st_mode):o})", "chmod go-w it"
    else:
        return
    text = f"the index {path} {why}; {step}, or set index_is_shared=True if you trust everyone who can write it"
    raise IndexFileError(text, path=str(path))
