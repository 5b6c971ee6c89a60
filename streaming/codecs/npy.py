"""NumPy arrays: `.npy` (one) and `.npz` (a zip of them). Never unpickles.

The size that a header declares must match the number of bytes after it, before an array is made.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

from streaming.codecs.base import Buffer, Codec, open_buffer
from streaming.codecs.limits import are_lengths, elements, max_cost
from streaming.errors import DecodeError, ObjectTooLargeError, TruncatedData, UnsafeData

if TYPE_CHECKING:
    import numpy as np

_MAGIC = b"\x93NUMPY"
_PREFIX_BYTES = 12
# numpy's own limit: its header parser is slow for longer ones.
_MAX_HEADER_BYTES = 10_000
_CHUNK_BYTES = 1 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those that numpy writes; zipfile does not limit the others
_ENTRY = b"PK\x01\x02"
_ENTRY_BYTES = 46  # of the shortest entry in a directory
_MEMBER_COST = 1200  # in bytes of memory, of its entry and its array; measured: 1,070
# The header that numpy writes for a plain type. A single axis ends in a comma: `(3,)`; no axis is `()`.
_PLAIN_HEADER = re.compile(
    rb"\{'descr': '([<>|=]?[a-zA-Z]\d*)', 'fortran_order': (True|False), 'shape': \(((?:\d+, ?)*\d*)\), \} *\n?"
)
# Up to 3.13, CPython counts the depth of syntax trees in a variable that all threads share. If another thread builds a
# tree meanwhile, `ast` raises SystemError for a valid text, so it is tried again.
_HEADER_TRIES = 8


def decode_npy(data: Buffer, max_bytes: int) -> np.ndarray[Any, Any]:
    """Decode one array, writable.

    Raises: UnsafeData: if it holds Python objects, or items without a size. ObjectTooLargeError: if shape x item size
    passes `max_bytes`. TruncatedData: if the data ends before that. DecodeError: if the header is damaged or bytes
    follow the array."""
    start, shape, is_fortran, dtype = _header(data)
    _check_size(shape, dtype, len(data) - start, max_bytes)
    return _fill(memoryview(data)[start:], shape, is_fortran, dtype, max_bytes)


def decode_npz(data: Buffer, max_bytes: int) -> dict[str, np.ndarray[Any, Any]]:
    """Decode `{name: array}`, writable, from members that are stored or deflated.

    Raises as `decode_npy`, naming the member. The limit applies to all members together, with their overhead.
    """
    if len(data) == 0 or (len(data) < 4 and b"PK\x03\x04".startswith(bytes(data))):
        raise TruncatedData(f"ends within the header of a zip archive, at byte {len(data)}")
    _check_count(data, max_bytes)
    try:
        with zipfile.ZipFile(open_buffer(data)) as archive:
            members = archive.infolist()
            _check_members(members, max_bytes)
            return {member.filename.removesuffix(".npy"): _member(archive, member, max_bytes) for member in members}
    except zipfile.BadZipFile as exc:
        if data[:2] == b"PK" and "File is not a zip file" in str(exc):
            raise TruncatedData("ends before the directory of the archive") from exc
        raise DecodeError(f"is a damaged zip archive: {exc}") from exc
    except (zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error, ValueError) as exc:
        if isinstance(exc, DecodeError):
            raise
        raise DecodeError(f"is a damaged zip archive: {exc}") from exc


def encode_npy(sample: Any) -> bytes:
    """Encode one array. Raises TypeError if it is not an array, or has Python objects."""
    import numpy as np

    file = io.BytesIO()
    np.lib.format.write_array(file, _plain(sample), allow_pickle=False)
    return file.getvalue()


def encode_npz(sample: Any) -> bytes:
    """Encode a dict of names to arrays, uncompressed. Raises TypeError for anything else."""
    if not isinstance(sample, dict) or not all(isinstance(name, str) for name in sample):
        raise TypeError("npz holds a dict of names to arrays")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in sample.items():
            # A fixed date: equal samples give equal bytes.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), encode_npy(array))
    return file.getvalue()


def _plain(sample: Any) -> np.ndarray[Any, Any]:
    import numpy as np

    if not isinstance(sample, np.ndarray) or sample.dtype.hasobject:
        raise TypeError(f"npy holds an array of numbers, bytes or text, not {type(sample).__name__}")
    return sample


def _header(data: Buffer) -> tuple[int, tuple[int, ...], bool, np.dtype[Any]]:
    """Return the offset of the array, its shape, whether it is in Fortran order, and its type."""
    start = _array_start(data)
    try:
        shape, is_fortran, dtype = _plain_header(bytes(data[:start])) or _any_header(bytes(data[:start]))
    except Exception as exc:  # numpy's parser uses Python's, which can raise anything
        raise DecodeError(f"has a damaged npy header: {exc}") from exc
    if dtype.hasobject:
        raise UnsafeData("holds Python objects, which only unpickling could read")
    if dtype.itemsize == 0 or (dtype.kind == "V" and _has_empty_items(dtype)):
        raise UnsafeData(f"holds items without a size ({dtype}), which numpy gives one")
    if not are_lengths(shape):
        raise DecodeError("has a shape of more than 64 axes, or a length that is negative or beyond 64 bits")
    return start, shape, is_fortran, dtype


def _has_empty_items(dtype: np.dtype[Any]) -> bool:
    """Whether an item or a part of it has no bytes: `S0`, `U0`, `V0`, no fields, a field with no repeats."""
    if dtype.itemsize == 0:
        return True
    if dtype.subdtype is not None:
        return _has_empty_items(dtype.subdtype[0])
    return any(_has_empty_items(field[0]) for field in (dtype.fields or {}).values())


def _plain_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]] | None:
    """Parse a header as numpy writes it, without numpy's parser; None if it is in another form."""
    import numpy as np

    found = _PLAIN_HEADER.fullmatch(header, 10 if header[6] == 1 else 12)
    if found is None:
        return None
    descr, order, axes = found.groups()
    lengths = [axis for axis in axes.split(b",") if axis.strip()]
    if len(lengths) == 1 and b"," not in axes:
        return None
    return tuple(map(int, lengths)), order == b"True", np.dtype(descr.decode())


