"""Bytes to samples and back, by suffix. Importing this loads neither torch nor numpy; a format's first use does."""

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
