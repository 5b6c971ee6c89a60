"""Safetensors: every type that torch has, and headers with false sizes."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
import safetensors.torch
import torch

from streaming.codecs import decode, encode
from streaming.errors import DecodeError, ObjectTooLargeError, TruncatedData
from tests.contracts.codec import CodecContract


def file(header: Any, body: bytes = b"") -> bytes:
    """A file with this header, true or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(shape: list[int], end: int, dtype: str = "F32", start: int = 0) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


class TestSafetensors(CodecContract):
    path = "conditions/a.safetensors"

    def samples(self) -> list[Any]:
        base = torch.arange(12.0).reshape(3, 4)
        return [
            {"prompt": base.to(torch.bfloat16), "mask": base > 5, "ids": base.long(), "half": base.half()},
            {"big": torch.arange(100_000), "scalar": torch.tensor(3), "empty": torch.empty(0, 7)},
            {},
        ]

    def same(self, left: Any, right: Any) -> bool:
        return left.keys() == right.keys() and all(
            left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
        )

    def spoil(self, sample: Any) -> None:
        for tensor in sample.values():
            tensor.zero_()

    def hostile(self) -> dict[str, tuple[bytes, type[DecodeError]]]:
        return {
            "header of 1 TB": (struct.pack("<Q", 10**12) + b"{}", ObjectTooLargeError),
            "header that is missing": (struct.pack("<Q", 10**6) + b"{}", TruncatedData),
            "tensor of 100 GB": (file({"a": entry([25 * 10**9], 10**11)}, b"1234"), ObjectTooLargeError),
            "tensor of 1 GB": (file({"a": entry([250_000_000], 10**9)}, b"1234"), TruncatedData),
            "shape beyond its bytes": (file({"a": entry([25 * 10**9], 4)}, b"1234"), DecodeError),
            "shape beyond 64 bits": (file({"a": entry([2**40, 2**40], 4)}, b"1234"), DecodeError),
            "two tensors in one place": (file({"a": entry([1], 4), "b": entry([1], 4)}, b"1234"), DecodeError),
            "bytes behind": (file({"a": entry([1], 4)}, b"12345"), DecodeError),
            "unknown type": (file({"a": entry([1], 4, "Q9")}, b"1234"), DecodeError),
            "type that torch lacks": (file({"a": entry([8], 4, "F4")}, b"1234"), DecodeError),
            "deep header": (file(b"[" * 100_000), DecodeError),
            "header no json": (file(b"{'a'}"), DecodeError),
            "header no dict": (file(b"[1, 2]"), DecodeError),
            "web page": (b"<html>not found</html>", ObjectTooLargeError),
        }

    def test_files_of_the_library_are_read(self) -> None:
        """What safetensors writes, metadata included, decodes; and it reads what is encoded here."""
        sample = self.samples()[0]
        assert self.same(decode(self.wrapped(safetensors.torch.save(sample, {"made": "by"})), self.path), sample)
        assert self.same(safetensors.torch.load(encode(sample, "a.safetensors")), sample)

    def test_strided_tensors_are_made_contiguous(self) -> None:
        """A transposed tensor encodes as it looks."""
        tensor = torch.arange(6).reshape(2, 3).T
        assert torch.equal(decode(encode({"a": tensor}, self.path), self.path)["a"], tensor)

    def test_only_dicts_of_tensors_are_written(self) -> None:
        """Encoding a tensor, or a dict with other values or keys, raises TypeError."""
        for sample in (torch.zeros(1), {"a": 1}, {1: torch.zeros(1)}):
            with pytest.raises(TypeError, match="conditions/a"):
                encode(sample, self.path)


class TestSafetensorsZst(TestSafetensors):
    path = "conditions/a.safetensors.zst"
