"""Reads what a pickle would make, without making it, to find sizes that it claims.

`torch.load(weights_only=True)` runs nothing but a short list of constructors, yet some of those allocate what a number
in the file tells them to (`bytearray(10**11)`, `torch.Tensor(10**10)`, hex upon hex encoding). The scan follows the
same opcodes with inert values: numbers, texts, tuples, lists and names stay, anything else becomes None. Nothing is
imported.
"""

from __future__ import annotations

import math
import pickletools
from _compat_pickle import IMPORT_MAPPING
from dataclasses import dataclass
from typing import IO, Any

from streaming.errors import DecodeError, TooLarge, TruncatedData, UnsafeData

_ALLOCATING = ("Tensor", "UntypedStorage", "TypedStorage", "ndarray")


@dataclass(frozen=True, slots=True)
class _Name:
    """A function or class that the pickle refers to."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """The memory of tensors, by its number of elements."""

    numel: int


class PickleScan:
    """One pass over one pickle or several in a row; `storage_numel` holds the elements that each storage claims.

    Args:
        max_bytes: what a single claim may be at most.
    """

    def __init__(self, max_bytes: int) -> None:
        self.storage_numel: dict[Any, int] = {}
        self._max_bytes = max_bytes
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: IO[bytes]) -> None:
        """Reads one pickle from `file`, up to its end mark.

        Raises: TooLarge: if a claim is over the limit. UnsafeData: if a constructor gets what no saved sample gives it.
        TruncatedData, DecodeError: if this is no complete pickle.
        """
        self._stack, self._marked, self._memo = [], [], {}
        try:
            for opcode, argument, _ in pickletools.genops(file):
                self._step(opcode.name, argument)
        except DecodeError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as exc:
            if "exhausted" in str(exc) or "not enough data" in str(exc) or "expected" in str(exc):
                raise TruncatedData(f"ends within a pickle: {exc}") from exc
            raise DecodeError(f"is a damaged pickle: {exc}") from exc

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        match opcode:
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL":
                module, name = argument.split(" ")
                stack.append(_Name(IMPORT_MAPPING.get(module, module), name))
            case "MARK":
                self._marked.append(stack)
                self._stack = []
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._fold("EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3".split().index(opcode))
            case "TUPLE":
                self._stack = [*self._marked.pop(), tuple(stack)]
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                self._stack = self._marked.pop()
                self._stack[-1].extend(stack)
            case "SETITEMS":
                self._stack = self._marked.pop()
            case "SETITEM":
                del stack[-2:]
            case "BUILD":
                stack.pop()
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                stack.append(self._call(stack.pop(), arguments))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "PROTO":
                if argument != 2:
                    raise UnsafeData(
                        f"holds a pickle of protocol {argument} where only 2, torch.save's own, can be checked"
                    )
            case "STOP":
                pass
            case _:
                stack.append(_value(opcode, argument))

    def _fold(self, count: int) -> None:
        items = tuple(self._stack[len(self._stack) - count :])
        if len(items) < count:
            raise LookupError("the stack is empty")
        self._stack[len(self._stack) - count :] = [items]

    def _storage(self, reference: Any) -> _Storage:
        """`("storage", type, key, location, numel[, view])`, view being None or `(key, offset, numel)`."""
        _, _, key, _, numel, *view = reference
        if not isinstance(numel, int) or numel < 0:
            raise UnsafeData(f"claims a storage of {numel!r} elements")
        self._claim(numel, f"a storage of {numel:,} elements")
        self.storage_numel[key] = numel
        return _Storage(numel if not view or view[0] is None else min(numel, view[0][2]))

    def _claim(self, amount: int, what: str) -> None:
        if amount > self._max_bytes:
            raise TooLarge(f"declares {what}, the limit is {self._max_bytes:,} bytes")

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise UnsafeData("calls what is no plain name with plain arguments")
        if function.name == "_rebuild_from_type_v2":
            self._call(arguments[0], arguments[2])
        elif function.name == "Size" and arguments:
            return tuple(arguments[0]) if isinstance(arguments[0], (tuple, list)) else None
        elif function.name.startswith("_rebuild_") and arguments and isinstance(arguments[0], _Storage):
            self._check_tensor(function, *arguments[:4])
        elif not _is_harmless(function, arguments):
            raise UnsafeData(f"calls {function.module}.{function.name} with arguments that no saved sample has")
        elif function.name == "encode":
            return arguments[0]
        return None

    def _check_tensor(self, function: _Name, storage: _Storage, offset: int, size: Any, stride: Any) -> None:
        if not all(isinstance(number, int) and number >= 0 for number in (offset, *size, *stride)):
            raise UnsafeData(f"describes a tensor by {offset!r}, {size!r}, {stride!r}")
        extent = (
            offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if math.prod(size) else 0
        )
        if function.name == "_rebuild_qtensor":  # made whole first, whatever its strides
            extent = max(extent, math.prod(size))
        self._claim(extent, f"a tensor of {extent:,} elements")
        if extent > storage.numel:
            raise DecodeError(f"describes a tensor of {extent:,} elements over a storage of {storage.numel:,}")


def _is_harmless(function: _Name, arguments: tuple[Any, ...]) -> bool:
    """Whether the call allocates no more than the pickle already holds."""
    if function.name.endswith(_ALLOCATING):
        return not arguments
    if function.name == "_reconstruct":
        return arguments[1:2] == ((0,),)
    if function.name == "bytearray":
        return all(isinstance(argument, str) for argument in arguments)
    if function.name == "encode":
        return len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1"
    return True


_CONSTANTS = {"NONE", "NEWTRUE", "NEWFALSE", "EMPTY_DICT", "EMPTY_SET", "BININT", "BININT1", "BININT2", "LONG1"}
_CONSTANTS |= {"BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}


def _value(opcode: str, argument: Any) -> Any:
    if opcode not in _CONSTANTS:
        raise UnsafeData(f"holds the pickle opcode {opcode}, which torch.save does not write")
    return argument
