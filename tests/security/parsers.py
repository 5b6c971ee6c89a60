"""Every parser of bytes that come from elsewhere: what the fuzzer feeds (see `fuzz`).

A parser belongs here if it is a pure function of bytes: a codec, a header, a page of a listing, the file of an index.
It may return anything, or raise one of the library's own errors; nothing else, whatever it is given.
"""

from __future__ import annotations

import io
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from streaming.errors import DecodeError, StreamingError
from tests.security.parsers_http import HONEST
from tests.security.parsers_http import PARSERS as OF_SERVERS

MAX_BYTES = 1_000_000
"""The limit that codecs get."""


@dataclass(frozen=True)
class Parser:
    """One parser.

    Attributes:
        name: for the command line and for failures.
        parse: takes bytes.
        samples: makes inputs of note, of which the fuzzer makes others; called once.
        error: the class of all errors that it may raise.
    """

    name: str
    parse: Callable[[bytes], object]
    samples: Callable[[], list[bytes]]
    error: type[Exception] = StreamingError


def _decode(path: str, data: bytes) -> object:
    """Decode with the codec itself, because `streaming.codecs.decode` would turn any error into one of ours."""
    from streaming.codecs import codec_for

    return codec_for(path).decode(data, MAX_BYTES)


def _encoded(path: str) -> list[bytes]:
    from streaming.codecs import encode

    return [encode(sample, path) for sample in _SAMPLES[path.removesuffix(".zst")]()]


def _saved() -> list[bytes]:
    """Torch files of every layout: with a plan, with NumPy's arrays, for torch alone, of the time before 1.6."""
    import numpy as np
    import torch

    base = torch.arange(12.0).reshape(3, 4)
    rich = OrderedDict(w=torch.nn.Parameter(base), b=base[1:, ::2], s=base.to_sparse(), k={(1, "a"): {1, 2}})
    arrays = {"a": np.arange(6).reshape(2, 3), "t": np.array(["zürich"]), "n": np.float32(1.5), "b": b"bytes"}
    contents = []
    for sample, is_new in [(_tensors(), True), (arrays, True), (rich, True), (_tensors(), False), (rich, False)]:
        file = io.BytesIO()
        torch.save(sample, file, _use_new_zipfile_serialization=is_new)
        contents.append(file.getvalue())
    return contents


def _tensors() -> dict[str, Any]:
    import torch

    return {"latents": torch.arange(24.0).reshape(2, 3, 4), "mask": torch.tensor([True]), "empty": torch.empty(0, 5)}


def _arrays() -> list[Any]:
    import numpy as np

    fields = np.array([(1, b"ab")], dtype=[("id", ">i8"), ("tag", "S3")])
    return [np.arange(12.0).reshape(3, 4), np.asfortranarray(np.ones((2, 3), "i2")), np.array(["ü"]), fields]


def _documents() -> list[Any]:
    event = {"type": 3, "data": {"text": "ü🙂\\", "ids": [1, -2.5, None, True]}, "timestamp": 1700000000123}
    return [[event] * 3, {"a": [], "b": {}, "big": 10**30}]


_SAMPLES: dict[str, Callable[[], list[Any]]] = {
    "a.safetensors": lambda: [_tensors(), {}],
    "a.npy": _arrays,
    "a.npz": lambda: [{"a": _arrays()[0], "b": _arrays()[3]}],
    "a.json": _documents,
    "a.jsonl": lambda: [_documents(), _documents()[0]],
    "a.txt": lambda: ["plain", "ünïcode 🙂\r\n"],
}


def _compressed() -> list[bytes]:
    """Frames with and without their size, several, and one to skip."""
    import zstandard

    content = json.dumps(_documents()[0]).encode()
    sized = zstandard.compress(content)
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(content)
    return [sized, unsized, sized + unsized, b"\x50\x2a\x4d\x18\x04\0\0\0note" + sized]


def _codecs() -> list[Parser]:
    found = [Parser("pt", partial(_decode, "a.pt"), cache(_saved), DecodeError)]
    found += [Parser(path[2:], partial(_decode, path), partial(_encoded, path), DecodeError) for path in _SAMPLES]
    return [*found, Parser("bin.zst", partial(_decode, "a.bin.zst"), _compressed, DecodeError)]


def _lfs_pointer(data: bytes) -> None:
    from streaming.codecs.git_lfs import refuse_lfs_pointer

    refuse_lfs_pointer(data, "x", "s")


_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


def _of_servers() -> list[Parser]:
    return [Parser(name.replace(" ", "-"), parse, partial(HONEST.__getitem__, name)) for name, parse in OF_SERVERS]


PARSERS: list[Parser] = [*_codecs(), *_of_servers(), Parser("lfs-pointer", _lfs_pointer, lambda: [_POINTER])]
"""Add a parser here, and it is fuzzed in the tests and by `make fuzz`."""
