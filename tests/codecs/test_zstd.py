"""Zstandard frames: several, of unknown size, skippable, cut, and built to fill the memory."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from streaming.codecs import decode, encode
from streaming.errors import DecodeError, ObjectTooLargeError, TruncatedData
from tests.contracts.codec import examples

TEXT = b"some text, again and again, " * 1000


def unsized(data: bytes) -> bytes:
    """A frame without its size, as a pipe writes it."""
    stream = zstandard.ZstdCompressor().compressobj()
    return stream.compress(data) + stream.flush()


def skippable(data: bytes) -> bytes:
    return struct.pack("<LL", 0x184D2A5E, len(data)) + data


def bomb(declared: int | None, blocks: int = 250_000) -> bytes:
    """1 MB that repeats one byte 128 KiB a block, 33 GB in all, with or without a declared size."""
    window = bytes([7 << 3])  # 128 KiB
    head = b"\x00" + window if declared is None else b"\xc0" + window + struct.pack("<Q", declared)
    block = ((128 * 1024) << 3 | 1 << 1).to_bytes(3, "little") + b"x"
    return b"\x28\xb5\x2f\xfd" + head + block * blocks


@pytest.mark.parametrize(
    "data",
    [
        zstandard.compress(TEXT),
        unsized(TEXT),
        zstandard.compress(TEXT[:100]) + zstandard.compress(TEXT[100:]),
        unsized(TEXT[:100]) + zstandard.compress(b"") + unsized(b"") + zstandard.compress(TEXT[100:]),
        skippable(b"note") + zstandard.compress(TEXT) + skippable(b""),
        zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress(TEXT),
    ],
    ids=["one", "unsized", "two", "mixed", "skippable", "checksum"],
)
def test_every_way_to_write_frames_is_read(data: bytes) -> None:
    """Frames of each kind decode to the same bytes, cut anywhere to an error, and with bytes behind to an error."""
    assert decode(data, "a.bin.zst") == TEXT
    for extra in (b"x", b"garbage behind", bytes(9), b"\x28\xb5\x2f"):
        with pytest.raises(DecodeError):
            decode(data + extra, "a.bin.zst")
    for limit in (len(TEXT) - 1, len(data)):
        with pytest.raises(ObjectTooLargeError, match="limit"):
            decode(data, "a.bin.zst", max_bytes=limit)
    assert decode(data, "a.bin.zst", max_bytes=len(TEXT)) == TEXT


@examples
@given(st.integers(0, 10**6), st.booleans())
def test_cut_frames_are_truncated(at: int, is_sized: bool) -> None:
    """Each prefix of a frame is TruncatedData, declared size or not."""
    data = zstandard.compress(TEXT) if is_sized else unsized(TEXT)
    with pytest.raises(TruncatedData):
        decode(data[: at % len(data)], "a.bin.zst")


def test_checksum_guards_what_is_encoded() -> None:
    """A changed bit in raw content is found by the frame's checksum."""
    data = bytearray(encode(bytes(range(256)), "a.bin.zst"))
    data[100] ^= 1
    with pytest.raises(DecodeError, match="damaged zstd frame"):
        decode(data, "a.bin.zst")


def test_window_is_bounded() -> None:
    """A frame that asks for a window of terabytes is refused; a large honest frame of known size is not."""
    greedy = b"\x28\xb5\x2f\xfd\x00" + bytes([31 << 3]) + b"\x01\0\0"
    with pytest.raises(ObjectTooLargeError, match="window of more than"):
        decode(greedy, "a.bin.zst")
    parameters = zstandard.ZstdCompressionParameters(window_log=28, write_content_size=False)
    wide = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(ObjectTooLargeError, match="window"):
        decode(wide.compress(TEXT) + wide.flush(), "a.bin.zst")
    assert len(decode(zstandard.compress(bytes(150_000_000)), "a.bin.zst")) == 150_000_000


def test_declared_size_beyond_the_format_is_refused() -> None:
    """1 kB that declares 1 GB cannot hold it, whatever the limit."""
    with pytest.raises(TruncatedData, match="more than"):
        decode(bomb(10**9, blocks=250), "a.bin.zst")


def peak_growth(data: bytes, path: str, folder: Path, max_bytes: int) -> tuple[str, int]:
    """Decode in a new process; return the name of the error and by how many bytes the process grew at its peak."""
    (folder / "data").write_bytes(data)
    program = f"""
import resource, sys
from streaming.codecs import decode
data = open({str(folder / "data")!r}, "rb").read()
for warm_up in (b"x", data[:9]):
    try:
        decode(warm_up, {path!r})
    except ValueError:
        pass
unit = 1 if sys.platform == "darwin" else 1024
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode(data, {path!r}, max_bytes={max_bytes})
    kind = "nothing"
except Exception as exc:
    kind = type(exc).__name__
print(kind, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    kind, growth = done.stdout.split()
    return kind, int(growth)


@pytest.mark.parametrize(
    ("make", "growth_bytes"),
    [(lambda: bomb(10**11), 10_000_000), (lambda: bomb(None), 150_000_000)],
    ids=["declares 100 GB", "declares nothing"],
)
def test_bombs_do_not_fill_the_memory(make: Callable[[], bytes], growth_bytes: int, tmp_path: Path) -> None:
    """1 MB that claims 100 GB, or quietly expands to 33 GB, is ObjectTooLargeError, and the process stays small."""
    data = make()
    assert len(data) < 1_100_000
    kind, growth = peak_growth(data, "a.pt.zst", tmp_path, max_bytes=50_000_000)
    assert (kind, growth < growth_bytes) == ("ObjectTooLargeError", True), growth


def test_zip_bomb_does_not_fill_the_memory(tmp_path: Path) -> None:
    """A NumPy archive of 1 MB that expands to 1 GB is ObjectTooLargeError before it does."""
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        for _ in range(1000):
            member.write(bytes(1_000_000))
    kind, growth = peak_growth(file.getvalue(), "a.npz", tmp_path, max_bytes=500_000_000)
    assert (kind, growth < 30_000_000) == ("ObjectTooLargeError", True), growth
