"""Save an index so that it is there whole or not at all, and map it so that all processes share its pages."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import secrets
from pathlib import Path

from streaming.errors import IndexFileError

__all__ = ["map_file", "save_file"]


def save_file(path: Path, data: bytes | mmap.mmap) -> mmap.mmap:
    """Write a file beside `path`, flush it to the disk, and put it in the place of whatever is there.

    Several processes may save at once: each writes a file of its own, the last one stays, and each gets its own back.

    Returns:
        A map of what was written.

    Raises:
        OSError: if it cannot be written (disk full, folder not writable); what was at `path` before is untouched.
        FileExistsError: if that is no file, but a folder, device or pipe.
    """
    if path.exists() and not path.is_file():
        text = "the index cannot take the place of what is no file; give another path"
        raise FileExistsError(errno.EEXIST, text, str(path))
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb+") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
            _flush_folder(path.parent)
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as exc:
        text = f"the index cannot be saved ({exc.strerror}); nothing was left behind: make room, or choose another path"
        raise OSError(exc.errno, text, str(path)) from exc
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _flush_folder(folder: Path) -> None:
    """Make the new name last through a power cut, where folders can be flushed."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def map_file(path: Path) -> mmap.mmap:
    """A read-only map of a file.

    Raises:
        FileNotFoundError: or another OSError, if it cannot be opened.
        IndexFileError: if it is empty.
    """
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise IndexFileError(f"the index {path} is empty: it was cut short; build it anew", path=str(path))
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
