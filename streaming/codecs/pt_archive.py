"""The directory of a zip archive that `torch.save` wrote: what its members declare, before any of it is allocated.

Read as torch's own reader reads it: the last end mark, zip64 where its locator stands, names in either case. Costs 6 us
for a file of one tensor, where `torch.load` needs 130; keeping the layouts already seen saved 1.5 of them, too little
for the state.
"""

from __future__ import annotations

import struct

from streaming.codecs.base import Buffer
from streaming.errors import DecodeError, TooLarge, TruncatedData, UnsafeData

_UINT32_MAX = 0xFFFFFFFF
# mark, method, stored size, size, lengths of name, extra field and comment, position of the member
_ENTRY = struct.Struct("<4s6xH8xLLHHH8xL")
_END = struct.Struct("<4s6xHLLH")  # entries, size and position of the directory, length of the comment
_END64 = struct.Struct("<4s28xQQQ")  # entries, size and position of the directory
_MEMBER = struct.Struct("<26xHH")  # lengths of name and extra field, before the content


def read_archive(data: Buffer) -> tuple[int, list[bytes]]:
    """The bytes that all members declare, and the pickles among them.

    Raises: TooLarge: if a member is compressed. UnsafeData: if it is a program. TruncatedData: if the directory is not
    there. DecodeError: if it is damaged.
    """
    total, pickles = 0, []
    try:
        count, position = _directory(data)
        for _ in range(count):
            mark, method, stored, size, name, extra, comment, member = _ENTRY.unpack_from(data, position)
            if mark != b"PK\x01\x02":
                raise DecodeError(f"has a damaged zip directory at byte {position:,}")
            position += _ENTRY.size + name
            if stored == _UINT32_MAX or size == _UINT32_MAX or member == _UINT32_MAX:
                stored, size, member = _wide(data[position : position + extra], stored, size, member)
            if method or stored != size:
                raise TooLarge(f"has a compressed member ({stored:,} for {size:,} bytes); save it anew by torch.save")
            total += size
            if data[position - 1] in b"lL":
                label = bytes(data[position - name : position]).lower()
                if label.endswith(b"/constants.pkl"):
                    raise UnsafeData("is a TorchScript program, not data")
                if label.endswith(b"data.pkl"):
                    pickles.append(_content(data, member, size))
            position += extra + comment
    except (struct.error, IndexError, OverflowError) as exc:
        raise DecodeError("has a damaged zip directory") from exc
    return total, pickles


def _directory(data: Buffer) -> tuple[int, int]:
    """Number of members and position of the directory."""
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
    name, extra = _MEMBER.unpack_from(data, member)
    start = member + _MEMBER.size + name + extra
    return bytes(data[start : start + size])


def _wide(extra: Buffer, stored: int, size: int, member: int) -> tuple[int, int, int]:
    """Replaces the values that do not fit 32 bits by those of the extra field, which holds only these, in order."""
    position = 0
    while position < len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            numbers = iter(struct.unpack_from(f"<{length // 8}Q", extra, position + 4))
            size, stored, member = (next(numbers, v) if v == _UINT32_MAX else v for v in (size, stored, member))
            break
        position += 4 + length
    return stored, size, member
