"""Objects made to exhaust their reader: `{description: (name, bytes, error)}`."""

from __future__ import annotations

import json
import struct
import zipfile

import numpy as np
import zstandard

from streaming.errors import DecodeError, ObjectTooLargeError, TruncatedData, UnsafeData
from tests.security.pickles import (
    HOOKS,
    REBUILD,
    STORAGE,
    archive,
    array,
    legacy,
    npy,
    npz,
    number,
    saved,
    scalar,
    tensor,
    text,
)

LIMIT = 10_000_000
"""The limit under which each of them is read."""

Attack = tuple[str, bytes, type[DecodeError]]

_HUGE = number(2**2030)


def arithmetic() -> dict[str, Attack]:
    """Numbers that are only claimed, and cost time to multiply, compare or print."""
    many = b"(" + _HUGE + b"q\1" + b"h\1" * 8000 + b"t"
    ones = b"(" + b"K\1" * 65 + b"t"
    one_hash = b"".join(number(n * (2**61 - 1)) + b"N" for n in range(1, 60_000))
    tuples = b"".join(number(n * (2**61 - 1)) + b"\x85N" for n in range(1, 20_000))
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(b"")
    shared = b")q\2" + b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(2, 40))
    return {
        "shape of huge numbers": ("a.pt", archive(tensor(many, many)), UnsafeData),
        "shape of huge numbers, old": ("a.pt", legacy(tensor(many, many)), UnsafeData),
        "shape of huge numbers, numpy": ("a.pt", archive(array(many, "f4", b"")), UnsafeData),
        "65 axes": ("a.pt", archive(tensor(ones, ones)), UnsafeData),
        "an offset beyond 64 bits": ("a.pt", archive(tensor(b"K\1\x85", b"K\1\x85", _HUGE)), UnsafeData),
        "a storage beyond 64 bits": (
            "a.pt",
            archive(tensor(b"K\1\x85", b"K\1\x85", b"K\0", STORAGE.replace(b"K\1t", _HUGE + b"t"))),
            UnsafeData,
        ),
        "a shape that doubles when printed": ("a.pt", archive(tensor(shared, shared)), ObjectTooLargeError),
        "a key that doubles when hashed": ("a.pt", archive(b"}" + shared + b"K\1s"), ObjectTooLargeError),
        "a key that doubles when hashed, without a plan": (
            "a.pt",
            archive(b"(" + HOOKS + b"}" + shared + b"K\1st"),
            ObjectTooLargeError,
        ),
        "a member of a set that doubles": (
            "a.pt",
            archive(b"c__builtin__\nset\n](" + shared + b"e\x85R"),
            ObjectTooLargeError,
        ),
        "a key deeper than the C stack": ("a.pt", archive(b"})" + b"\x85" * 500_000 + b"K\1s"), UnsafeData),
        "a key deeper than the C stack, old": ("a.pt", legacy(b"})" + b"\x85" * 500_000 + b"K\1s"), UnsafeData),
        "an encoding of quadratic time": (
            "a.pt",
            archive(b"c__builtin__\nbytearray\n" + text("ü" * 100_000) + text("punycode") + b"\x86R"),
            UnsafeData,
        ),
        "a name of many characters": ("a.pt", archive(b"c" + b"t" * 200_000 + b"\nx\n)R"), UnsafeData),
        "a name of many characters, old": ("a.pt", legacy(b"c" + b"t" * 200_000 + b"\nx\n)R"), UnsafeData),
        "keys of one hash": ("a.pt", archive(b"}(" + one_hash + b"u"), UnsafeData),
        "keys of one hash, without a plan": ("a.pt", archive(b"(" + HOOKS + b"}(" + one_hash + b"ut"), UnsafeData),
        "tuples of one hash": ("a.pt", archive(b"(" + HOOKS + b"}(" + tuples + b"ut"), UnsafeData),
        "frames without content": ("a.bin.zst", frame * 300_000 + b"x", TruncatedData),
    }


