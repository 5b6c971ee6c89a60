"""NumPy arrays: every order and type that holds no Python object, and archives made to harm."""

from __future__ import annotations

import ast
import gc
import io
import struct
import sys
import zipfile
from typing import Any

import numpy as np
import pytest

from streaming.codecs import decode, encode
from streaming.errors import DecodeError, ObjectTooLargeError, TruncatedData, UnsafeData
from tests.contracts.codec import CodecContract

PLAIN = np.arange(12, dtype="<f4").reshape(3, 4)


def npy(header: str, body: bytes = b"", version: int = 1) -> bytes:
    """A file with this header, true or not."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<L", len(text)) + text + body


def describe(shape: Any, descr: str = "<f4") -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}"


def objects() -> np.ndarray[Any, Any]:
    return np.array([{"a": 1}, None], dtype=object)


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def same_array(left: Any, right: Any) -> bool:
    return (
        type(left) is type(right)
        and left.dtype == right.dtype
        and left.shape == right.shape
        and left.flags.f_contiguous == right.flags.f_contiguous
        and left.tobytes() == right.tobytes()
    )


class TestNpy(CodecContract):
    path = "arrays/a.npy"

    def samples(self) -> list[Any]:
        return [
            PLAIN,
            np.asfortranarray(PLAIN),
            np.array(3.5),
            np.array([(1, b"ab"), (2, b"c")], dtype=[("id", ">i8"), ("tag", "S3")]),
            np.array(["ünï", "b"]),
            np.array(["2026-01-01"], dtype="datetime64[ns]"),
            np.arange(100_000, dtype=np.uint16),
        ]

    def same(self, left: Any, right: Any) -> bool:
        return same_array(left, right)

    def spoil(self, sample: Any) -> None:
        sample[...] = np.zeros((), sample.dtype)

    def hostile(self) -> dict[str, tuple[bytes, type[DecodeError]]]:
        return {
            "objects": (saved(objects()), UnsafeData),
            "objects inside": (saved(np.array([(1, None)], dtype=[("a", "i4"), ("b", "O")])), UnsafeData),
            "100 GB": (npy(describe((25 * 10**9,)), b"1234"), ObjectTooLargeError),
            "beyond 64 bits": (npy(describe((2**40, 2**40)), b"1234"), ObjectTooLargeError),
            "1 GB that is missing": (npy(describe((250_000_000,)), b"1234"), TruncatedData),
            "no bytes, too many dimensions": (npy(describe((0,) * 65)), DecodeError),
            "no bytes, beyond 64 bits": (npy(describe((0, 2**70))), DecodeError),
            "items without size": (npy(describe((4,), "|V0")), UnsafeData),
            "negative": (npy(describe((-1, -4)), bytes(16)), DecodeError),
            "bytes behind": (saved(PLAIN) + b"x", DecodeError),
            "calls in the header": (npy("__import__('os').system('true')"), DecodeError),
            "deep header": (npy("(" * 4000), DecodeError),
            "huge header": (npy(" " * 2**20, version=2), ObjectTooLargeError),
            "unknown type": (npy(describe((1,), "<q99")), DecodeError),
            "version": (b"\x93NUMPY\x09\0" + saved(PLAIN)[8:], DecodeError),
            "not npy": (b"<html>not found</html>", DecodeError),
        }

    def test_versions_and_empty_arrays_are_read(self) -> None:
        """Headers of version 1, 2 and 3, and arrays without elements, come as numpy reads them."""
        for version in ((1, 0), (2, 0), (3, 0)):
            file = io.BytesIO()
            np.lib.format.write_array(file, PLAIN, version=version)
            assert same_array(decode(self.wrapped(file.getvalue()), self.path), PLAIN)
        array = np.empty((0, 3))
        assert same_array(decode(self.wrapped(saved(array)), self.path), array)

    def test_views_are_saved_as_they_look(self) -> None:
        """A strided view decodes to a compact array of its values."""
        assert (decode(encode(PLAIN[::2, ::-1], self.path), self.path) == PLAIN[::2, ::-1]).all()

    def test_objects_are_not_written_either(self) -> None:
        """Encoding an array of objects, or no array, raises TypeError."""
        for sample in (objects(), [1, 2]):
            with pytest.raises(TypeError, match="array"):
                encode(sample, self.path)


class TestNpyZst(TestNpy):
    path = "arrays/a.npy.zst"


def npz(members: dict[str, bytes], compress_type: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compress_type) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type)
    return file.getvalue()


def claims(data: bytes, size: int) -> bytes:
    """The archive with its last member claiming `size` bytes when expanded."""
    at = data.rindex(b"PK\x01\x02") + 24
    return data[:at] + struct.pack("<L", size) + data[at + 4 :]


class TestNpz(CodecContract):
    path = "arrays/a.npz"

    def samples(self) -> list[Any]:
        return [{"a": PLAIN, "ünï/b": np.array([True, False])}, {"big": np.arange(100_000)}, {}]

    def same(self, left: Any, right: Any) -> bool:
        return list(left) == list(right) and all(same_array(left[name], right[name]) for name in left)

    def spoil(self, sample: Any) -> None:
        for array in sample.values():
            array.fill(1)
        sample.clear()

    def hostile(self) -> dict[str, tuple[bytes, type[DecodeError]]]:
        zeros = npz({"a.npy": npy(describe((10**6,)), bytes(4 * 10**6))})
        twice = npz({"a.npy": saved(PLAIN), "b.npy": saved(PLAIN)}).replace(b"b.npy", b"a.npy")
        stored = npz({"a.npy": saved(PLAIN)}, zipfile.ZIP_STORED)
        return {
            "objects": (npz({"a.npy": saved(objects())}), UnsafeData),
            "100 GB in a member": (npz({"a.npy": npy(describe((25 * 10**9,)), b"1234")}), ObjectTooLargeError),
            "4 GB that are missing": (claims(npz({"a.npy": saved(PLAIN)}), 2**32 - 2), TruncatedData),
            "expands less than claimed": (claims(zeros, 5 * 10**6), TruncatedData),
            "expands more than claimed": (claims(zeros, 10**6), DecodeError),
            "two of one name": (twice, DecodeError),
            "a stranger": (npz({"a.txt": b"hello"}), DecodeError),
            "member cut": (npz({"a.npy": saved(PLAIN)[:-1]}), TruncatedData),
            "damaged content": (stored.replace(PLAIN.tobytes(), b"x" * PLAIN.nbytes), DecodeError),
            "encrypted": (stored.replace(b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\x01"), DecodeError),
            "unknown method": (npz({"a.npy": b""}).replace(b"\x08\0\0\0\x21", b"\x63\0\0\0\x21"), DecodeError),
            "not zip": (b"<html>not found</html>", DecodeError),
        }

    def test_what_numpy_saves_is_read(self) -> None:
        """Plain and compressed archives of numpy decode, and numpy reads ours."""
        for save in (np.savez, np.savez_compressed):
            file = io.BytesIO()
            save(file, a=PLAIN, b=np.arange(3))
            decoded = decode(self.wrapped(file.getvalue()), self.path)
            assert self.same(decoded, {"a": PLAIN, "b": np.arange(3)})
        with np.load(io.BytesIO(encode({"a": PLAIN}, "a.npz"))) as loaded:
            assert same_array(loaded["a"], PLAIN)

    def test_limit_counts_members_together(self) -> None:
        """Compressed members that each fit the limit but together do not are ObjectTooLargeError."""
        zeros = npy(describe((10**5,)), bytes(4 * 10**5))
        data = self.wrapped(npz({"a.npy": zeros, "b.npy": zeros}))
        with pytest.raises(ObjectTooLargeError, match="2 members"):
            decode(data, self.path, max_bytes=5 * 10**5)
        assert list(decode(data, self.path, max_bytes=10**6)) == ["a", "b"]

    def test_damage_names_its_member(self) -> None:
        """The error says which array of the archive is damaged."""
        with pytest.raises(UnsafeData, match=r"member 'b\.npy' holds Python objects"):
            decode(self.wrapped(npz({"a.npy": saved(PLAIN), "b.npy": saved(objects())})), self.path)

    def test_only_dicts_of_arrays_are_written(self) -> None:
        """Encoding an array, or a dict with other values or keys, raises TypeError."""
        for sample in (PLAIN, {"a": [1]}, {1: PLAIN}):
            with pytest.raises(TypeError, match="arrays/a"):
                encode(sample, self.path)


class TestNpzZst(TestNpz):
    path = "arrays/a.npz.zst"


def test_a_syntax_tree_built_meanwhile_does_no_harm() -> None:
    """Types with fields are parsed by `ast`, whose count of depth all threads share in CPython up to 3.13."""
    array = np.array([(1, b"ab")], dtype=[("id", ">i8"), ("tag", "S3")])
    trees = iter(range(3))

    def build(phase: str, _info: dict[str, int]) -> None:
        if phase == "start" and sys._getframe(1).f_code is ast.parse.__code__ and next(trees, None) is not None:
            ast.literal_eval("(1, (2, (3,)))")

    content = encode(array, "a.npy")
    thresholds = gc.get_threshold()
    gc.callbacks.append(build)
    gc.set_threshold(1)
    try:
        decoded = decode(content, "a.npy")
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(build)
    if sys.version_info < (3, 12):  # later ones collect between instructions only
        assert next(trees, None) is None
    assert same_array(decoded, array)


@pytest.mark.parametrize("shape", ["(3)", "3", "(3,,)", "(3 3)", "(-3,)", "(3,", "[3]"])
def test_shapes_that_numpy_does_not_write(shape: str) -> None:
    """Nothing but a tuple of lengths is taken for a shape."""
    with pytest.raises(DecodeError):
        decode(npy(describe(shape), bytes(12)), "a.npy")
