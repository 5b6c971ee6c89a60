"""Torch files: samples as trainers save them, old and new layout, and objects made to harm."""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.codecs import decode, encode
from streaming.errors import DecodeError, ObjectTooLargeError, TruncatedData, UnsafeData
from tests.contracts.codec import CodecContract


def save(sample: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(sample, file, **options)
    return file.getvalue()


def save_old(sample: Any) -> bytes:
    return save(sample, _use_new_zipfile_serialization=False)


def same(left: Any, right: Any) -> bool:
    """Equal in types, values, dtypes and shapes, through dicts and lists."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        if left.dtype != right.dtype or left.shape != right.shape:
            return False
        left, right = (tensor.to_dense() if tensor.is_sparse else tensor for tensor in (left, right))
        return bool((left == right).all())
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def with_pickle(content: bytes, **options: Any) -> bytes:
    """A torch archive around another pickle."""
    return rezip(
        save({"a": torch.arange(5.0)}), lambda name, old: content if name.endswith("data.pkl") else old, **options
    )


def rezip(data: bytes, change: Any, compress_type: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for member in old.infolist():
            new.writestr(member.filename, change(member.filename, old.read(member)), compress_type)
    return file.getvalue()


class Reduced:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def declares(data: bytes, size: int) -> bytes:
    """The archive with the entry of its tensor claiming `size` bytes."""
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"archive/data/0"))
    return data[: at + 20] + struct.pack("<LL", size, size) + data[at + 28 :]


def declares_wide(data: bytes, size: int) -> bytes:
    """The same by zip64: an extra field in the entry, and the long end mark with its locator."""
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"archive/data/0"))
    (name,) = struct.unpack_from("<H", data, at + 28)
    extra = struct.pack("<HHHHHQQ", 0xCAFE, 0, 1, 16, 0, 0, 0)[:4] + struct.pack("<HHQQ", 1, 16, size, size)
    entry = data[at : at + 20] + b"\xff" * 8 + struct.pack("<HH", name, len(extra)) + data[at + 32 : at + 46 + name]
    body = data[:at] + entry + extra + data[at + 46 + name :]
    end = len(body) - 22
    count, length, start = struct.unpack_from("<HLL", body, end + 10)
    long_end = struct.pack("<4sQHHLLQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length + len(extra), start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    return body[:end] + long_end + locator + body[end : end + 10] + b"\xff" * 10 + body[end + 20 :]


ARRAYS = [
    *(np.arange(6).reshape(2, 3).astype(kind) for kind in ("f2", "f4", ">f8", "i1", "<i8", "u2", "c8", "?")),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
    np.array(["zürich", "a"]),
    np.array([b"ab", b"c"]),
    np.array(1.5),
    np.zeros((0, 4), "f4"),
    np.arange(100_000.0),
    np.float32(1.5),
    np.int64(-3),
    np.bool_(True),
]


class TestPt(CodecContract):
    path = "latents/latent 0001.pt"

    def samples(self) -> list[Any]:
        return [
            {
                "latents": torch.arange(768.0).reshape(4, 3, 8, 8),
                "num_frames": 3,
                "fps": 24.0,
                "name": "ünïcode",
                "mask": None,
            },
            torch.arange(100_000),
            [torch.zeros(3, dtype=torch.bfloat16), (torch.tensor(True), 5, "x"), [], 10**12, -1, b"bytes"],
        ]

    def same(self, left: Any, right: Any) -> bool:
        return same(left, right)

    def spoil(self, sample: Any) -> None:
        for value in sample.values() if isinstance(sample, dict) else [sample] if torch.is_tensor(sample) else sample:
            if torch.is_tensor(value):
                value.zero_()

    def hostile(self) -> dict[str, tuple[bytes, type[DecodeError]]]:
        plain = save({"a": torch.arange(5.0)})
        zeros = save({"a": torch.zeros(100_000)})
        old = save_old({"a": torch.arange(5.0)})
        return {
            "not torch": (b"<html>not found</html>", DecodeError),
            "object": (save(Path("x")), UnsafeData),
            "torchscript": (script(), UnsafeData),
            "bare pickle": (pickle.dumps(Reduced(os.system, "true")), UnsafeData),
            "bare text pickle": (pickle.dumps(Reduced(os.system, "true"), 0), UnsafeData),
            "newer protocol": (save({"a": 1}, pickle_protocol=4), UnsafeData),
            "compressed": (rezip(zeros, lambda name, content: content, zipfile.ZIP_DEFLATED), ObjectTooLargeError),
            "compressed behind a comment": (
                rezip(zeros, lambda name, content: content, zipfile.ZIP_DEFLATED)[:-2] + b"\x03\0abc",
                ObjectTooLargeError,
            ),
            "huge by zip64": (declares_wide(plain, 10**11), ObjectTooLargeError),
            "larger than the file": (declares(plain, 10**9), TruncatedData),
            "storage past the file": (moves_past_end(plain, b"/data/0"), TruncatedData),
            "pickle past the file": (moves_past_end(plain, b"/data.pkl"), TruncatedData),
            "two sizes": (plain.replace(*sizes_of(plain)), ObjectTooLargeError),
            "huge storage": (
                with_pickle(claim(plain, b"K\x05tq", b"\x8a\x05\x00\x00\x00\x00\x06tq")),
                ObjectTooLargeError,
            ),
            "wrong storage": (with_pickle(claim(plain, b"K\x05tq", b"K\x06tq")), DecodeError),
            "tensor past its storage": (with_pickle(claim(plain, b"K\x05\x85", b"K\x06\x85")), DecodeError),
            "bytearray by number": (with_pickle(pickle.dumps(Reduced(bytearray, 10**11), 2)), UnsafeData),
            "tensor by number": (with_pickle(pickle.dumps(Reduced(torch.FloatTensor, 10**10), 2)), UnsafeData),
            "storage by number": (with_pickle(pickle.dumps(Reduced(torch.UntypedStorage, 10**11), 2)), UnsafeData),
            "tensor by size": (
                with_pickle(pickle.dumps(Reduced(torch.Tensor, Reduced(torch.Size, [10**10])), 2)),
                UnsafeData,
            ),
            "bytes doubled": (with_pickle(doubled(30)), UnsafeData),
            "hidden call": (with_pickle(hidden_call()), UnsafeData),
            "quantised by size": (with_pickle(quantised(plain)), ObjectTooLargeError),
            "call of a number": (with_pickle(b"\x80\x02K\x01cbuiltins\nbytearray\n0)R."), UnsafeData),
            "call of a call": (with_pickle(b"\x80\x02cbuiltins\nbytearray\n)R)R."), UnsafeData),
            "another protocol within": (with_pickle(b"\x80\x02cbuiltins\nbytearray\n\x80\x04)R."), UnsafeData),
            "empty stack": (with_pickle(b"\x80\x02cbuiltins\nbytearray\n\x87."), DecodeError),
            "cut pickle": (with_pickle(pickle.dumps({"Tensor\n": bytearray(b"x")}, 2)[:-9]), TruncatedData),
            "damaged pickle": (with_pickle(b"\x80\x02h\x07Tensor\n."), DecodeError),
            "damaged directory": (plain.replace(b"PK\x01\x02", b"PK\x01\x03", 1), DecodeError),
            "directory elsewhere": (patched(plain, b"PK\x06\x06", 48), DecodeError),
            "end mark elsewhere": (patched(plain, b"PK\x06\x07", 8), DecodeError),
            "name past the end": (patched(plain, b"PK\x01\x02", 28), DecodeError),
            "old, tensor past its storage": (old.replace(b"K\x05\x85", b"K\x06\x85"), DecodeError),
            "old, negative": (old.replace(b"K\x05\x85", b"J\xff\xff\xff\xff\x85"), UnsafeData),
            "old, huge storage": (old.replace(b"K\x05N", b"\x8a\x05\x00\x00\x00\x00\x06N"), ObjectTooLargeError),
            "old, cut storage": (old.replace(b"K\x05N", b"J\x00\x00\x00\x70N"), TruncatedData),
            "old, odd storage": (old.replace(b"K\x05N", b"NN"), UnsafeData),
            "old, huge tensor": (old.replace(b"K\x05\x85", b"\x8a\x05\x00\x00\x00\x00\x06\x85"), ObjectTooLargeError),
            "old, opcode": (old[:15] + b"\x95" + old[16:], UnsafeData),
        }

    def test_old_tensors_are_measured_before_they_are_made(self) -> None:
        """A tensor larger than its storage, which the old layout would allocate, is found by the scan."""
        data = save_old({"a": torch.arange(5.0)}).replace(b"K\x05\x85", b"J\x00\x00\x00\x70\x85")
        with pytest.raises(DecodeError, match="tensor of 1,879,048,192 elements over a storage of 5"):
            decode(self.wrapped(data), self.path)

    @pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")  # torch 2.14 says so of each load
    def test_other_layouts_are_read(self) -> None:
        """What torch's weights_only loading allows comes back: old files, sparse, parameters, other types."""
        base = torch.arange(12.0).reshape(3, 4)
        samples = [
            OrderedDict(w=torch.nn.Parameter(base), b=base[1:, ::2], v=base.T),
            {"sparse": base.to_sparse(), "complex": torch.complex(base, base), "set": {1, 2}, "size": base.shape},
            {"empty": torch.empty(0, 5), "u16": base.to(torch.uint16), "f8": base.to(torch.float8_e4m3fn).float()},
            {"array": bytearray(b"abc"), "flags": [True, False]},
        ]
        for sample in samples:
            assert same(decode(self.wrapped(save(sample)), self.path), sample)
        for sample in [self.samples()[0], samples[0], {"a": base, "b": base}]:
            assert same(decode(self.wrapped(save_old(sample)), self.path), sample)

    def test_old_files_cut_anywhere_are_refused(self) -> None:
        """Each prefix of a file in the layout before torch 1.6 raises, at its last storage too."""
        data = save_old({"a": torch.arange(5.0)})
        for length in range(len(data)):
            with pytest.raises(DecodeError):
                decode(self.wrapped(data[:length]), self.path)

    def test_tensors_sharing_memory_still_share_it(self) -> None:
        """Two views of one storage are two views of one storage after loading."""
        base = torch.zeros(10)
        decoded = decode(encode([base, base[5:]], self.path), self.path)
        decoded[0][5] = 1.0
        assert decoded[1][0] == 1.0

    def test_pickle_runs_nothing(self, tmp_path: Path) -> None:
        """A pickle that would call os.system is refused by name and leaves no trace, in every layout."""
        canary = tmp_path / "canary"
        for evil in (Reduced(os.system, f"touch {canary}"), Reduced(eval, f"open({str(canary)!r}, 'w')")):
            for data in (
                save(evil),
                save_old(evil),
                save(evil, pickle_protocol=5),
                *(pickle.dumps(evil, n) for n in range(6)),
            ):
                with pytest.raises(UnsafeData, match=r"latent 0001\.pt"):
                    decode(self.wrapped(data), self.path)
        assert not canary.exists()

    def test_refusal_names_what_would_be_imported(self) -> None:
        """The message of a refused class has its full name and how to allow it."""
        with pytest.raises(UnsafeData, match=r"import pathlib.*add_safe_globals"):
            decode(self.wrapped(save(Path("x"))), self.path)

    @pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
    def test_plain_numpy_arrays_load(self, array: Any) -> None:
        """Arrays and scalars of numbers and text are decoded unchanged and writable, with or without tensors."""
        sample = {"a": array, "list": [array.copy(), {"b": torch.arange(3)}], "raw": b"bytes", "none": b""}
        decoded = decode(self.wrapped(save(sample)), self.path)
        assert (decoded["raw"], decoded["none"]) == (b"bytes", b"")
        for read in (decoded["a"], decoded["list"][0], decode(self.wrapped(save(array)), self.path)):
            assert type(read) is type(array)
            assert (read.dtype, read.shape, read.tobytes()) == (array.dtype, array.shape, array.tobytes())
            assert read.ndim == 0 or read.flags.writeable

    def test_a_numpy_array_is_what_its_bytes_say(self) -> None:
        """Another shape, type or flag than the bytes have is refused before memory is taken."""
        data = save({"x": np.arange(3.0)})
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            content = archive.read("archive/data.pkl")
        for old, new in [
            (b"K\x03\x85", b"K\x04\x85"),
            (b"X\x02\0\0\0f8", b"X\x02\0\0\0O8"),
            (b"K\0\x85", b"J\0\0\0\x70\x85"),
        ]:
            assert content.count(old) == 1, old
            with pytest.raises(UnsafeData):
                decode(self.wrapped(with_pickle(content.replace(old, new))), self.path)

    def test_a_call_of_numpy_allocates_nothing_even_if_it_is_allowed(self) -> None:
        """A user who allows NumPy's names is not open to files that ask for memory by a number."""
        for call in (b"cnumpy\nndarray\n", b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\n"):
            end = b"\x85R." if b"_reconstruct" not in call else b"\x85X\x01\0\0\0b\x87R."
            content = b"\x80\x02" + call + b"\x8a\x06" + (10**13).to_bytes(6, "little") + end
            with torch.serialization.safe_globals([np.ndarray, np._core.multiarray._reconstruct]):  # type: ignore[attr-defined]
                with pytest.raises(UnsafeData, match="no saved sample has"):
                    decode(self.wrapped(with_pickle(content)), self.path)

    def test_one_message_gives_every_name_to_allow(self) -> None:
        """Types that are made while loading are in it too: what it says to allow is enough, at the first attempt."""
        sample = [Pair(), np.array([Pair()], object), np.array(["2026-01-01"], "M8[D]")]
        with pytest.raises(UnsafeData) as refused:
            decode(self.wrapped(save(sample)), self.path)
        [listed] = re.findall(r"add_safe_globals\(\[(.*?)\]\)", str(refused.value))
        names = listed.split(", ")
        assert "numpy.dtypes.ObjectDType" in names
        allowed = [getattr(sys.modules[name.rpartition(".")[0]], name.rpartition(".")[2]) for name in names]
        with torch.serialization.safe_globals(allowed[:-1]):
            with pytest.raises(UnsafeData, match=re.escape(f"add_safe_globals([{names[-1]}])")):
                decode(self.wrapped(save(sample)), self.path)
        with torch.serialization.safe_globals(allowed):
            assert type(decode(self.wrapped(save(sample)), self.path)[0]) is Pair

    def test_a_name_that_cannot_be_allowed_is_not_advised(self) -> None:
        """What torch blocks for good is called so."""
        with pytest.raises(UnsafeData, match=r"system.*never allows") as refused:
            decode(self.wrapped(save(Reduced(os.system, "true"))), self.path)
        assert "add_safe_globals" not in str(refused.value)

    def test_a_refusal_without_a_name_keeps_torchs_reason(self) -> None:
        """The useful part of what torch says is in the message."""
        with pytest.raises(UnsafeData, match="Can only build Tensor"):
            decode(self.wrapped(with_pickle(b"\x80\x02}X\x01\0\0\0aK\x01s}b.")), self.path)

    def test_allowed_names_load(self) -> None:
        """A class that the user allows through torch loads, with or without the careful scan."""
        with torch.serialization.safe_globals([Pair]):
            for sample in (Pair(), [Pair(), b"bytes"]):
                assert type(decode(self.wrapped(save(sample)), self.path)) is type(sample)


class Pair:
    """A user's class."""


shapes = st.lists(st.integers(0, 4), max_size=3)
dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
tensors = st.builds(lambda shape, dtype: (torch.rand(shape) * 9).to(dtype), shapes, dtypes)
changed = tensors.map(lambda tensor: tensor.T if tensor.dim() == 2 else tensor[..., :1] if tensor.dim() else tensor)
plain = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=5)
samples = st.recursive(
    plain | tensors | changed,
    lambda inner: (
        st.dictionaries(st.text(max_size=4), inner, max_size=4)
        | st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(samples)
def test_every_sample_is_what_torch_loads(sample: Any) -> None:
    """Read by a plan or by torch, as a copy or as views: the same values, types, dtypes and shapes."""
    data = save(sample)
    expected = torch.load(io.BytesIO(data), weights_only=True)
    assert same(decode(data, "x.pt"), expected)
    assert same(decode(memoryview(bytearray(data)), "x.pt", may_view=True), expected)


def test_views_share_the_buffer_and_copies_do_not() -> None:
    """A view shares its buffer and changes with it; anything else has memory of its own."""
    buffer = bytearray(save({"x": torch.zeros(1000)}))
    copied = decode(memoryview(buffer), "x.pt")["x"]
    viewed = decode(memoryview(buffer), "x.pt", may_view=True)["x"]
    read_only = decode(bytes(buffer), "x.pt", may_view=True)["x"]
    buffer[:] = b"\xff" * len(buffer)
    assert torch.equal(copied, torch.zeros(1000))
    assert torch.equal(read_only, torch.zeros(1000))
    assert viewed.isnan().all()


class TestPtZst(TestPt):
    path = "latents/latent 0001.pt.zst"


def claim(data: bytes, old: bytes, new: bytes) -> bytes:
    """The pickle of an archive with one number replaced."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        content = archive.read("archive/data.pkl")
    assert content.count(old) == 1
    return content.replace(old, new)


def moves_past_end(data: bytes, member: bytes) -> bytes:
    """Return an archive whose member has a header of so many bytes that its content begins after the file."""
    name = data.index(member)
    header = data.rindex(b"PK\x03\x04", 0, name)
    return data[: header + 28] + b"\xff\xff" + data[header + 30 :]


def sizes_of(data: bytes) -> tuple[bytes, bytes]:
    """The two sizes of the tensor's entry, and the same with the second one larger."""
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"archive/data/0"))
    return data[at + 16 : at + 28], data[at + 16 : at + 24] + struct.pack("<L", 21)


def patched(data: bytes, mark: bytes, offset: int) -> bytes:
    """Eight bytes behind the last `mark` set to the highest number."""
    at = data.rindex(mark) + offset
    return data[:at] + b"\xff" * 8 + data[at + 8 :]


def quantised(data: bytes) -> bytes:
    """The pickle of a quantised tensor that repeats its first element 10^11 times."""
    content = claim(data, b"_rebuild_tensor_v2\n", b"_rebuild_qtensor\n")
    size = b"\x8a\x06" + (10**11).to_bytes(6, "little")
    return content.replace(b"K\x05\x85q\x08K\x01\x85", size + b"\x85q\x08K\x00\x85")


def doubled(times: int) -> bytes:
    """A pickle of a few hundred bytes that encodes to hex, and the result to hex, `times` over."""
    encode_once = b"X\x03\0\0\0hex\x86R"
    return b"\x80\x02" + b"c_codecs\nencode\n" * times + b"X\x04\0\0\0aaaa" + encode_once * times + b"."


def hidden_call() -> bytes:
    """bytearray(10**11), called by a function of torch's that rebuilds tensors."""
    number = b"\x8a\x06" + (10**11).to_bytes(6, "little") + b"\x85"
    rest = b"ctorch\nTensor\n" + number + b"N"
    return b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(c__builtin__\nbytearray\n" + rest + b"tR."


def script() -> bytes:
    """The mark of a TorchScript program: an archive with constants."""
    file = io.BytesIO(save({"a": 1}))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps((), 2))
    return file.getvalue()
