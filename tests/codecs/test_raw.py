"""Bytes and text."""

from __future__ import annotations

from typing import Any

import pytest

from streaming.codecs import codec_for, decode, encode
from streaming.errors import DecodeError, TruncatedData
from tests.contracts.codec import CodecContract


class TestRaw(CodecContract):
    path = "frames/a.jpg"
    detects_truncation = False
    empty_is_valid = True

    def samples(self) -> list[Any]:
        return [b"\xff\xd8\xff\xe0 any bytes", bytes(100_000)]

    def test_decoding_is_trivial_exactly_where_nothing_is_expanded(self) -> None:
        """Only bytes as they are may be decoded on an event loop."""
        assert codec_for(self.path).is_trivial is (not self.path.endswith(".zst"))

    def test_numbers_and_text_are_not_bytes(self) -> None:
        """Encoding an int or a str raises TypeError, rather than giving that many zeros."""
        for sample in (5, "text"):
            with pytest.raises(TypeError, match=r"frames/a"):
                encode(sample, self.path)

    def test_any_buffer_is_written(self) -> None:
        """A bytearray and a memoryview encode to their bytes."""
        for sample in (bytearray(b"abc"), memoryview(b"abc")):
            assert decode(encode(sample, self.path), self.path) == b"abc"


class TestRawZst(TestRaw):
    path = "frames/a.jpg.zst"
    detects_truncation = True


def test_bytes_come_back_without_a_copy() -> None:
    """The bytes object that goes in is the one that comes out."""
    data = bytes(1000)
    assert decode(data, "a.bin") is data
    assert encode(data, "a.bin") is data


class TestText(CodecContract):
    path = "captions/a.txt"
    detects_truncation = False
    empty_is_valid = True

    def samples(self) -> list[Any]:
        return ["a caption, ünï 🙂\r\n\n second line", "\ufeffmark"]

    def hostile(self) -> dict[str, tuple[bytes, type[DecodeError]]]:
        return {
            "latin-1": (b"caf\xe9!", DecodeError),
            "cut in a character": ("ü".encode()[:1], TruncatedData),
            "surrogate": (b"\xed\xa0\x80", DecodeError),
        }

    def test_only_text_is_written(self) -> None:
        """Encoding bytes raises TypeError."""
        with pytest.raises(TypeError, match="str"):
            encode(b"x", self.path)


class TestTextZst(TestText):
    path = "captions/a.txt.zst"
    detects_truncation = True
