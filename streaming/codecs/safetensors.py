"""Safetensors: a dict of tensors, read by the format's own library, which checks every offset and shape.

The library needs `bytes` and copies each tensor; other buffers are copied once more.
"""

from __future__ import annotations

from typing import Any

from streaming.codecs.base import Buffer, Codec
from streaming.codecs.limits import max_cost
from streaming.errors import DecodeError, ObjectTooLargeError, TruncatedData

# The format's own limit on its header; the length field could declare 16 EB.
_MAX_HEADER_BYTES = 100_000_000
# In memory, measured with safetensors 0.8 and torch 2.13: 1,370 to 1,620 bytes for each tensor, 42 to 120 for each
# length in a shape and each line of metadata. The shortest entry of a tensor has 49 bytes.
_TENSOR_COST = 1500
_ITEM_COST = 100
_MAX_PER_BYTE = 40


def decode_safetensors(data: Buffer, max_bytes: int) -> dict[str, Any]:
    """Decode `{name: tensor}`, on the CPU, writable.

    Raises: TruncatedData: if the data ends before its header says. ObjectTooLargeError: if the header or a tensor
    claims more than the limit, or the tensors take more, empty ones too. DecodeError: if the header is damaged."""
    _check_cost(data, _check_header(data), max_bytes)
    import safetensors
    import safetensors.torch

    try:
        return dict(safetensors.torch.load(bytes(data)))
    except safetensors.SafetensorError as exc:
        raise _explain(exc, data, max_bytes) from exc
    except (KeyError, RuntimeError) as exc:
        raise DecodeError(f"holds a tensor that torch cannot make: {exc}") from exc


def encode_safetensors(sample: Any) -> bytes:
    """Encode a dict of tensors; strided ones are made contiguous. Raises TypeError for anything else."""
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
        raise ObjectTooLargeError(f"declares a header of {length:,} bytes, the format allows {_MAX_HEADER_BYTES:,}")
    if 8 + length > len(data):
        raise TruncatedData(f"ends at byte {len(data):,}, within its header of {length:,} bytes")
    return length


def _check_cost(data: Buffer, length: int, max_bytes: int) -> None:
    if length * _MAX_PER_BYTE <= max_cost(max_bytes):
        return
    header = bytes(data[8 : 8 + length])
    cost = _TENSOR_COST * header.count(b"{") + _ITEM_COST * header.count(b",") + length
    if cost > max_cost(max_bytes):
        raise ObjectTooLargeError(
            f"declares tensors that take {cost:,} bytes in addition to their content, the limit is {max_bytes:,}"
        )


def _explain(exc: Exception, data: Buffer, max_bytes: int) -> DecodeError:
    declared = _declared_bytes(data)
    if declared > max_bytes:
        return ObjectTooLargeError(f"declares {declared:,} bytes, the limit is {max_bytes:,}")
    if declared > len(data):
        return TruncatedData(f"declares {declared:,} bytes, has {len(data):,}")
    return DecodeError(f"is a damaged safetensors file: {exc}")


def _declared_bytes(data: Buffer) -> int:
    """Return the end of the last tensor, or 0 if the header cannot be read. Used only for the message of a failure."""
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
