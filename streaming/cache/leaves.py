"""The arrays of a sample: which can be stored, what their bytes are, and how they are rebuilt.

A code names type and dtype: `t` + a torch dtype ("tfloat32"), `n` or `s` + a numpy dtype for an array or a scalar
("n<f4"). numpy and torch are imported only when a sample holds one of their types.

Measured for a 20 kB tensor: `torch.from_numpy(np.ndarray(...))` 0.87 us, `torch.frombuffer(...).view(shape)` 2.28 us;
copying 2.6 MB with numpy takes 0.9 of the time of `Tensor.clone`.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Callable
from typing import Any

_BIT_CASTS = {  # torch dtypes that numpy lacks -> the integers of the same width that carry their bits
    "bfloat16": "i2",
    "complex32": "i4",
    "float8_e4m3fn": "u1",
    "float8_e4m3fnuz": "u1",
    "float8_e5m2": "u1",
    "float8_e5m2fnuz": "u1",
    "float8_e8m0fnu": "u1",
}
_TORCH = {"bool", "float16", "float32", "float64", "complex64", "complex128", *_BIT_CASTS}
_TORCH |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_MAX_PLANS = 4096  # string arrays have one dtype per length

LeafPlan = tuple[Callable[..., Any], Any, Callable[[Any], Any] | None]

plans: dict[str, LeafPlan] = {}
"""Code -> (`numpy.ndarray`, dtype, function that makes the leaf from the array or None if it is one); see `plan_of`."""


class Unsupported(TypeError):
    """The sample holds a type that cannot be stored flat. It is served, but not cached."""


def code_of(value: Any) -> str:
    """Return the code of an array or numpy scalar.

    Raises:
        Unsupported: it is neither, or cannot be copied as bytes (gradients, other devices, sparse, objects).
    """
    kind = type(value)
    torch = sys.modules.get("torch")
    if torch is not None and kind is torch.Tensor:
        return _tensor_code(value, torch)
    numpy = sys.modules.get("numpy")
    if numpy is not None and (kind is numpy.ndarray or issubclass(kind, numpy.generic)):
        return f"{'n' if kind is numpy.ndarray else 's'}{_dtype_code(value.dtype)}"
    raise Unsupported(f"{kind.__module__}.{kind.__qualname__}")


def _tensor_code(tensor: Any, torch: Any) -> str:
    name = str(tensor.dtype).removeprefix("torch.")
    if tensor.requires_grad:
        raise Unsupported("a tensor that requires grad")
    if tensor.layout is not torch.strided or tensor.device.type != "cpu":
        raise Unsupported(f"a tensor of layout {tensor.layout} on {tensor.device}")
    if tensor.is_nested or name not in _TORCH:
        raise Unsupported(f"a {'nested ' if tensor.is_nested else ''}tensor of {tensor.dtype}")
    return "t" + name


@functools.lru_cache(maxsize=1024)
def _dtype_code(dtype: Any) -> Any:
    from numpy.lib.format import descr_to_dtype, dtype_to_descr

    try:
        descr: Any = dtype_to_descr(dtype) if dtype.names is not None else dtype.str
        same = not dtype.hasobject and descr_to_dtype(descr) == dtype
    except (TypeError, ValueError):  # a dtype of an extension
        same = False
    if not same:
        raise Unsupported(f"numpy values of dtype {dtype}")
    return descr if dtype.names is None else repr(descr)


@functools.cache
def _plain_dtypes(torch: Any) -> frozenset[Any]:
    """Return the dtypes whose arrays Python's own memoryview can cast to bytes."""
    return frozenset(
        getattr(torch, name) for name in ("float32", "float64", "int64", "int32", "int16", "int8", "uint8")
    )


def raw_bytes(value: Any) -> memoryview:
    """Return the bytes of an array that has a code, in C order: a view if it is contiguous, else a compact copy."""
    import numpy as np

    torch = sys.modules.get("torch")
    if torch is not None and type(value) is torch.Tensor:
        if not value.numel():
            return memoryview(b"")
        if value.dtype in _plain_dtypes(torch) and value.is_contiguous():
            return memoryview(value.numpy()).cast("B") if value.ndim else memoryview(value.view(1).numpy()).cast("B")
        flat = value.resolve_conj().resolve_neg().contiguous().reshape(-1)
        return memoryview(flat.view(torch.uint8).numpy())
    array: Any = np.ascontiguousarray(value)
    if not array.nbytes:
        return memoryview(b"")
    return memoryview(array.reshape(-1).view(np.uint8))


def plan_of(code: str) -> LeafPlan:
    """Return how to make a leaf of this code, and keep it in `plans`."""
    import numpy as np

    kind, name = code[0], code[1:]
    finish: Callable[[Any], Any] | None = None
    if kind == "t":
        import torch

        dtype = np.dtype(_BIT_CASTS.get(name, name))
        finish = torch.from_numpy if name not in _BIT_CASTS else _bit_cast(getattr(torch, name))
    else:
        from numpy.lib.format import descr_to_dtype

        dtype = descr_to_dtype(ast.literal_eval(name)) if name.startswith("[") else np.dtype(name)
        if kind == "s":
            finish = _scalar
    if len(plans) >= _MAX_PLANS:
        plans.clear()
    plan = plans[code] = (np.ndarray, dtype, finish)
    return plan


def _bit_cast(dtype: Any) -> Callable[[Any], Any]:
    import torch

    from_numpy = torch.from_numpy
    return lambda array: from_numpy(array).view(dtype)


def _scalar(array: Any) -> Any:
    return array[()]
