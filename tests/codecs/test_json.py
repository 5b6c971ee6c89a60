"""JSON and JSON lines: what real recordings hold, and what breaks parsers."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
from typing import Any

import pytest

from streaming.codecs import decode, encode
from streaming.errors import DecodeError, TruncatedData, UnsafeData
from tests.contracts.codec import CodecContract

EVENT = {"type": 3, "data": {"source": 1, "positions": [{"x": 1.5, "y": -2, "id": None}]}, "timestamp": 1700000000123}


class TestJson(CodecContract):
    path = "sessions/a.json"

    def samples(self) -> list[Any]:
        return [
            [EVENT, {"text": 'quotes " and \\ and ünïcode 🙂 and [brackets', "ok": True}],
            {"a": [], "b": {}, "big": 10**300, "lone": "\ud800"},
        ]

    def spoil(self, sample: Any) -> None:
        sample.clear()

    def hostile(self) -> dict[str, tuple[bytes, type[DecodeError]]]:
        good = json.dumps([EVENT] * 3, ensure_ascii=False).encode()
        return {
            "deep arrays": (b"[" * 100_000 + b"]" * 100_000, UnsafeData),
            "deep arrays, open": (b"[" * 100_000, UnsafeData),
            "deep objects, open": (b'{"a":' * 100_000, UnsafeData),
            "white space": (b" \n\t ", TruncatedData),
            "trailing garbage": (good + b"garbage", DecodeError),
            "two arrays": (good + b"\n" + good, DecodeError),
            "trailing comma": (good[:-1] + b",]", DecodeError),
            "single quotes": (good.replace(b'"', b"'"), DecodeError),
            "cut in a string": (good[: good.rindex(b"timest") + 3], TruncatedData),
            "cut after a comma": (good[: good.rindex(b",") + 1], TruncatedData),
            "cut in a character": ('["ü'.encode()[:-1], TruncatedData),
            "not utf-8": (b'["\xff\xfe"]', DecodeError),
            "latin-1": ('["caf\u00e9!"]'.encode("latin-1"), DecodeError),
            "utf-16": ('["a"]'.encode("utf-16"), DecodeError),
            "padded with nul": (good + bytes(512), DecodeError),
            "only nul": (bytes(4096), DecodeError),
            "control character": (b'["a\x01b"]', DecodeError),
            "digits without end": (b"[" + b"9" * 5000 + b"]", DecodeError),
            "web page": (b"<!DOCTYPE html><html>404</html>", DecodeError),
            "compressed": (gzip.compress(good), DecodeError),
        }

    def test_what_the_parser_accepts_stays_accepted(self) -> None:
        """NaN, infinities, a byte order mark, repeated keys, bare values and trailing white space decode."""
        value = decode(self.wrapped(b'\xef\xbb\xbf {"a": 1, "a": [NaN, Infinity, -Infinity]} \r\n'), self.path)
        assert math.isnan(value["a"][0])
        assert value["a"][1:] == [math.inf, -math.inf]
        assert [decode(self.wrapped(text), self.path) for text in (b"null", b"5", b'"x"', b"[]")] == [None, 5, "x", []]

    def test_position_of_the_damage_is_named(self) -> None:
        """The message says where parsing stopped."""
        with pytest.raises(DecodeError, match=r"line 2 column 3 \(char 6\)"):
            decode(self.wrapped(b"[1,\n2 x]"), self.path)
        with pytest.raises(DecodeError, match="byte 0xff at 2"):
            decode(self.wrapped(b'["\xff"]'), self.path)

    def test_four_hundred_levels_are_fine(self) -> None:
        """A deep but honest document decodes."""
        text = b"[" * 400 + b"]" * 400
        assert encode(decode(self.wrapped(text), self.path), "a.json") == text

    def test_values_that_json_lacks_are_refused(self) -> None:
        """Encoding a set names the object and raises TypeError."""
        with pytest.raises(TypeError, match=r"sessions/a"):
            encode([{1, 2}], self.path)


class TestJsonZst(TestJson):
    path = "sessions/a.json.zst"


class TestJsonl(CodecContract):
    path = "sessions/a.jsonl"
    detects_truncation = False
    empty_is_valid = True

    def samples(self) -> list[Any]:
        return [[EVENT, [], None, "a\nb\u2028c\u0085d"], [EVENT] * 100]

    def spoil(self, sample: Any) -> None:
        sample.clear()

    def hostile(self) -> dict[str, tuple[bytes, type[DecodeError]]]:
        return {
            "deep": (b"1\n" + b"[" * 100_000, UnsafeData),
            "damaged": (b"1\n{x}\n", DecodeError),
            "cut": (b'1\n{"a": [1, 2', TruncatedData),
            "not utf-8": (b"1\n\xff\n", DecodeError),
        }

    def test_line_of_the_damage_is_named(self) -> None:
        """The message counts lines as an editor does."""
        with pytest.raises(DecodeError, match="line 3: is not JSON"):
            decode(self.wrapped(b"1\n\n{x}\n"), self.path)

    def test_lines_may_end_as_they_like(self) -> None:
        """Blank lines, carriage returns, a byte order mark and a missing last line end are accepted."""
        assert decode(self.wrapped(b'\xef\xbb\xbf1\r\n\n  \n{"a": 2}'), self.path) == [1, {"a": 2}]

    def test_only_lists_have_lines(self) -> None:
        """Encoding a dict raises TypeError."""
        with pytest.raises(TypeError, match="list"):
            encode({"a": 1}, self.path)


class TestJsonlZst(TestJsonl):
    path = "sessions/a.jsonl.zst"
    detects_truncation = True


def test_raised_recursion_limit_does_not_crash() -> None:
    """With the interpreter's guard lifted, 100,000 levels are still refused in any thread; text does not count."""
    program = """
import sys, threading
from streaming.codecs import decode
from streaming.errors import UnsafeData
sys.setrecursionlimit(10**6)
def check():
    for text in (b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000):
        try:
            decode(text, "a.json")
        except UnsafeData:
            results.append("refused")
    results.append(len(decode(b'["' + b"[{" * 100_000 + b'\\\\"", "]"]', "a.json")))
    results.append(len(decode(b"[" + b"[]," * 100_000 + b"0]", "a.json")))
results = []
check()
thread = threading.Thread(target=check)
thread.start()
thread.join()
print(results)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(["refused", "refused", "refused", 2, 100_001] * 2)