def containers() -> dict[str, Attack]:
    """Archives whose members hold more than they or their directory say."""
    body = npy("(200,)", "<u1") + bytes(200)
    found: dict[str, Attack] = {}
    for name, method in [("bzip2", zipfile.ZIP_BZIP2), ("lzma", zipfile.ZIP_LZMA)]:
        data = npz({"a.npy": body[:-200] + bytes(100_000_000)}, method)
        at = data.rindex(b"PK\x01\x02") + 24
        found[f"a member by {name}"] = ("a.npz", data[:at] + struct.pack("<L", len(body)) + data[at + 4 :], DecodeError)
    data = npz({"a.npy": body[:-200] + bytes(100_000_000)}, zipfile.ZIP_DEFLATED)
    at = data.rindex(b"PK\x01\x02") + 24
    found["a member by deflate"] = ("a.npz", data[:at] + struct.pack("<L", len(body)) + data[at + 4 :], DecodeError)
    found["one pickle named 2,000 times"] = ("a.pt", archive(text("x" * 1_000_000), copies=2000), ObjectTooLargeError)
    found["members without content"] = ("a.npz", npz({f"{n}.txt": b"" for n in range(20_000)}), ObjectTooLargeError)
    return found


def sizes() -> dict[str, Attack]:
    """Sizes that one side reads as nothing and the other as memory."""
    many = "(3000000000,)"
    types = ["|S0", "<U0", "|V0", [("a", "|S0")], [("a", [("b", "<U0")])], [("a", "<f4", (0,))], ("<f4", (0,))]
    found: dict[str, Attack] = {f"items of {descr}": ("a.npy", npy(many, descr), UnsafeData) for descr in types}
    mixed = npy("(1000,)", [("n", "<i4"), ("a", "|S0")]) + bytes(4000)
    found["a field of no size"] = ("a.npy", mixed, UnsafeData)
    found["items of no size in a member"] = ("a.npz", npz({"a.npy": npy(many, "|S0")}), UnsafeData)
    for code in ("S0", "U0", "V0"):
        found[f"items of {code} within a pickle"] = (
            "a.pt",
            archive(array(number(3 * 10**9) + b"\x85", code, b"")),
            UnsafeData,
        )
    one = number(10**9)
    found["one element, a thousand million times"] = (
        "a.pt",
        archive(tensor(one + b"\x85", b"K\0\x85")),
        ObjectTooLargeError,
    )
    state = b"(" + STORAGE + b"K\0" + one + b"\x85K\1\x85t"
    found["a storage enlarged by a state"] = (
        "a.pt",
        archive(b"ctorch\nTensor\n)R" + state + b"b"),
        ObjectTooLargeError,
    )
    empty = b"ctorch.storage\nTypedStorage\n)R"
    found["an empty storage enlarged"] = ("a.pt", archive(tensor(one + b"\x85", b"K\1\x85", storage=empty)), UnsafeData)
    found["a storage enlarged by a state, old"] = (
        "a.pt",
        legacy(b"ctorch\nTensor\n)R" + state + b"b"),
        ObjectTooLargeError,
    )
    return found


