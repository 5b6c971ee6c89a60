"""The contract of a codec: one suite, run for each format alone and under zstd."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import obstore
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streaming.codecs import codec_for, decode, encode, split_suffix
from streaming.errors import DecodeError, ObjectTooLargeError, TruncatedData

# Inherited tests run for many classes, which Hypothesis takes for one test with changing executors.
examples = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)


class CodecContract:
    """Subclasses give a path and samples; the bytes of hostile objects are made without the codec."""

    path: str
    detects_truncation = True
    empty_is_valid = False

    def samples(self) -> list[Any]:
        """Samples that the format holds exactly."""
        raise NotImplementedError

    def same(self, left: Any, right: Any) -> bool:
        """Whether two samples have the same types and values."""
        return type(left) is type(right) and bool(left == right)

    def spoil(self, sample: Any) -> None:
        """Overwrites the sample in place; nothing for immutable ones."""

    def hostile(self) -> dict[str, tuple[bytes, type[DecodeError]]]:
        """Objects of the bare format that must be refused, and how."""
        return {}

    def wrapped(self, data: bytes) -> bytes:
        """Return the encoded bytes as they are stored under `path`."""
        return zstandard.compress(data) if self.path.endswith(".zst") else data

    def test_round_trip_keeps_every_sample(self) -> None:
        """What was encoded decodes to an equal sample."""
        for sample in self.samples():
            assert self.same(decode(encode(sample, self.path), self.path), sample)

    def test_every_kind_of_buffer_is_read(self) -> None:
        """bytes, bytearray, memoryview, a view of wider items and a client's own buffer give the same sample."""
        for sample in self.samples():
            data = encode(sample, self.path)
            for buffer in (bytearray(data), memoryview(data), memoryview(b"x" + data)[1:], obstore.Bytes(data)):
                assert self.same(decode(buffer, self.path), sample)  # type: ignore[arg-type]

    def test_sample_does_not_look_into_the_buffer(self) -> None:
        """Overwriting the buffer after decoding leaves the sample as it was."""
        for sample in self.samples():
            buffer = bytearray(encode(sample, self.path))
            decoded = decode(buffer, self.path)
            buffer[:] = bytes(len(buffer))
            assert self.same(decoded, sample)

    def test_sample_is_writable_and_its_own(self) -> None:
        """Writing into a decoded sample changes neither the bytes nor what they decode to next."""
        for sample in self.samples():
            data = bytearray(encode(sample, self.path))
            before = bytes(data)
            self.spoil(decode(data, self.path))
            assert bytes(data) == before
            assert self.same(decode(data, self.path), sample)

    def test_prefix_is_never_taken_for_the_whole(self) -> None:
        """Data cut at any length raises a DecodeError, if the format can detect it."""

        objects = [encode(sample, self.path) for sample in self.samples()]

        @examples
        @given(st.data())
        def check(draw: st.DataObject) -> None:
            data = draw.draw(st.sampled_from(objects))
            cut = data[: draw.draw(st.integers(0, len(data) - 1))]
            if self.detects_truncation:
                with pytest.raises(DecodeError):
                    decode(cut, self.path)
            else:
                try_decode(cut, self.path)

        check()

    def test_cut_in_half_is_called_truncated(self) -> None:
        """Half an object, and one without its last byte, are TruncatedData."""
        if not self.detects_truncation:
            return
        for sample in self.samples():
            data = encode(sample, self.path)
            for cut in (data[: len(data) // 2], data[:-1]):
                with pytest.raises(TruncatedData):
                    decode(cut, self.path)

    def test_damage_raises_nothing_but_decode_errors(self) -> None:
        """Overwritten, inserted and removed bytes are refused in the library's own words, or decode to something."""

        objects = [encode(sample, self.path) for sample in self.samples()]

        @examples
        @given(st.data())
        def check(draw: st.DataObject) -> None:
            data = bytearray(draw.draw(st.sampled_from(objects)))
            at = draw.draw(st.integers(0, len(data)))
            data[at : at + draw.draw(st.integers(0, 4))] = draw.draw(st.binary(max_size=4))
            try_decode(bytes(data), self.path)

        check()

    def test_noise_raises_nothing_but_decode_errors(self) -> None:
        """Random bytes are refused in the library's own words, or decode to something."""
        examples(given(st.binary(max_size=200))(lambda data: try_decode(data, self.path)))()

    def test_no_bytes_are_truncated(self) -> None:
        """An object of zero bytes is TruncatedData, unless the format has such a value."""
        if self.empty_is_valid and not self.path.endswith(".zst"):
            assert not decode(b"", self.path)
        else:
            with pytest.raises(TruncatedData):
                decode(b"", self.path)

    def test_limit_counts_the_object(self) -> None:
        """An object above max_bytes is ObjectTooLargeError; at its own size it decodes."""
        for sample in self.samples():
            data = encode(sample, self.path)
            largest = max(len(data), len(encode(sample, self.path.removesuffix(".zst"))))
            assert self.same(decode(data, self.path, max_bytes=largest), sample)
            with pytest.raises(ObjectTooLargeError, match="limit"):
                decode(data, self.path, max_bytes=largest - 1)

    def test_hostile_objects_are_refused(self) -> None:
        """Each hostile object raises its kind, and the error names object and source."""
        for name, (data, kind) in self.hostile().items():
            error = refusal(self.wrapped(data), self.path)
            assert type(error) is kind, (name, error)
            assert_named(error, self.path)

    def test_error_names_object_and_source(self) -> None:
        """The message has the path, the source and a next step; the attributes too."""
        with pytest.raises(ObjectTooLargeError) as caught:
            decode(encode(self.samples()[0], self.path), self.path, source="bucket_7", max_bytes=1)
        assert_named(caught.value, self.path)

    def test_threads_do_not_disturb_each_other(self) -> None:
        """Encoding and decoding in eight threads at once gives what one gives."""
        work = self.samples() * 16
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda sample: decode(encode(sample, self.path), self.path), work))
        assert all(self.same(result, sample) for result, sample in zip(results, work, strict=True))

    def test_every_suffix_in_any_case_finds_the_codec(self) -> None:
        """Each suffix of the codec, in upper case too, leads to it and is split from the stem."""
        codec = codec_for(self.path)
        for suffix in codec.suffixes:
            for name in (suffix, suffix.upper()):
                assert codec_for(f"a.b/c.d{name}") is codec
                assert split_suffix(f"a.b/c.d{name}") == ("a.b/c.d", name)


def try_decode(data: bytes, path: str) -> None:
    """Decodes, letting pass the errors that a codec may raise."""
    with suppress(DecodeError):
        decode(data, path, max_bytes=10**6)


def refusal(data: bytes, path: str) -> DecodeError | None:
    """The error that decoding raises, or None if it does not."""
    try:
        decode(data, path, source="bucket_7")
    except DecodeError as exc:
        return exc
    return None


def assert_named(error: DecodeError | None, path: str) -> None:
    """The error says which object, where, and what to do."""
    assert error is not None
    assert repr(path) in str(error)
    assert "'bucket_7'" in str(error)
    assert "; " in str(error)
    assert (error.path, error.source) == (path, "bucket_7")
