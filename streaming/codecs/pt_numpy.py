"""NumPy arrays inside a `.pt` pickle, recognized and made without unpickling.

An array is `_reconstruct(ndarray, (0,), b"b")` and then the state `(1, shape, dtype, is_fortran, bytes)`; a scalar is
`scalar(dtype, bytes)`; a type is `dtype(code, False, True)` and then a state with its byte order. NumPy's own functions
would trust sizes, flags and pointers; here an array is made from its type, shape and bytes after they were compared.
"""

from __future__ import annotations

import pickletools
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from streaming.codecs.limits import are_lengths, elements

if TYPE_CHECKING:
    import numpy as np

__all__ = ["HAS_NUMPY", "Array", "DType", "dtype_classes", "make_array", "make_scalar", "rebuild"]

HAS_NUMPY = re.compile(rb"cnumpy(\._?core)+\.multiarray\n")
"""Matches in each pickle with an array or a scalar of NumPy."""

_CODE = re.compile(r"b1|[iu][1248]|f[248]|c(8|16)|[SU][1-9]\d{0,8}")
_MODULES = ("numpy._core.multiarray", "numpy.core.multiarray")


class DType:
    """A type; complete once its state has given the byte order."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.text = ""

    def build(self, state: Any) -> None:
        """Set the state: `(3, byte order, None, None, None, ...)` for a type without fields."""
        version, order, *fields = state
        if version == 3 and order in ("<", ">", "|", "=") and fields[:3] == [None, None, None]:
            self.text = order + self.code


class Array:
    """An array, whose content follows as its state, or a scalar."""

    def __init__(self) -> None:
        self.content: ArrayContent | None = None

    @property
    def is_scalar(self) -> bool:
        """Whether this is a scalar, which is immutable."""
        return self.content is not None and self.content.is_scalar

    def build(self, state: Any) -> None:
        """Set the state of an array."""
        version, shape, dtype, is_fortran, data = state
        if version == 1 and type(is_fortran) is bool:
            self.content = _content(dtype, shape, data, is_fortran, False)


class ArrayContent(NamedTuple):
    """The values from which an array or a scalar is made."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes
    is_fortran: bool
    is_scalar: bool


def rebuild(function: str, arguments: Any) -> Any:
    """Return the result of a call in a pickle: bytes, a `DType` or an `Array`; None for other functions.

    Args:
        function: "module name".
    """
    module, _, name = function.partition(" ")
    if function == "_codecs encode":
        text, encoding = arguments
        return text.encode("latin1") if encoding == "latin1" else None
    if function in ("__builtin__ bytes", "builtins bytes"):
        return b"" if arguments == () else None
    if function == "numpy dtype":
        code, *flags = arguments
        return DType(code) if flags == [False, True] and type(code) is str and _CODE.fullmatch(code) else None
    if module not in _MODULES:
        return None
    if name == "_reconstruct":
        return Array() if arguments == ("numpy ndarray", (0,), b"b") else None
    return make_scalar(*arguments) if name == "scalar" else None


def make_scalar(dtype: Any, data: Any) -> Array | None:
    """Return the `Array` of a scalar."""
    array = Array()
    array.content = _content(dtype, (), data, False, True)
    return array if array.content else None


def _content(dtype: Any, shape: Any, data: Any, is_fortran: bool, is_scalar: bool) -> ArrayContent | None:
    import numpy as np

    if type(dtype) is not DType or not dtype.text or type(data) is not bytes or type(shape) is not tuple:
        return None
    if not are_lengths(shape):
        return None
    if elements(shape) * np.dtype(dtype.text).itemsize != len(data):
        return None
    return ArrayContent(dtype.text, shape, data, is_fortran, is_scalar)


def make_array(content: ArrayContent) -> np.ndarray[Any, Any] | np.generic:
    """Make the array, writable and in memory of its own, or the scalar."""
    import numpy as np

    flat = np.frombuffer(bytearray(content.data), content.dtype)
    if content.is_scalar:
        scalar: np.generic = flat[0]
        return scalar
    return flat.reshape(content.shape, order="F" if content.is_fortran else "C")


def dtype_classes(pickle: bytes) -> set[str]:
    """Return the class names of the types in a pickle, which makes them while loading and does not name them."""
    import numpy as np

    memo: dict[int, Any] = {}
    classes: set[str] = set()
    before: Any = None
    for opcode, found, _ in pickletools.genops(pickle):
        argument: Any = found
        value = memo.get(argument) if opcode.name in ("BINGET", "LONG_BINGET") else argument
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = before
            continue
        if before == "numpy dtype" and isinstance(value, str):
            kind = type(np.dtype(value))
            classes.add(f"{kind.__module__}.{kind.__qualname__}")
        before = value
    return classes