def _any_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Parse a header by numpy's parser, for types with fields and for other writers."""
    for _ in range(_HEADER_TRIES - 1):
        with contextlib.suppress(SystemError):
            return _numpy_header(header)
    return _numpy_header(header)


def _numpy_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    import numpy as np

    file = io.BytesIO(header)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file, max_header_size=_MAX_HEADER_BYTES)
    return shape, is_fortran, dtype


def _array_start(data: Buffer) -> int:
    """Return the length of magic, version and header, if the header is complete."""
    prefix = bytes(data[:_PREFIX_BYTES])
    if not prefix.startswith(_MAGIC[: len(prefix)]):
        raise DecodeError(f"is not a npy array: starts with {prefix[:6]!r}")
    if len(prefix) < _PREFIX_BYTES:
        raise TruncatedData(f"ends within a npy header, at byte {len(data)}")
    if prefix[6] not in (1, 2, 3):
        raise DecodeError(f"is npy version {prefix[6]}.{prefix[7]}, where 1, 2 and 3 are known")
    size = 2 if prefix[6] == 1 else 4
    length = int.from_bytes(prefix[8 : 8 + size], "little")
    if length > _MAX_HEADER_BYTES:
        raise ObjectTooLargeError(f"declares a header of {length:,} bytes, the limit is {_MAX_HEADER_BYTES:,}")
    if 8 + size + length > len(data):
        raise TruncatedData(f"ends at byte {len(data):,}, within its header of {length:,} bytes")
    return 8 + size + length


def _check_size(shape: tuple[int, ...], dtype: np.dtype[Any], available: int, max_bytes: int) -> None:
    declared = elements(shape) * dtype.itemsize
    if declared > max_bytes:
        raise ObjectTooLargeError(f"declares {shape} of {dtype}, {declared:,} bytes, the limit is {max_bytes:,}")
    if declared > available:
        raise TruncatedData(f"declares {declared:,} bytes of array, has {available:,}")
    if declared < available:
        raise DecodeError(f"has {available - declared:,} bytes after its array of {declared:,}")


def _fill(
    body: Buffer, shape: tuple[int, ...], is_fortran: bool, dtype: np.dtype[Any], max_bytes: int
) -> np.ndarray[Any, Any]:
    import numpy as np

    try:
        array = np.empty(shape, dtype, order="F" if is_fortran else "C")
    except ValueError as exc:
        raise DecodeError(f"has a shape that numpy cannot make, {shape}: {exc}") from exc
    if array.nbytes > max_bytes:
        raise ObjectTooLargeError(f"makes an array of {array.nbytes:,} bytes, the limit is {max_bytes:,}")
    if len(body):
        flat = array.reshape(-1, order="A").view(np.uint8)
        flat[:] = np.frombuffer(body, np.uint8)
    return array


def _check_count(data: Buffer, max_bytes: int) -> None:
    """Limit the number of members, as each becomes an object even if it is empty."""
    if len(data) // _ENTRY_BYTES * _MEMBER_COST <= max_cost(max_bytes):
        return
    count = bytes(data).count(_ENTRY)
    if count * _MEMBER_COST > max_cost(max_bytes):
        raise ObjectTooLargeError(
            f"declares {count:,} members, {count * _MEMBER_COST:,} bytes in memory, the limit is {max_bytes:,}"
        )


def _check_members(members: list[zipfile.ZipInfo], max_bytes: int) -> None:
    total = sum(member.file_size for member in members)
    if total > max_bytes:
        raise ObjectTooLargeError(f"declares {total:,} bytes in {len(members):,} members, the limit is {max_bytes:,}")
    names = {member.filename for member in members}
    if len(names) < len(members):
        raise DecodeError("holds two members with one name")
    if others := sorted(name for name in names if not name.endswith(".npy")):
        raise DecodeError(f"holds {others[0]!r}, which is not an array")


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, max_bytes: int) -> np.ndarray[Any, Any]:
    if member.compress_type not in _METHODS:
        raise DecodeError(f"member {member.filename!r} is neither stored nor deflated; save it by numpy.savez")
    try:
        return decode_npy(_read_member(archive, member), max_bytes)
    except DecodeError as exc:
        raise type(exc)(f"member {member.filename!r} {exc}") from exc


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | bytearray:
    """Read a member in chunks, as its declared size is not trusted."""
    content = bytearray()
    with archive.open(member) as file:
        while chunk := file.read(_CHUNK_BYTES):
            content += chunk
    if len(content) < member.file_size:
        raise TruncatedData(f"declares {member.file_size:,} bytes, has {len(content):,}")
    return content


NPY = Codec(name="npy", suffixes=(".npy",), decode=decode_npy, encode=encode_npy)
NPZ = Codec(name="npz", suffixes=(".npz",), decode=decode_npz, encode=encode_npz)
