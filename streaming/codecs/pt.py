"""What `torch.save` wrote, read by `torch.load(weights_only=True)` and nothing else.

Torch's reader takes sizes on trust in places, so the archive's directory is read first (3 us for a file of one tensor,
where `torch.load` needs 130): members must be stored plainly and together fit into the file. The pickle is scanned only
if it names one of the few constructors that allocate by a number.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
from typing import Any

from streaming.codecs.base import Buffer, Codec, readable
from streaming.codecs.pickle_scan import PickleScan
from streaming.errors import DecodeError, TooLarge, TruncatedData, UnsafeData

_ZIP_START = b"PK\x03\x04"
_UINT32_MAX = 0xFFFFFFFF
# method, stored size, size, lengths of name, extra field and comment, position of the local header
_ENTRY = struct.Struct("<4s6xH8xLLHHH8xL")
_END = struct.Struct("<4s6xHLLH")  # entries, size and position of the directory, length of the comment
_END64 = struct.Struct("<4s28xQQQ")  # entries, size and position of the directory
_SUSPECT = re.compile(rb"(?:bytearray|Tensor|[dU]Storage|TypedStorage|UntypedStorage|encode|_rebuild_qtensor)\n")
_CALL = re.compile(rb"c[\w.]+\n[\w.]+\n")
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)|blocked|function (\S+)")
_RECORD = re.compile(r"expected size \((\d+) bytes")


def decode_pt(data: Buffer, max_bytes: int) -> Any:
    """The saved object, tensors on the CPU in memory of their own.

    Raises: UnsafeData: if loading would call anything but torch's own constructors. TooLarge: if the file claims more
    than `max_bytes` or has compressed members. TruncatedData: if it is cut short. DecodeError: if it is damaged.
    """
    if data[:4] == _ZIP_START:
        _check_archive(data, max_bytes)
    else:
        _check_legacy(data, max_bytes)
    import torch

    try:
        return torch.load(readable(data), map_location="cpu", weights_only=True, mmap=False)
    except Exception as exc:  # a damaged pickle can raise any kind
        raise _explain(exc, max_bytes) from exc


def encode_pt(sample: Any) -> bytes:
    """What `torch.save` writes."""
    import torch

    file = io.BytesIO()
    torch.save(sample, file)
    return file.getvalue()


def _check_archive(data: Buffer, max_bytes: int) -> None:
    try:
        total = _check_members(data, max_bytes)
    except struct.error as exc:
        raise DecodeError("has a damaged zip directory") from exc
    if total > max_bytes:
        raise TooLarge(f"declares {total:,} bytes in its members, the limit is {max_bytes:,}")
    if total > len(data):
        raise TruncatedData(f"declares {total:,} bytes in its members, has {len(data):,} in all")


def _check_members(data: Buffer, max_bytes: int) -> int:
    """The bytes that all members declare; they are stored plainly, and their pickle was looked at."""
    count, position = _directory(data)
    total = 0
    for _ in range(count):
        mark, method, stored, size, name, extra, comment, header = _ENTRY.unpack_from(data, position)
        if mark != b"PK\x01\x02":
            raise DecodeError(f"has a damaged zip directory at byte {position:,}")
        if _UINT32_MAX in (stored, size, header):
            start = position + _ENTRY.size + name
            stored, size, header = _wide(data[start : start + extra], stored, size, header)
        if method or stored != size:
            raise TooLarge(f"has a compressed member ({stored:,} bytes for {size:,}), which torch.save never writes")
        total += size
        position += _ENTRY.size + name
        if bytes(data[position - 8 : position]).lower() == b"data.pkl":
            _check_pickle(data, header, size, max_bytes)
        position += extra + comment
    return total


def _directory(data: Buffer) -> tuple[int, int]:
    """Number of members and position of the directory, found as torch's reader finds them."""
    end = len(data) - _END.size
    if end < 0 or data[end : end + 4] != b"PK\x05\x06":
        tail = max(0, len(data) - _END.size - 0xFFFF)
        end = tail + bytes(data[tail:]).rfind(b"PK\x05\x06")
        if end < tail:
            raise TruncatedData(f"ends at byte {len(data):,}, before the directory of its archive")
    if end >= 20 and data[end - 20 : end - 16] == b"PK\x06\x07":
        (end64,) = struct.unpack_from("<Q", data, end - 12)
        if end64 > len(data):
            raise DecodeError(f"has its zip directory at byte {end64:,} of {len(data):,}")
        _, count, _, position = _END64.unpack_from(data, end64)
    else:
        _, count, _, position, _ = _END.unpack_from(data, end)
    if position > len(data):
        raise DecodeError(f"has its zip directory at byte {position:,} of {len(data):,}")
    return count, position


