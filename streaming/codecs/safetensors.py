"""Safetensors: a dict of tensors, read by the format's own library, which checks every offset and shape.

The library takes `bytes` and copies each tensor into memory of its own; other buffers are copied once more.
"""

from __future__ import annotations

from typing import Any

from streaming.codecs.base import Buffer, Codec
from streaming.errors import DecodeError, TooLarge, TruncatedData

# The format's own bound on its header; the length field alone could claim 16 EB.
_MAX_HEADER_BYTES = 100_000_000


def decode_safetensors(data: Buffer, max_bytes: int) -> dict[str, Any]:
    """`{name: tensor}`, on the CPU, writable.

    Raises: TruncatedData: if the data ends before its header says. TooLarge: if the header or a tensor claims more
    than the limit. DecodeError: if the header is damaged.
    """
    _check_header(data)
    import safetensors
    import safetensors.torch

    try:
        return dict(safetensors.torch.load(bytes(data)))
    except safetensors.SafetensorError as exc:
        raise _explain(exc, data, max_bytes) from exc
    except (KeyError, RuntimeError) as exc:
        raise DecodeError(f"holds a tensor that torch cannot make: {exc}") from exc


def encode_safetensors(sample: Any) -> bytes:
    """Of a dict of tensors; strided ones are made contiguous. Raises TypeError for anything else."""
    import safetensors.torch
    import torch

    if not isinstance(sample, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in sample.items()
    ):
        raise TypeError("safetensors holds a dict of names to tensors")
    return bytes(safetensors.torch.save({name: tensor.contiguous() for name, tensor in sample.items()}))


def _check_header(data: Buffer) -> int:
    if len(data) < 8:
        raise TruncatedData(f"ends within the length of its header, at byte {len(data)}")
    length = int.from_bytes(data[:8], "little")
    if length > _MAX_HEADER_BYTES:
        raise TooLarge(f"declares a header of {length:,} bytes, the format allows {_MAX_HEADER_BYTES:,}")
    if 8 + length > len(data):
        raise TruncatedData(f"ends at byte {len(data):,}, within its header of {length:,} bytes")
    return length


def _explain(exc: Exception, data: Buffer, max_bytes: int) -> DecodeError:
    declared = _declared_bytes(data)
    if declared > max_bytes:
        return TooLarge(f"declares {declared:,} bytes, the limit is {max_bytes:,}")
    if declared > len(data):
        return TruncatedData(f"declares {declared:,} bytes, has {len(data):,}")
    return DecodeError(f"is a damaged safetensors file: {exc}")


def _declared_bytes(data: Buffer) -> int:
    """Where the last tensor ends, or 0 if the header cannot be read. Only for the message of a failure."""
    import json

    length = _check_header(data)
    try:
        header = json.loads(bytes(data[8 : 8 + length]))
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return 0
    return 8 + length + max(ends, default=0)


SAFETENSORS = Codec(
    name="safetensors", suffixes=(".safetensors",), decode=decode_safetensors, encode=encode_safetensors
)
