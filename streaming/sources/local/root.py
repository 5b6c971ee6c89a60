"""A directory that is held open, and what lies below it: whatever happens to folders meanwhile, nothing else is opened.

A path that is checked and opened afterwards can be another one by then: a folder that was swapped for a link leads
anywhere. Linux resolves a path below a descriptor in one call (`openat2` with `RESOLVE_BENEATH`, from 5.6 on): 1.6 us,
where `os.open` of an absolute path takes 1.2. Elsewhere the folders are opened one by one, none of them a link. Windows
has neither; there a path is resolved, checked and opened.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from typing import Final

__all__ = ["LocalRoot"]

_NO_MAGIC_LINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08
_CLOSED = getattr(os, "O_CLOEXEC", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = getattr(os, "O_PATH", 0) | getattr(os, "O_DIRECTORY", 0) | _CLOSED
# Non-blocking, so that a FIFO in the tree cannot hang a reader; it changes nothing for a regular file.
_READ = os.O_RDONLY | _CLOSED | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_LIST = os.O_RDONLY | _CLOSED | getattr(os, "O_DIRECTORY", 0)
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()

MAX_TRIES: Final = 100  # while folders are renamed during the call


class _How(ctypes.Structure):
    """The third argument of openat2."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_HOW: Final = {
    (flags, links): _How(flags, 0, _BENEATH | _NO_MAGIC_LINKS | (0 if links else _NO_SYMLINKS))
    for flags in (_READ, _LIST, _FOLDER)
    for links in (True, False)
}
# Arguments that are made once: without that the call takes 0.5 us longer.
_NUMBER: Final = ctypes.c_long(437)  # of openat2, on every architecture
_PLACE: Final = {key: ctypes.c_void_p(ctypes.addressof(how)) for key, how in _HOW.items()}
_SIZE: Final = ctypes.c_size_t(ctypes.sizeof(_How))
_READ_PLACE: Final = _PLACE[_READ, True]
_system_call = ctypes.CDLL(None, use_errno=True).syscall if sys.platform.startswith("linux") else None


class LocalRoot:
    """A directory held open. Closed when nobody uses it any more, so that no reader's descriptor is taken from it.

    Args:
        path: without links.

    Raises:
        OSError: if it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = -1
        self._number: ctypes.c_long | None = None
        self._base = os.path.join(path, "")
        if os.open not in os.supports_dir_fd:
            os.stat(path)
            return
        self._descriptor = os.open(path, _FOLDER)
        if _system_call is not None:
            self._number = ctypes.c_long(self._descriptor)
            try:  # an older kernel does not know it, and a sandbox may forbid it
                os.close(self._open(".", _FOLDER, False))
            except OSError:
                self._number = None

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self._descriptor >= 0:
            close(self._descriptor)

    def is_current(self) -> bool:
        """Whether the directory is still the one that is found under its path."""
        if self._descriptor < 0:
            return True
        try:
            return os.path.samestat(os.stat(self._base), os.fstat(self._descriptor))
        except OSError:
            return False

    def open(self, path: str) -> int:
        """A descriptor of a file. The caller closes it.

        Args:
            path: below the directory, without `..` and NUL. Links in it are followed, at least to a file or folder in
                the same directory, relative to the link.

        Raises:
            OSError: if it cannot be opened; `EXDEV`, `ELOOP` or `ENOTDIR` where a link was not followed.
        """
        if self._number is not None and _system_call is not None:
            descriptor: int = _system_call(_NUMBER, self._number, path.encode(_ENCODING, _ERRORS), _READ_PLACE, _SIZE)
            if descriptor >= 0:
                return descriptor
        return self._open(path, _READ, True)

    def open_real(self, path: str) -> int:
        """As `open`, for a path without links; `ELOOP` or `ENOTDIR` if one is in it after all."""
        return self._open(path, _READ, False)

    def open_folder(self, path: str) -> int | str:
        """What `os.scandir` takes to list a folder, by its path without links; `close` it.

        Raises:
            OSError: as `open_real`.
        """
        return self._base + path if self._descriptor < 0 else self._open(path or ".", _LIST, False)

    def stat_real(self, path: str) -> os.stat_result:
        """The status of a file or folder, by its path without links.

        Raises:
            OSError: as `open_real`.
        """
        if self._descriptor < 0:
            return os.stat(self._base + path, follow_symlinks=False)
        folder, _, name = path.rpartition("/")
        descriptor = self._open(folder or ".", _FOLDER, False)
        try:
            return os.stat(name or ".", dir_fd=descriptor, follow_symlinks=False)
        finally:
            os.close(descriptor)

    def _open(self, path: str, flags: int, links: bool) -> int:
        if self._number is not None:
            return self._open_beneath(path, flags, links)
        return self._open_by_path(path, flags) if self._descriptor < 0 else self._open_by_parts(path, flags)

    def _open_beneath(self, path: str, flags: int, links: bool) -> int:
        assert _system_call is not None
        name, number = path.encode(_ENCODING, _ERRORS), 0
        for _ in range(MAX_TRIES):
            descriptor: int = _system_call(_NUMBER, self._number, name, _PLACE[flags, links], _SIZE)
            if descriptor >= 0:
                return descriptor
            number = ctypes.get_errno()
            if number not in (errno.EAGAIN, errno.EINTR):
                break
        raise OSError(number, os.strerror(number), path)

    def _open_by_parts(self, path: str, flags: int) -> int:
        """Open each folder below the one before. No link is followed, as where it leads would have to be looked at."""
        *folders, name = [part for part in path.split("/") if part not in ("", ".")] or ["."]
        at = self._descriptor
        try:
            for folder in folders:
                below = os.open(folder, _FOLDER | _NO_LINK, dir_fd=at)
                if at != self._descriptor:
                    os.close(at)
                at = below
            return os.open(name, flags | _NO_LINK, dir_fd=at)
        finally:
            if at != self._descriptor:
                os.close(at)

    def _open_by_path(self, path: str, flags: int) -> int:
        real = os.path.realpath(self._base + path, strict=True)
        if real != os.path.normpath(self._base + path):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        return os.open(real, flags)
