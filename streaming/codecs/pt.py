"""Files of `torch.save`. No code in them is ever run.

A file with only plain containers, whole tensors and NumPy arrays is read by a plan that is made once for its pickle
(`pt_plan`), any other file by `torch.load(weights_only=True)`. Torch trusts some sizes, so the archive's directory is
checked first: members must be uncompressed and together fit into the file. A pickle for torch is first checked by
`pickle_scan`, once for all files with an equal pickle.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Sequence
from typing import Any

from streaming.codecs.base import Buffer, Codec, open_buffer
from streaming.codecs.pickle_scan import PickleScan, scan_pickle
from streaming.codecs.pt_archive import read_archive
from streaming.codecs.pt_plan import build, get_plan
from streaming.codecs.pt_refusal import refusal_message
from streaming.errors import DecodeError, ObjectTooLargeError, TruncatedData, UnsafeData

_ZIP_START = b"PK\x03\x04"
# Protocol 2 and torch's magic number.
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_CALL = re.compile(rb"c[\w.]+\n[\w.]+\n")
_RECORD = re.compile(r"expected size \((\d+) bytes")


def decode_pt(data: Buffer, max_bytes: int) -> Any:
    """Decode the saved object, with tensors on the CPU in memory of their own.

    Raises: UnsafeData: if loading would call anything but torch's own constructors, or an object contains itself.
    ObjectTooLargeError: if the file claims more than `max_bytes`, its objects weigh more, or it has compressed members.
    TruncatedData: if it is cut short. DecodeError: if it is damaged.
    """
    return _decode(data, max_bytes, False)


def view_pt(data: memoryview, max_bytes: int) -> Any:
    """Decode as `decode_pt` does, but tensors that a plan builds are views of `data`."""
    return _decode(data, max_bytes, True)


def _decode(data: Buffer, max_bytes: int, is_view: bool) -> Any:
    pickles: Sequence[bytes] = ()
    if data[:4] == _ZIP_START:
        archive = read_archive(data, max_bytes)
        pickles = archive.pickles
        _check_protocol(pickles)
        plan = get_plan(archive, max_bytes)
        if plan is not None:
            sample = build(plan, archive, data, is_view)
            if sample is not None:
                return sample
            scan_pickle(pickles[0], max_bytes)  # a storage does not match the pickle: torch's error says more
    else:
        _check_legacy(data, max_bytes)
    import torch

    try:
        return torch.load(open_buffer(data), map_location="cpu", weights_only=True, mmap=False)
    except Exception as exc:  # a damaged pickle can raise anything
        raise _explain(exc, data, pickles, max_bytes) from exc


def encode_pt(sample: Any) -> bytes:
    """Encode by `torch.save`."""
    import torch

    file = io.BytesIO()
    torch.save(sample, file)
    return file.getvalue()


def _check_protocol(pickles: Sequence[bytes]) -> None:
    for content in pickles:
        if content[:2] != b"\x80\x02":
            raise UnsafeData(
                "has a pickle of another protocol than 2, torch.save's own; save it again with the default one"
            )


def _check_legacy(data: Buffer, max_bytes: int) -> None:
    """Check a file of torch before 1.6: five pickles, then the storages, which the fourth pickle describes."""
    start = bytes(data[: len(_LEGACY_START)])
    if len(data) < len(_LEGACY_START) and (_LEGACY_START.startswith(start) or _ZIP_START.startswith(start)):
        raise TruncatedData(f"ends at byte {len(data)}, before any tensor")
    if start != _LEGACY_START:
        if data[:1] == b"\x80" or _CALL.match(data):
            raise UnsafeData("is a bare pickle, not what torch.save writes (nothing of it ran)")
        raise DecodeError(f"is not a torch file: starts with {start!r}")
    file, scan = io.BytesIO(data), PickleScan(max_bytes)
    for _ in range(5):
        scan.run(file)
    claimed = sum(scan.storage_numel.values())
    if claimed > max_bytes:
        raise ObjectTooLargeError(f"declares {claimed:,} elements, the limit is {max_bytes:,} bytes")
    if claimed > len(data):
        raise TruncatedData(f"declares {claimed:,} elements, has {len(data):,} bytes")


def _explain(exc: Exception, data: Buffer, pickles: Sequence[bytes], max_bytes: int) -> DecodeError:
    text = str(exc)
    if isinstance(exc, pickle.UnpicklingError):
        return UnsafeData(refusal_message(text, data, pickles))
    if record := _RECORD.search(text):
        kind = ObjectTooLargeError if int(record[1]) > max_bytes else DecodeError
        return kind(f"declares a storage of {int(record[1]):,} bytes that its member does not hold")
    if isinstance(exc, EOFError) or "unexpected EOF" in text:
        return TruncatedData("ends before its last tensor")
    return DecodeError(f"is a damaged torch file: {type(exc).__name__}: {text.splitlines()[0] if text else ''}")


PT = Codec(name="pt", suffixes=(".pt", ".pth", ".ckpt"), decode=decode_pt, encode=encode_pt, view=view_pt)
