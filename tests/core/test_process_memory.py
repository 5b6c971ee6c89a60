"""Memory that a process uses, and may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streaming.core.process_memory import memory_limit, resident_memory


def place(root: Path, files: dict[str, str]) -> Path:
    """A file system with these files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_resident_memory_is_in_bytes(tmp_path: Path) -> None:
    """The second number of `statm` counts pages."""
    root = place(tmp_path, {"proc/self/statm": "1000 250 30 1 0 400 0\n"})
    assert resident_memory(root) == 250 * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("text", [None, "", "what"])
def test_resident_memory_may_be_unknown(tmp_path: Path, text: str | None) -> None:
    """Without `/proc`, or with something else there, the result is None."""
    assert resident_memory(place(tmp_path, {} if text is None else {"proc/self/statm": text})) is None


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        # version 2: the least of the group and those around it
        ({"proc/self/cgroup": "0::/pod/trainer\n", "sys/fs/cgroup/pod/trainer/memory.max": "1048576\n"}, 1 << 20),
        (
            {
                "proc/self/cgroup": "0::/pod/trainer\n",
                "sys/fs/cgroup/pod/trainer/memory.max": "max\n",
                "sys/fs/cgroup/pod/memory.max": "2097152\n",
            },
            2 << 20,
        ),
        # inside a container its own group is the mount
        ({"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/memory.max": "1048576\n"}, 1 << 20),
        # version 1
        (
            {
                "proc/self/cgroup": "9:cpu:/\n4:memory:/job\n0::/\n",
                "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "3145728\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            3 << 20,
        ),
    ],
)
def test_the_limit_is_the_least_of_the_groups(tmp_path: Path, files: dict[str, str], limit: int) -> None:
    """Both versions of control groups are read, up to the mount."""
    assert memory_limit(place(tmp_path, files)) == limit


@pytest.mark.parametrize("files", [{}, {"proc/self/cgroup": "4:memory:/\n0::/\n"}])
def test_without_a_limit_the_machine_is_the_limit(tmp_path: Path, files: dict[str, str]) -> None:
    """Where no group sets one there is still so much memory in the machine."""
    assert memory_limit(place(tmp_path, files)) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
