"""List the regular files below a directory, following links that stay inside it. About 5 us a file."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from streaming.errors import AccessDenied, ObjectNotFoundError, SourceError
from streaming.sources.base import FileInfo, check_prefix
from streaming.sources.local.root import LocalRoot
from streaming.telemetry.skipped_objects import Skips

_GONE = (errno.ENOTDIR, errno.ELOOP, errno.EXDEV)  # a folder that was replaced by a file or a link meanwhile


def scan(base: str, prefix: str, source: str, skips: Skips) -> Iterator[FileInfo]:
    """Yield the regular files whose path below `base` begins with `prefix`, sorted by name within each folder.

    A link to a file or folder inside `base` is listed under its own name. A link to one of its parent folders is left
    out, and so are files that vanish during the scan.

    Args:
        base: a real path (without links) that ends in a separator.
        skips: counts links out of `base`, broken links, pipes, sockets and devices.

    Raises:
        ObjectNotFoundError: at the first step, if `base` does not exist.
        AccessDenied: if a folder may not be listed.
    """
    check_prefix(prefix)
    try:
        root = LocalRoot(base)
    except FileNotFoundError as error:
        text = f"the root {base!r} of source {source!r} does not exist; check the path of the source"
        raise ObjectNotFoundError(text, source=source) from error
    except OSError as error:
        raise _not_listed(base, source, error) from error
    yield from _Scan(root, base, prefix, source, skips).files_in(prefix.rpartition("/")[0])


class _Scan:
    def __init__(self, root: LocalRoot, base: str, prefix: str, source: str, skips: Skips) -> None:
        self._root = root
        self._base = base
        self._prefix = prefix
        self._source = source
        self._skips = skips

    def files_in(self, folder: str) -> Iterator[FileInfo]:
        real = os.path.realpath(self._base + folder)
        if os.path.join(real, "").startswith(self._base):
            parts = folder.split("/") if folder else []
            around = {os.path.realpath(self._base + "/".join(parts[:depth])) for depth in range(len(parts) + 1)}
            yield from self._walk(f"{folder}/" if folder else "", real, frozenset(around))
        else:
            self._skips.add("symlink_outside_root", folder)

    def _walk(self, folder: str, real: str, around: frozenset[str]) -> Iterator[FileInfo]:
        """Yield the files below `folder` (ending in `/`), whose real path is `real`; `around` are its real parents."""
        try:
            opened = self._root.open_folder(self._below(real))
        except OSError as error:
            if isinstance(error, FileNotFoundError) or error.errno in _GONE:
                return
            raise _not_listed(folder or real, self._source, error) from error
        try:
            for entry in self._entries(opened, folder or real):
                path = folder + entry.name
                if not path.startswith(self._prefix) and not self._prefix.startswith(f"{path}/"):
                    continue
                real_entry = os.path.join(real, entry.name)
                is_link = entry.is_symlink()
                try:
                    if is_link:
                        real_entry = os.path.realpath(real_entry, strict=True)
                        if not real_entry.startswith(self._base) and real_entry + os.sep != self._base:
                            self._skips.add("symlink_outside_root", path)
                            continue
                        status = self._root.stat_real(self._below(real_entry))
                    else:
                        status = entry.stat(follow_symlinks=False)
                except OSError:  # vanished meanwhile, or a broken link
                    if is_link:
                        self._skips.add("broken_link", path)
                    continue
                if stat.S_ISDIR(status.st_mode):
                    if real_entry not in around:
                        yield from self._walk(f"{path}/", real_entry, around | {real_entry})
                elif not path.startswith(self._prefix):
                    continue
                elif stat.S_ISREG(status.st_mode):
                    size = status.st_size
                    yield FileInfo(path, size, f"{status.st_mtime_ns:x}-{size:x}", status.st_mtime)
                else:
                    self._skips.add("special_file", path)
        finally:
            if isinstance(opened, int):
                os.close(opened)

    def _below(self, real: str) -> str:
        """Return a real path relative to the root."""
        return real[len(self._base) :]

    def _entries(self, opened: int | str, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(opened) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return []  # vanished meanwhile
        except OSError as error:
            raise _not_listed(folder, self._source, error) from error


def _not_listed(folder: str, source: str, error: OSError) -> SourceError:
    if isinstance(error, PermissionError):
        text = f"folder {folder!r} of source {source!r} may not be listed by this user; check its mode"
        return AccessDenied(text, path=folder, source=source)
    return SourceError(f"folder {folder!r} of source {source!r} cannot be listed: {error.strerror}", source=source)
