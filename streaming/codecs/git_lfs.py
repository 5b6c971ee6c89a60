"""Git LFS pointers: small files in place of files that were not fetched."""

from __future__ import annotations

import re

from streaming.errors import DecodeError

__all__ = ["refuse_lfs_pointer"]

MAX_BYTES = 1024  # of a pointer, by the specification
_BEGIN = b"version https://git-lfs.github.com/spec/v1\n"
_SIZE = re.compile(rb"\nsize (\d+)\n")


def refuse_lfs_pointer(data: bytes | bytearray | memoryview, path: str, source: str | None) -> None:
    """Refuse an object that is a Git LFS pointer.

    Raises:
        DecodeError: naming the object, and how to fetch it.
    """
    if len(data) >= MAX_BYTES or bytes(data[: len(_BEGIN)]) != _BEGIN:
        return
    size = _SIZE.search(bytes(data))
    where = repr(path) if source is None else f"{path!r} in source {source!r}"
    what = "Git LFS pointer" + (f" to {size[1].decode()} bytes" if size else "")
    text = f"{where} is a {what}, not the object itself; run git lfs pull in the repository that it was copied from"
    raise DecodeError(text, path=path, source=source)
