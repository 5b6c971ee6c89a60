"""Writes that no reader sees half done. In shared folders too, no link is followed and no name can be guessed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

__all__ = ["append", "replacing"]

MODE: Final = 0o644
"""Mode of new files: only their owner writes them, even if the mask of the process would let others."""

_APPEND = (
    os.O_WRONLY
    | os.O_APPEND
    | os.O_CREAT
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a pipe without a reader is an error, not an endless wait
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


@contextlib.contextmanager
def replacing(path: Path, mode: int = MODE) -> Iterator[BinaryIO]:
    """Write a new file that replaces `path` when the block succeeds and is removed otherwise.

    A link at `path` is replaced, not followed. With several writers at once, the last one wins.

    Args:
        mode: of the new file, less the mask of the process.

    Raises:
        OSError: if it cannot be written; `path` is untouched then.
    """
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.tmp")
    try:
        # Exclusive creation follows no link and opens no existing file.
        with open(temporary, "xb+", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def append(path: Path, data: bytes) -> None:
    """Append to a file, creating it if needed, in one call: lines of several processes do not mix.

    Raises:
        OSError: if it cannot be written, or is a link or not a regular file.
    """
    descriptor = os.open(path, _APPEND, MODE)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
