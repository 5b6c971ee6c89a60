"""The directory of a zip archive of `torch.save`, checked before anything is allocated.

It is read as torch's own reader does: the last end record, zip64 if its locator exists, names in either case. Costs 6
us for a file of one tensor, vs. 130 us for `torch.load`.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from streaming.codecs.base import Buffer
from streaming.codecs.limits import max_cost
from streaming.errors import DecodeError, ObjectTooLargeError, TruncatedData, UnsafeData

_UINT32_MAX = 0xFFFFFFFF
# mark, method, stored size, size, lengths of name, extra field and comment, position of the member
_ENTRY = struct.Struct("<4s6xH8xLLHHH8xL")
_END = struct.Struct("<4s6xHLLH")  # entries, size and position of the directory, length of the comment
_END64 = struct.Struct("<4s28xQQQ")  # entries, size and position of the directory
_ENTRY_COST = 400  # in bytes of memory, of an entry; measured: 330
_MEMBER = struct.Struct("<26xHH")  # lengths of name and extra field, before the content


class Archive(NamedTuple):
    """The contents of the directory.

    Attributes:
        pickles: contents of the pickles.
        storages: offset and bytes of each member in the folder `data`, by name.
        byteorder: the member of that name, `b"little"` or `b"big"`; empty if it is missing.
    """

    pickles: list[bytes]
    storages: dict[bytes, tuple[int, int]]
    byteorder: bytes


def read_archive(data: Buffer, max_bytes: int) -> Archive:
    """Read the directory and the pickles, but no tensors.

    Raises: ObjectTooLargeError: if a member is compressed, or all of them together are over the limit. UnsafeData: if
    it is a program. TruncatedData: if the directory is missing, or a member ends past the file. DecodeError:
    if it is damaged."""
    total = 0
    storages: dict[bytes, tuple[int, int]] = {}
    pickles: list[tuple[int, int]] = []
    byteorder: tuple[int, int] | None = None
    try:
        count, position = _directory(data)
        if count * _ENTRY_COST > max_cost(max_bytes):
            raise ObjectTooLargeError(f"declares {count:,} members, the limit is {max_bytes:,} bytes")
        for _ in range(count):
            mark, method, stored, size, name, extra, comment, member = _ENTRY.unpack_from(data, position)
            if mark != b"PK\x01\x02":
                raise DecodeError(f"has a damaged zip directory at byte {position:,}")
            position += _ENTRY.size + name
            if stored == _UINT32_MAX or size == _UINT32_MAX or member == _UINT32_MAX:
                stored, size, member = _wide(data[position : position + extra], stored, size, member)
            if method or stored != size:
                raise ObjectTooLargeError(
                    f"has a compressed member ({stored:,} for {size:,} bytes); save it again by torch.save"
                )
            total += size
            label = bytes(data[position - name : position])
            if len(label) < name:
                raise IndexError("a name ends past the file")
            _, found, key = label.partition(b"/data/")
            if found:
                storages[key] = member, size
            elif label.endswith(b"/byteorder"):
                byteorder = member, size
            elif label[-1:] in b"lL":
                label = label.lower()
                if label.endswith(b"/constants.pkl"):
                    raise UnsafeData("is a TorchScript program, not data")
                if label.endswith(b"data.pkl"):
                    pickles.append((member, size))
            position += extra + comment
        # Members may overlap, so nothing is copied before the sum is known.
        if total > max_bytes:
            raise ObjectTooLargeError(f"declares {total:,} bytes in its members, the limit is {max_bytes:,}")
        if total > len(data):
            raise TruncatedData(f"declares {total:,} bytes in its members, has {len(data):,} in all")
        places = {key: (_content_start(data, member, size), size) for key, (member, size) in storages.items()}
        contents = [_content(data, member, size) for member, size in pickles]
        order = _content(data, *byteorder) if byteorder else b""
    except (struct.error, IndexError, OverflowError) as exc:
        raise DecodeError(f"has a damaged zip directory: {exc}") from exc
    return Archive(contents, places, order)


def _directory(data: Buffer) -> tuple[int, int]:
    """Return the number of members and the position of the directory."""
    end = len(data) - _END.size
    if end < 0 or data[end : end + 4] != b"PK\x05\x06":
        tail = max(0, len(data) - _END.size - 0xFFFF)
        end = tail + bytes(data[tail : end + 4 if end > 0 else 0]).rfind(b"PK\x05\x06")
        if end < tail:
            raise TruncatedData(f"ends at byte {len(data):,}, before the directory of its archive")
    _, count, _, position, _ = _END.unpack_from(data, end)
    if end >= 76 and data[end - 20 : end - 16] == b"PK\x06\x07":
        (end64,) = struct.unpack_from("<Q", data, end - 12)
        mark, count64, _, position64 = _END64.unpack_from(data, end64)
        if mark == b"PK\x06\x06":
            count, position = count64, position64
    return count, position


def _content(data: Buffer, member: int, size: int) -> bytes:
    start = _content_start(data, member, size)
    return bytes(data[start : start + size])


def _content_start(data: Buffer, member: int, size: int) -> int:
    name, extra = _MEMBER.unpack_from(data, member)
    start = int(member + _MEMBER.size + name + extra)
    if start + size > len(data):
        raise TruncatedData(f"has a member up to byte {start + size:,}, has {len(data):,} in all")
    return start


def _wide(extra: Buffer, stored: int, size: int, member: int) -> tuple[int, int, int]:
    """Replace values that do not fit into 32 bits by those in the extra field, which has only these, in order."""
    position = 0
    while position < len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            numbers = iter(struct.unpack_from(f"<{length // 8}Q", extra, position + 4))
            size, stored, member = (next(numbers, v) if v == _UINT32_MAX else v for v in (size, stored, member))
            break
        position += 4 + length
    return stored, size, member
