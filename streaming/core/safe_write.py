"""Writing files in folders that others may write too: no link is followed, and no name can be guessed beforehand."""

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
"""Of new files, whatever the mask of the process lets others do: nobody else writes them."""

_APPEND = (
    os.O_WRONLY
    | os.O_APPEND
    | os.O_CREAT
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a pipe that nobody reads is an error, and no wait without end
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file in the folder of `path`, which takes its place when the block ends well, and is removed otherwise.

    A link at `path` is replaced itself; what it leads to stays as it is. Several may write at once: the last one stays.

    Raises:
        OSError: if it cannot be written; what was at `path` before is untouched.
    """
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.tmp")
    try:
        # Exclusive creation follows no link, and takes no file that is there.
        with open(temporary, "xb+", opener=lambda name, flags: os.open(name, flags, MODE)) as file:
            yield file
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def append(path: Path, data: bytes) -> None:
    """Append to a file in one call, so that lines of several processes do not mix; it is made if it is missing.

    Raises:
        OSError: if it cannot be written, or if there is a link or something else than a file.
    """
    descriptor = os.open(path, _APPEND, MODE)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