def objects() -> dict[str, Attack]:
    """Many small objects, each larger than what stands for it."""
    many = 1_500_000
    tensors = {str(n): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(60_000)}
    names = ",".join(f'"{n}":""' for n in range(400_000))
    header = f'{{"__metadata__":{{{names}}}}}'.encode()
    axes = json.dumps(
        {"a": {"dtype": "F32", "shape": [1] * 3_000_000, "data_offsets": [0, 4]}}, separators=(",", ":")
    ).encode()
    empty = json.dumps(tensors, separators=(",", ":")).encode()
    view = b"h\1(h\2K\0))\x89h\3tR"
    views = b"(" + REBUILD + b"q\1" + STORAGE + b"q\2" + HOOKS + b"q\3" + view * 100_000 + b"l"
    views = b"](" + views[1:-1] + b"e"
    doubled = b"]q\0" + b"".join(b"](h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1]) for n in range(40))
    face = "\N{GRINNING FACE}".encode()
    nested = zstandard.compress(b"[" + b",".join([b"[" * 400 + b"]" * 400] * 10_000) + b"]")
    call = b"](ctorch\nFloatTensor\nq\1" + b"h\1)R" * 300_000 + b"e"
    dicts = b"](ccollections\nOrderedDict\nq\1" + b"h\1)R" * 500_000 + b"e"
    large = b"](" + scalar("S1000000", bytes(1_000_000)) + b"q\1" + b"h\1" * 3000 + b"e"
    small = b"](" * 900 + scalar("f8", bytes(8)) + b"q\1" + b"h\1" * 90_000 + b"e" * 900
    wide = b"c__builtin__\nbytearray\n" + text("a" * 9_000_000) + text("utf-32") + b"\x86R"
    return {
        "lists in lists": ("a.json.zst", nested, ObjectTooLargeError),
        "empty dicts": ("a.json.zst", zstandard.compress(b"[" + b"{}," * 3_000_000 + b"{}]"), ObjectTooLargeError),
        "dicts of one": ("a.json", b"[" + b'{"":{}},' * 1_200_000 + b"{}]", ObjectTooLargeError),
        "numbers": ("a.json", b"[" + b"257," * 2_400_000 + b"0]", ObjectTooLargeError),
        "texts": ("a.json", b"[" + b'"ab",' * 1_900_000 + b"0]", ObjectTooLargeError),
        "text made wide by one character": ("a.json", b'"' + b"a" * 9_000_000 + face + b'"', ObjectTooLargeError),
        "text made wide by one escape": ("a.json", b'"' + b"a" * 9_000_000 + b'\\ud83d\\ude00"', ObjectTooLargeError),
        "plain text made wide": ("a.txt", b"a" * 9_000_000 + face, ObjectTooLargeError),
        "lines": ("a.jsonl", b"{}\n" * 3_000_000, ObjectTooLargeError),
        "lines of nothing": ("a.jsonl", b"\n" * 9_900_000, ObjectTooLargeError),
        "tensors without elements": ("a.safetensors", struct.pack("<Q", len(empty)) + empty, ObjectTooLargeError),
        "metadata": ("a.safetensors", struct.pack("<Q", len(header)) + header, ObjectTooLargeError),
        "axes": ("a.safetensors", struct.pack("<Q", len(axes)) + axes + bytes(4), ObjectTooLargeError),
        "lists in a pickle": ("a.pt", archive(b"](" + b"]" * many + b"e"), ObjectTooLargeError),
        "dicts in a pickle": ("a.pt", archive(b"](" + b"}" * many + b"e"), ObjectTooLargeError),
        "sets in a pickle": ("a.pt", archive(b"](" + b"\x8f" * many + b"e"), ObjectTooLargeError),
        "marks in a pickle": ("a.pt", archive(b"(" * many + b"t" * many), ObjectTooLargeError),
        "lists in an old pickle": ("a.pt", legacy(b"](" + b"]" * many + b"e"), ObjectTooLargeError),
        "calls in a pickle": ("a.pt", archive(dicts), ObjectTooLargeError),
        "empty tensors in a pickle": ("a.pt", archive(call), ObjectTooLargeError),
        "views of one float": ("a.pt", archive(views), ObjectTooLargeError),
        "one scalar, many times": ("a.pt", archive(large), ObjectTooLargeError),
        "one text, many times": (
            "a.pt",
            archive(b"](" + text("x" * 100_000) + b"q\1" + b"h\1" * 3000 + b"e"),
            ObjectTooLargeError,
        ),
        "small scalars, far down": ("a.pt", archive(small), ObjectTooLargeError),
        "lists that double": ("a.pt", archive(b"(" + HOOKS + doubled + b"t"), ObjectTooLargeError),
        "bytes made wide": ("a.pt", archive(wide), UnsafeData),
        "an archive of names": (
            "a.npz",
            npz({f"{n}.npy": saved(np.zeros(0)) for n in range(15_000)}),
            ObjectTooLargeError,
        ),
    }


def cycles() -> dict[str, Attack]:
    """Containers that hold themselves, on which whatever walks a sample never ends."""
    return {
        "a list in itself": ("a.pt", archive(b"]q\0h\0a"), UnsafeData),
        "a dict in itself": ("a.pt", archive(b"}q\0K\1h\0s"), UnsafeData),
        "a list in its tuple": ("a.pt", archive(b"]q\0h\0\x85a"), UnsafeData),
        "two lists": ("a.pt", archive(b"]q\0]q\1h\0aah\1h\0a0"), UnsafeData),
        "an old list in itself": ("a.pt", legacy(b"]q\0h\0a"), UnsafeData),
        "its own attribute": ("a.pt", archive(b"ccollections\nOrderedDict\n)Rq\0}X\1\0\0\0ah\0sb"), UnsafeData),
        "deeper than a reader can follow": ("a.pt", archive(b"]" * 5000 + b"a" * 4999), UnsafeData),
    }
