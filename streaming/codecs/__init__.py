"""Decode bytes to samples and encode samples, by suffix. torch and numpy are imported at the first use of a format."""

from streaming.codecs.base import DEFAULT_MAX_BYTES, Buffer, Codec
from streaming.codecs.registry import codec_for, decode, decode_timed, encode, register_codec, split_suffix

__all__ = [
    "DEFAULT_MAX_BYTES",
    "Buffer",
    "Codec",
    "codec_for",
    "decode",
    "decode_timed",
    "encode",
    "register_codec",
    "split_suffix",
]