def _wide(extra: Buffer, stored: int, size: int, header: int) -> tuple[int, int, int]:
    """Replaces the values that do not fit 32 bits by those of the extra field, which holds only these, in order."""
    position = 0
    while position < len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            numbers = iter(struct.unpack_from(f"<{length // 8}Q", extra, position + 4))
            size, stored, header = (next(numbers, v) if v == _UINT32_MAX else v for v in (size, stored, header))
            break
        position += 4 + length
    return stored, size, header


def _check_pickle(data: Buffer, header: int, size: int, max_bytes: int) -> None:
    if header > len(data):
        raise DecodeError(f"has its pickle at byte {header:,} of {len(data):,}")
    name, extra = struct.unpack_from("<HH", data, header + 26)
    start = header + 30 + name + extra
    if data[start : start + 2] != b"\x80\x02":
        raise UnsafeData("holds a pickle of another protocol than 2, torch.save's own, and only that can be checked")
    if _SUSPECT.search(data, start, start + size):
        PickleScan(max_bytes).run(io.BytesIO(data[start : start + size]))


def _check_legacy(data: Buffer, max_bytes: int) -> None:
    """Files of torch before 1.6: five pickles in a row, then the storages, allocated by what the fourth one says."""
    if len(data) < 4 and (_ZIP_START.startswith(bytes(data)) or data[:1] == b"\x80"):
        raise TruncatedData(f"ends at byte {len(data)}, before any tensor")
    if _CALL.match(data):
        raise UnsafeData("is a bare pickle that starts with a call")
    if data[:1] != b"\x80":
        raise DecodeError(f"is not a torch file: starts with {bytes(data[:8])!r}")
    file, scan = io.BytesIO(data), PickleScan(max_bytes)
    for _ in range(5):
        scan.run(file)
    claimed = sum(scan.storage_numel.values())
    if claimed > max_bytes:
        raise TooLarge(f"declares {claimed:,} elements, the limit is {max_bytes:,} bytes")
    if claimed > len(data):
        raise TruncatedData(f"declares {claimed:,} elements, has {len(data):,} bytes")


def _explain(exc: Exception, max_bytes: int) -> DecodeError:
    text = str(exc)
    if isinstance(exc, pickle.UnpicklingError) or "TorchScript" in text:
        return UnsafeData(_refusal(text))
    if record := _RECORD.search(text):
        kind = TooLarge if int(record[1]) > max_bytes else DecodeError
        return kind(f"declares a storage of {int(record[1]):,} bytes that its member does not hold")
    if isinstance(exc, EOFError) or "unexpected EOF" in text:
        return TruncatedData("ends before its last tensor")
    return DecodeError(f"is a damaged torch file: {type(exc).__name__}: {text.splitlines()[0] if text else ''}")


def _refusal(text: str) -> str:
    if "TorchScript" in text:
        return "is a TorchScript program, not data"
    found = re.search(r"GLOBAL ([\w.]+)", text)
    if found is None:
        return "holds a pickle that torch's weights_only loading refuses; nothing of it ran"
    return (
        f"would import {found[1]}, which weights_only loading refuses; nothing of it ran. If you trust that name, pass "
        "it to torch.serialization.add_safe_globals in this process"
    )


PT = Codec(name="pt", suffixes=(".pt", ".pth", ".ckpt"), decode=decode_pt, encode=encode_pt)
