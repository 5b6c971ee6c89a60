"""Pickles of torch files put together by hand, opcode by opcode, as no honest program would."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import numpy.typing as npt

PROTO = b"\x80\x02"
STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ"
"""A storage of one float, which `archive` holds."""
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
HOOKS = b"ccollections\nOrderedDict\n)R"
MULTIARRAY = b"cnumpy._core.multiarray\n"


def archive(content: bytes, copies: int = 1) -> bytes:
    """A torch file around a pickle and one float, its directory naming the pickle `copies` times."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("archive/data.pkl", PROTO + content + b".")
        made.writestr("archive/version", b"3\n")
        made.writestr("archive/byteorder", b"little")
        made.writestr("archive/data/0", bytes(4))
        for _ in range(copies - 1):
            made.filelist.append(made.filelist[0])
    return file.getvalue()


def legacy(content: bytes) -> bytes:
    """A file in the layout before torch 1.6 around a pickle, one float behind it."""
    head = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03." + b"\x80\x02}."
    if STORAGE not in content:
        return head + PROTO + content + b"." + PROTO + b"]."
    return head + PROTO + content + b"." + PROTO + b"]X\x01\0\0\x000a." + struct.pack("<Q", 1) + bytes(4)


def number(value: int) -> bytes:
    """An integer, of up to 255 bytes."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def text(value: str) -> bytes:
    content = value.encode()
    return b"X" + struct.pack("<L", len(content)) + content


def tensor(size: bytes, stride: bytes, offset: bytes = b"K\0", storage: bytes = STORAGE) -> bytes:
    """A tensor over a storage, all by their opcodes."""
    return REBUILD + b"(" + storage + offset + size + stride + b"\x89" + HOOKS + b"tR"


def dtype(code: str) -> bytes:
    """A plain type of NumPy's."""
    return (
        b"cnumpy\ndtype\n"
        + text(code)
        + b"\x89\x88\x87R(K\x03"
        + text("<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    )


def latin1(content: bytes) -> bytes:
    """Bytes, as protocol 2 writes them."""
    return b"c_codecs\nencode\n" + text(content.decode("latin1")) + text("latin1") + b"\x86R"


def array(shape: bytes, code: str, content: bytes) -> bytes:
    """An array of NumPy's."""
    made = MULTIARRAY + b"_reconstruct\ncnumpy\nndarray\nK\0\x85" + latin1(b"b") + b"\x87R"
    return made + b"(K\x01" + shape + dtype(code) + b"\x89" + latin1(content) + b"tb"


def scalar(code: str, content: bytes) -> bytes:
    """A scalar of NumPy's."""
    return MULTIARRAY + b"scalar\n" + dtype(code) + latin1(content) + b"\x86R"


def npy(shape: str, descr: object, body: bytes = b"") -> bytes:
    """A `.npy` file with a header of any shape and type."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + body


def npz(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return file.getvalue()


def saved(value: npt.ArrayLike) -> bytes:
    """The `.npy` file of an array."""
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()
