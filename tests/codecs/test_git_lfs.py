"""A pointer that Git LFS left in place of a file is never taken for the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from streaming.adapter import StreamingDatasetAdapter
from streaming.codecs import decode
from streaming.errors import DecodeError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"5" * 64 + b"\nsize 123456\n"
TOLD = r"Git LFS pointer.*123456 bytes.*git lfs pull"
NAMES = ["a.pt", "a.safetensors", "a.npy", "a.npz", "a.json", "a.bin", "a.txt", "a.pt.zst", "a.bin.zst"]


@pytest.mark.parametrize("name", NAMES)
def test_a_pointer_is_named_for_every_format(name: str) -> None:
    """Raw bytes and text too, which would otherwise be wrong samples without a word."""
    with pytest.raises(DecodeError, match=rf"'{name}' in source 'data'.*{TOLD}"):
        decode(POINTER, name, source="data")


@pytest.mark.parametrize("name", ["a.bin", "a.pt"])
def test_a_pointer_among_samples(tmp_path: Path, name: str) -> None:
    """Reading it says what to do, with the name of the object and its source."""
    (tmp_path / name).write_bytes(POINTER)
    with StreamingDatasetAdapter({"name": "data", "path": str(tmp_path)}) as adapter:
        with pytest.raises(DecodeError, match=rf"'{name}' in source 'data'.*{TOLD}"):
            adapter[0]


def test_a_lfs_pointer_instead_of_rows(tmp_path: Path) -> None:
    """Its lines are not counted as samples: the index says what it is."""
    (tmp_path / "a.jsonl").write_bytes(POINTER)
    with pytest.raises(DecodeError, match=rf"'a\.jsonl' in source 'data'.*{TOLD}"):
        StreamingDatasetAdapter({"name": "data", "path": str(tmp_path)})


@pytest.mark.parametrize("data", [POINTER[:40], b"x" + POINTER, POINTER + b"x" * 2000, b"version https://git-lfs"])
def test_what_only_looks_like_a_pointer_is_data(data: bytes) -> None:
    """A text about LFS, or a pointer within something larger, is what its suffix says."""
    assert decode(data, "a.bin") == data
