"""Suffixes: which codec, which stem, and users' own formats."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from streaming.codecs import Codec, codec_for, decode, encode, register_codec, split_suffix
from streaming.errors import ConfigError, DecodeError, UnknownFormat


def own(name: str, *suffixes: str, decode: Callable[[Any, int], Any] | None = None) -> Codec:
    return Codec(
        name=name, suffixes=suffixes, decode=decode or (lambda data, limit: bytes(data)[::-1]), encode=lambda s: s[::-1]
    )


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b/latent_1.pt.zst", ("a/b/latent_1", ".pt.zst")),
        ("latent.v2.PT", ("latent.v2", ".PT")),
        ("a.json/b.npz", ("a.json/b", ".npz")),
        ("a.json/b", ("a.json/b", "")),
        ("a/.pt", ("a/.pt", "")),
        (".json", (".json", "")),
        ("a/..pt", ("a/.", ".pt")),
        ("a.zst", ("a.zst", "")),
        ("a.tar.zst", ("a.tar.zst", "")),
        ("a.pt.zst.zst", ("a.pt.zst.zst", "")),
        ("a.json.txt", ("a.json", ".txt")),
        ("50% #1? ünï.jsonl", ("50% #1? ünï", ".jsonl")),
        ("", ("", "")),
        ("a.pt/", ("a.pt/", "")),
    ],
)
def test_suffix_is_split_from_the_stem(path: str, expected: tuple[str, str]) -> None:
    """The known suffix, zstd included, is split off; names without one stay whole."""
    assert split_suffix(path) == expected


def test_names_of_codecs_are_stable() -> None:
    """Names go into cache keys: one per format, with .zst where it is compressed."""
    names = {
        path: codec_for(path).name for path in ("a.ckpt", "a.safetensors", "a.npy", "a.npz", "a.json.zst", "a.MP4")
    }
    assert list(names.values()) == ["pt", "safetensors", "npy", "npz", "json.zst", "raw"]
    assert codec_for("a.txt").name == "text"


def test_unknown_suffix_names_the_object_and_the_known_ones() -> None:
    """The error has the path, the source, the known suffixes and a next step."""
    with pytest.raises(UnknownFormat, match=r"'a/b\.tar' in source 's3'.*\.jsonl.*\.zst.*register_codec") as caught:
        decode(b"", "a/b.tar", source="s3")
    assert (caught.value.path, caught.value.source) == ("a/b.tar", "s3")
    for call in (codec_for, lambda path: encode(b"", path)):
        with pytest.raises(UnknownFormat, match=r"b\.tar"):
            call("a/b.tar")


def test_own_suffix_is_registered_once() -> None:
    """A user's codec works alone and under zstd; the same again is nothing, another one for its suffix is refused."""
    codec = own("reversed", ".rev", ".events.rev2")
    register_codec(codec)
    register_codec(codec)
    for path in ("a.rev", "a.rev.zst", "a.events.REV2"):
        assert decode(encode(b"abc", path), path) == b"abc"
    assert split_suffix("a.events.rev2.zst") == ("a", ".events.rev2.zst")
    with pytest.raises(ConfigError, match=r"'\.rev' belongs to 'reversed'"):
        register_codec(own("other", ".other_rev", ".rev"))
    with pytest.raises(UnknownFormat):
        codec_for("a.other_rev")


@pytest.mark.parametrize("suffix", ["", ".", "rev", ".Rev", ".zst", ".rev.zst", ".a/b", ".pt"])
def test_unusable_suffix_is_refused(suffix: str) -> None:
    """A suffix needs its dot, lower case, no zstd, no slash, and no other owner."""
    with pytest.raises(ConfigError, match="suffix"):
        register_codec(own("bad", suffix))


def test_failure_of_an_own_codec_names_the_object() -> None:
    """Any exception in a user's decoder becomes a DecodeError with path and cause."""

    def fail(data: Any, limit: int) -> Any:
        raise LookupError("no such column")

    register_codec(own("failing", ".failing", decode=fail))
    with pytest.raises(DecodeError, match=r"'a\.failing'.*LookupError: no such column") as caught:
        decode(b"", "a.failing")
    assert isinstance(caught.value.__cause__, LookupError)


def test_lack_of_memory_is_not_the_objects_fault() -> None:
    """A MemoryError passes as it is, so that a good sample is not taken for a bad one."""

    def fail(data: Any, limit: int) -> Any:
        raise MemoryError

    register_codec(own("hungry", ".hungry", decode=fail))
    with pytest.raises(MemoryError):
        decode(b"", "a.hungry")


def test_data_must_be_bytes() -> None:
    """A str or None in place of bytes is a TypeError, not bad data."""
    for data in ("text", None):
        with pytest.raises(TypeError):
            decode(data, "a.bin")  # type: ignore[arg-type]


def test_import_is_light() -> None:
    """Importing the codecs, finding one and decoding JSON loads neither torch, numpy, zstandard nor safetensors."""
    program = """
import sys
from streaming.codecs import codec_for, decode
codec_for("a.pt.zst"), decode(b"[1]", "a.json")
print([name for name in ("torch", "numpy", "zstandard", "safetensors") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
