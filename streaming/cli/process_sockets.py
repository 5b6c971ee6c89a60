"""Listening sockets of a local process, from /proc (only on Linux)."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from streaming.errors import AccessDenied, ConfigError, ObjectNotFoundError

__all__ = ["descendants", "listening"]

PROC = Path("/proc")
_LISTEN = "0A"  # the state in /proc/net/tcp


def descendants(pid: int) -> list[int]:
    """Return the process and its descendants, such as the ranks that torchrun started; itself first.

    Raises:
        ConfigError: the system is not Linux.
        ObjectNotFoundError: there is no such process.
    """
    if sys.platform != "linux":
        raise ConfigError(f"{pid}: finding the port of a process needs Linux; give its URL: http://127.0.0.1:8000")
    if not (PROC / str(pid)).exists():
        raise ObjectNotFoundError(
            f"there is no process {pid} on this machine; give the PID of a run (`pgrep -f`), or a URL"
        )
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found = [pid]
    for each in found:
        found += sorted(children.get(each, []))
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                # The name, in brackets, may contain anything; the state and the parent follow it.
                yield int(entry.name), int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended


def listening(pid: int) -> dict[str, tuple[str, int]]:
    """Return the listening TCP sockets of a process: `{inode: (host, port)}`, as they can be reached from here.

    Raises:
        AccessDenied: the process belongs to another user.
        ObjectNotFoundError: the process has ended.
    """
    folder = PROC / str(pid)
    try:
        held = {os.readlink(entry) for entry in _entries(folder / "fd")}
        rows = [row.split() for name in ("tcp", "tcp6") for row in _rows(folder / "net" / name)]
    except PermissionError as exc:
        raise AccessDenied(
            f"process {pid} belongs to another user, so its sockets cannot be seen: run as that user, or give its URL"
        ) from exc
    except (FileNotFoundError, ProcessLookupError) as exc:
        raise ObjectNotFoundError(f"process {pid} ended") from exc
    return {row[9]: _address(row[1]) for row in rows if row[3] == _LISTEN and f"socket:[{row[9]}]" in held}


def _entries(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.is_symlink():  # otherwise it was closed
            yield entry


def _rows(table: Path) -> list[str]:
    return table.read_text().splitlines()[1:] if table.exists() else []


def _address(text: str) -> tuple[str, int]:
    """Parse `0100007F:1F90`: words of 32 bits, each in the byte order of the machine."""
    words, _, port = text.partition(":")
    packed = b"".join(int(words[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(words), 8))
    address = ipaddress.ip_address(packed)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]", int(port, 16)
    return str(address) if address.version == 4 else f"[{address}]", int(port, 16)
