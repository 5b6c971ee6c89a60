"""A directory that is held open, so that only files below it can be opened, even if folders are replaced meanwhile.

A path that is checked first and opened afterwards can change in between: a folder may be swapped for a link. Linux
resolves a path below a descriptor in one call (`openat2` with `RESOLVE_BENEATH`, since 5.6): 1.6 us, vs. 1.2 us for
`os.open` of an absolute path. On other systems the folders are opened one by one, and links are refused. Windows has
neither; there a path is resolved, checked and opened.
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
# Non-blocking, so that a FIFO cannot hang a reader; it makes no difference for a regular file.
_READ = os.O_RDONLY | _CLOSED | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_LIST = os.O_RDONLY | _CLOSED | getattr(os, "O_DIRECTORY", 0)
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()

MAX_TRIES: Final = 100  # for calls that fail because a folder is renamed meanwhile


class _How(ctypes.Structure):
    """The third argument of openat2."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_HOW: Final = {
    (flags, links): _How(flags, 0, _BENEATH | _NO_MAGIC_LINKS | (0 if links else _NO_SYMLINKS))
    for flags in (_READ, _LIST, _FOLDER)
    for links in (True, False)
}
# Made once: converting the arguments for each call takes 0.5 us.
_NUMBER: Final = ctypes.c_long(437)  # of openat2, on every architecture
_PLACE: Final = {key: ctypes.c_void_p(ctypes.addressof(how)) for key, how in _HOW.items()}
_SIZE: Final = ctypes.c_size_t(ctypes.sizeof(_How))
_READ_PLACE: Final = _PLACE[_READ, True]
_system_call = ctypes.CDLL(None, use_errno=True).syscall if sys.platform.startswith("linux") else None


class LocalRoot:
    """A directory held open. It is closed when it is no longer referenced, so readers never lose its descriptor.

    Args:
        path: of the directory, without links.

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
            try:  # older kernels do not have openat2, and a sandbox may forbid it
                os.close(self._open(".", _FOLDER, False))
            except OSError:
                self._number = None

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self._descriptor >= 0:
            close(self._descriptor)

    def is_current(self) -> bool:
        """Whether its path still leads to this directory."""
        if self._descriptor < 0:
            return True
        try:
            return os.path.samestat(os.stat(self._base), os.fstat(self._descriptor))
        except OSError:
            return False

    def open(self, path: str) -> int:
        """Return a descriptor of a file. The caller closes it.

        Args:
            path: below the directory, without `..` and NUL. Relative links inside the directory are followed on Linux.

        Raises:
            OSError: if it cannot be opened; `EXDEV`, `ELOOP` or `ENOTDIR` where a link was not followed.
        """
        if self._number is not None and _system_call is not None:
            descriptor: int = _system_call(_NUMBER, self._number, path.encode(_ENCODING, _ERRORS), _READ_PLACE, _SIZE)
            if descriptor >= 0:
                return descriptor
        return self._open(path, _READ, True)

    def open_real(self, path: str) -> int:
        """Open a path that must not have links; `ELOOP` or `ENOTDIR` if it has."""
        return self._open(path, _READ, False)

    def open_folder(self, path: str) -> int | str:
        """Return the argument of `os.scandir` for a folder, by its path without links. The caller closes a descriptor.

        Raises:
            OSError: as `open_real`.
        """
        return self._base + path if self._descriptor < 0 else self._open(path or ".", _LIST, False)

    def stat_real(self, path: str) -> os.stat_result:
        """Return the status of a file or folder, by its path without links.

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
        """Open each folder below the previous one. No link is followed, as its target would need a check."""
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
