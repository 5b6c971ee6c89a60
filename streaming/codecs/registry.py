"""The codec of an object, by the longest known suffix of its name, in any case."""

from __future__ import annotations

from time import perf_counter
from typing import Any, NamedTuple

from streaming.codecs.base import DEFAULT_MAX_BYTES, Buffer, Codec, as_buffer
from streaming.codecs.git_lfs import refuse_lfs_pointer
from streaming.codecs.json import JSON, JSONL
from streaming.codecs.npy import NPY, NPZ
from streaming.codecs.pt import PT
from streaming.codecs.raw import RAW, TEXT
from streaming.codecs.safetensors import SAFETENSORS
from streaming.codecs.zstd import decompress, wrap
from streaming.errors import ConfigError, DecodeError, ObjectTooLargeError, TruncatedData, UnknownFormat, UnsafeData


class Decoded(NamedTuple):
    """A decoded sample, and the seconds that its decompression took."""

    sample: Any
    decompress_s: float


_by_suffix: dict[str, Codec] = {}

_NEXT_STEP = {
    TruncatedData: "fetch or copy it again",
    ObjectTooLargeError: "raise max_object_bytes (max_bytes of decode) if the object is what you expect",
    UnsafeData: "load it only if you trust where it comes from, and save it again as plain data",
}


def register_codec(codec: Codec) -> None:
    """Register a codec by its suffixes, and by each of them followed by ".zst". Registering it again does nothing.

    Raises: ConfigError: if a suffix has no leading dot, is not lower case, or belongs to another codec.
    """
    for suffix in codec.suffixes:
        if not suffix.startswith(".") or len(suffix) < 2 or suffix != suffix.lower() or "/" in suffix:
            raise ConfigError(f"codec {codec.name!r}: suffix {suffix!r} must be a dot and lower-case characters")
        if suffix == ".zst" or suffix.endswith(".zst"):
            raise ConfigError(f"codec {codec.name!r}: suffix {suffix!r} is reserved: .zst wraps every other format")
        other = _by_suffix.get(suffix, codec)
        if other != codec:
            raise ConfigError(f"codec {codec.name!r}: suffix {suffix!r} belongs to {other.name!r}; choose another")
    wrapped = wrap(codec)
    for suffix in codec.suffixes:
        if suffix not in _by_suffix:
            _by_suffix[suffix] = codec
            _by_suffix[f"{suffix}.zst"] = wrapped


def split_suffix(path: str) -> tuple[str, str]:
    """Split `a/latent_1.pt.zst` into `("a/latent_1", ".pt.zst")`; an unknown suffix stays in the path."""
    start = path.rfind("/") + 2  # a name that is only a suffix is a hidden file
    dot = path.find(".", start)
    while dot >= 0:
        if path[dot:].lower() in _by_suffix:
            return path[:dot], path[dot:]
        dot = path.find(".", dot + 1)
    return path, ""


def known_suffixes() -> list[str]:
    """Return all suffixes with a codec, sorted. `.zst` may follow each."""
    return sorted(name for name in _by_suffix if not name.endswith(".zst"))


def codec_for(path: str) -> Codec:
    """Return the codec for an object's name. Raises UnknownFormat, with the known suffixes, if there is none."""
    return _codec_for(path, None)


def decode(
    data: Buffer, path: str, *, max_bytes: int = DEFAULT_MAX_BYTES, source: str | None = None, may_view: bool = False
) -> Any:
    """Decode `data`, the content of object `path`, into memory of its own.

    Args:
        data: anything with the buffer protocol.
        path: gives the format by its suffix, and names the object in errors.
        max_bytes: limit on the object, on the sizes it declares, and, with 1 MiB added, on the memory of the sample.
            The default is lower for some formats: 1 GB for JSON.
        source: name of the source, for errors.
        may_view: whether tensors may be views of `data`, if that is writable. The caller then copies them before it
            reuses `data`.

    Raises: UnknownFormat, TruncatedData, UnsafeData, ObjectTooLargeError or a plain DecodeError, each with `path` and
    `source`."""
    return decode_timed(data, path, max_bytes=max_bytes, source=source, may_view=may_view).sample


def decode_timed(
    data: Buffer, path: str, *, max_bytes: int = DEFAULT_MAX_BYTES, source: str | None = None, may_view: bool = False
) -> Decoded:
    """Decode like `decode`, and measure how long decompression took."""
    codec = _codec_for(path, source)
    if max_bytes == DEFAULT_MAX_BYTES:
        max_bytes = codec.default_max_bytes
    buffer = as_buffer(data)
    refuse_lfs_pointer(buffer, path, source)
    try:
        if len(buffer) > max_bytes:
            raise ObjectTooLargeError(f"has {len(buffer):,} bytes, the limit is {max_bytes:,}")
        if may_view and codec.view is not None and isinstance(buffer, memoryview) and not buffer.readonly:
            return Decoded(codec.view(buffer, max_bytes), 0.0)
        if codec.inner is None:
            return Decoded(codec.decode(buffer, max_bytes), 0.0)
        began = perf_counter()
        plain = decompress(buffer, max_bytes)
        decompress_s = perf_counter() - began
        return Decoded(codec.inner.decode(plain, max_bytes), decompress_s)
    except DecodeError as exc:
        raise _named(exc, codec, path, source) from exc.__cause__
    except MemoryError:
        raise  # about this machine, not about the object
    except Exception as exc:
        raise _named(DecodeError(f"{type(exc).__name__}: {exc}"), codec, path, source) from exc


def encode(sample: Any, path: str) -> bytes:
    """Encode `sample` as the content of object `path`. Raises UnknownFormat, or TypeError naming the object."""
    codec = codec_for(path)
    try:
        return codec.encode(sample)
    except TypeError as exc:
        raise TypeError(f"{path!r} cannot hold this sample: {exc}") from exc


def _codec_for(path: str, source: str | None) -> Codec:
    codec = _by_suffix.get(split_suffix(path)[1].lower())
    if codec is not None:
        return codec
    known = " ".join(known_suffixes())
    raise UnknownFormat(
        f"{_describe(path, source)}: no codec for this suffix; known are {known}, each also with .zst; rename the "
        "object or register one with streaming.codecs.register_codec",
        path=path,
        source=source,
    )


def _named(exc: DecodeError, codec: Codec, path: str, source: str | None) -> DecodeError:
    message = f"{_describe(path, source)}, read as {codec.name}: {exc}"
    if "; " not in str(exc):  # otherwise the codec gave the next step
        message += "; " + _NEXT_STEP.get(type(exc), "check that it is what its suffix says")
    return type(exc)(message, path=path, source=source)


def _describe(path: str, source: str | None) -> str:
    return repr(path) if source is None else f"{path!r} in source {source!r}"


for _codec in (PT, SAFETENSORS, NPY, NPZ, JSON, JSONL, RAW, TEXT):
    register_codec(_codec)
