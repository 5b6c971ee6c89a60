"""Interpret a pickle without making its objects, to check the sizes that it declares and the memory that it takes.

`torch.load(weights_only=True)` calls only a short list of constructors, but some allocate as much as a number in the
file says (`bytearray(10**11)`, `torch.Tensor(10**10)`, nested hex encoding), and one opcode of one byte can make an
object of hundreds. The scan interprets the opcodes with inert values: numbers, texts and names stay, containers keep
their items, anything else becomes an object without content. Nothing is imported.

Each value has a weight: its size in bytes, with everything in it counted at each reference. So a list that contains one
list twice, which contains one list twice, and so on, weighs as much as walking or copying it would cost.
"""

from __future__ import annotations

import io
import pickletools
import re
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any

from streaming.codecs.limits import are_lengths, elements, max_cost
from streaming.errors import DecodeError, ObjectTooLargeError, TruncatedData, UnsafeData

__all__ = ["PickleScan", "scan_pickle"]

_MAX_LEVELS = 1000  # Python's recursion limit, where pickle itself stops
_MAX_KEY_BYTES = 4096  # hashing a key visits everything in it, without a limit
_MAX_KEY_LEVELS = 8
_MAX_NAME_CHARACTERS = 512  # torch takes quadratic time to report a refused name
_MAX_COLLISIONS = 64  # honest keys hardly ever collide

# Measured with CPython 3.11 and torch 2.13; never less than the scan itself needs for the value.
_WORD, _NUMBER, _TEXT, _CONTAINER, _MEMO, _NAME = 8, 32, 80, 192, 128, 200
_ENTRY = 200  # of a dict, with its link in an OrderedDict
_OBJECT = 512

_ITEM_BYTES = {"Double": 8, "Long": 8, "ComplexDouble": 16, "ComplexFloat": 8, "Half": 2, "BFloat16": 2, "Short": 2}
_ITEM_BYTES |= {"Float": 4, "Int": 4, "QInt32": 4}


@dataclass(frozen=True, slots=True)
class _Name:
    """A function or class that the pickle refers to."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """A storage of tensors: its number of elements, and the bytes of each."""

    numel: int
    itemsize: int


class _Made:
    """A container, or the result of a call.

    Attributes:
        kind: "tuple", "list", "dict", or the name of the module of the function that was called.
        items: of a tuple or a list.
        hashes: number of keys of a dict, other than text, by hash.
        weight: in bytes, with everything in it.
        levels: depth of nesting.
        is_held: whether it is in another container. Changing it after that could create a cycle.
    """

    __slots__ = ("hashes", "is_held", "items", "kind", "levels", "weight")

    def __init__(self, kind: str, weight: int) -> None:
        self.kind = kind
        self.items: list[Any] = []
        self.hashes: dict[int, int] = {}
        self.weight = weight
        self.levels = 1
        self.is_held = False

    def hold(self, values: Iterable[Any]) -> None:
        """Add the weight of these values."""
        for value in values:
            self.weight += _weight(value)
            if isinstance(value, _Made):
                value.is_held = True
                self.levels = max(self.levels, value.levels + 1)
        if self.levels > _MAX_LEVELS:
            raise UnsafeData(f"nests deeper than {_MAX_LEVELS:,} levels")
        if self.is_held:
            raise UnsafeData("has an object that contains itself, or changes after it was put into another")


class PickleScan:
    """One pass over one or several pickles, under one limit.

    Args:
        max_bytes: limit of each declared size and, with an allowance, of the memory of all objects.

    Attributes:
        storage_numel: number of elements that each storage declares.
        weight: of all objects so far, in bytes.
    """

    def __init__(self, max_bytes: int) -> None:
        self.storage_numel: dict[Any, int] = {}
        self.weight = 0
        self._max_bytes = max_bytes
        self._most = max_cost(max_bytes)
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: IO[bytes]) -> None:
        """Scan one pickle in `file`, up to its end.

        Raises: ObjectTooLargeError: if a declared size or the weight is over the limit. UnsafeData: if a constructor
        has arguments that no saved sample has, or an object contains itself. TruncatedData, DecodeError: if the pickle
        is not complete."""
        self._stack, self._marked, self._memo = [], [], {}
        try:
            for opcode, argument, _ in pickletools.genops(file):
                self._step(opcode.name, argument)
                if self.weight > self._most:
                    raise ObjectTooLargeError(
                        f"makes objects of over {self.weight:,} bytes, the limit is {self._max_bytes:,}"
                    )
        except DecodeError:
            raise
        except RecursionError as exc:
            raise UnsafeData("nests calls deeper than the recursion limit") from exc
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as exc:
            if "exhausted" in str(exc) or "not enough data" in str(exc) or "expected" in str(exc):
                raise TruncatedData(f"ends within a pickle: {exc}") from exc
            raise DecodeError(f"is a damaged pickle: {exc}") from exc

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        match opcode:
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
                self.weight += _MEMO
            case "BINGET" | "LONG_BINGET":
                self._push(self._memo[argument])
            case "GLOBAL":
                module, name = argument.split(" ")
                if len(argument) > _MAX_NAME_CHARACTERS:
                    raise UnsafeData(f"names a class by {len(argument):,} characters")
                stack.append(_Name(IMPORT_MAPPING.get(module, module), name))
                self.weight += _NAME + len(argument)
            case "MARK":
                self._marked.append(stack)
                self._stack = []
                self.weight += _MEMO
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = 0 if opcode == "EMPTY_TUPLE" else int(opcode[-1])
                items = stack[len(stack) - count :]
                if len(items) < count:
                    raise LookupError("the stack is empty")
                del stack[len(stack) - count :]
                self._make("tuple", items)
            case "TUPLE":
                self._stack = self._marked.pop()
                self._make("tuple", stack)
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET":
                self._make(opcode.removeprefix("EMPTY_").lower(), [])
            case "APPEND":
                item = stack.pop()
                self._extend(stack[-1], [item])
            case "APPENDS":
                self._stack = self._marked.pop()
                self._extend(self._stack[-1], stack)
            case "SETITEM":
                items = stack[-2:]
                del stack[-2:]
                self._set(stack[-1], items)
            case "SETITEMS":
                self._stack = self._marked.pop()
                self._set(self._stack[-1], stack)
            case "BUILD":
                state = stack.pop()
                self._build(stack[-1], state)
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                stack.append(self._call(stack.pop(), arguments))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "PROTO":
                if argument != 2:
                    raise UnsafeData(
                        f"has a pickle of protocol {argument} where only 2, torch.save's own, can be checked"
                    )
            case "STOP":
                pass
            case _:
                self._push(_value(opcode, argument))

    def _push(self, value: Any) -> None:
        self._stack.append(value)
        self.weight += _weight(value)

    def _make(self, kind: str, items: list[Any]) -> None:
        """Push a container. Its items were weighed when they were pushed, so only its slots are added."""
        made = _Made(kind, _CONTAINER)
        made.items = items
        made.hold(items)
        self.weight += _CONTAINER + _WORD * len(items)
        self._stack.append(made)

    def _extend(self, target: Any, items: list[Any]) -> None:
        target.hold(items)
        target.items.extend(items)
        self.weight += 2 * _WORD * len(items)

    def _set(self, target: Any, items: list[Any]) -> None:
        _check_keys(items[::2], target.hashes)
        target.hold(items)
        target.weight += _ENTRY * (len(items) // 2)
        self.weight += _ENTRY * (len(items) // 2)

    def _build(self, target: Any, state: Any) -> None:
        """Set the state of an object. For a tensor of torch it could declare any size over any storage."""
        target.hold([state])
        if target.kind.startswith("torch") and isinstance(state, _Made) and state.kind == "tuple":
            if len(state.items) < 4 or not isinstance(state.items[0], _Storage):
                raise UnsafeData("gives a tensor a state that no saved sample has")
            self._check_tensor("set_", state.items)

    def _storage(self, reference: Any) -> _Storage:
        """`("storage", type, key, location, numel[, view])`, view being None or `(key, offset, numel)`."""
        _, kind, key, _, numel, *view = reference.items
        if not are_lengths([numel]):
            raise UnsafeData("declares a storage with an invalid number of elements")
        self._check_declared(numel, f"a storage of {numel:,} elements")
        self.storage_numel[key] = numel
        self.weight += _OBJECT
        if view and view[0] is not None:
            numel = min(numel, view[0].items[2])
        return _Storage(numel, _ITEM_BYTES.get(kind.name.removesuffix("Storage"), 1))

    def _check_declared(self, amount: int, what: str) -> None:
        if amount > self._max_bytes:
            raise ObjectTooLargeError(f"declares {what}, the limit is {self._max_bytes:,} bytes")

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Name) or not isinstance(arguments, _Made) or arguments.kind != "tuple":
            raise UnsafeData("calls what is not a plain name with plain arguments")
        items = arguments.items
        made = _Made(function.module, _OBJECT)
        self.weight += _OBJECT
        made.hold([arguments])
        if function.name == "_rebuild_from_type_v2":
            inner = self._call(items[0], items[2])
            made.hold([inner])
        elif function.name == "Size" and items:
            if isinstance(items[0], _Made):
                made.kind, made.items = "tuple", items[0].items
        elif function.name.startswith(("_rebuild_tensor", "_rebuild_qtensor")):
            nbytes = self._check_tensor(function.name, items)
            made.weight += nbytes
            self.weight += nbytes
        elif not _is_harmless(function, items):
            raise UnsafeData(f"calls {function.module}.{function.name} with arguments that no saved sample has")
        elif function.name == "encode":
            return items[0]
        elif function.name in ("set", "frozenset", "Counter", "OrderedDict", "dict") and items:
            self._check_members(function.name, items)
            made.weight += 3 * arguments.weight  # of the hash table, at the smallest weight of a member
            self.weight += 3 * arguments.weight
        return made

    def _check_members(self, name: str, arguments: list[Any]) -> None:
        """Check members as keys. A dict made from pairs has them first in each."""
        for argument in arguments:
            members = argument.items if isinstance(argument, _Made) else []
            if name in ("OrderedDict", "dict"):
                members = [pair.items[0] for pair in members if isinstance(pair, _Made) and pair.items]
            _check_keys(members, {})

    def _check_tensor(self, function: str, arguments: list[Any]) -> int:
        """Check a tensor `(storage, offset, size, stride, ...)` and return its bytes without sharing."""
        storage, offset, *axes = arguments[:4]
        if not isinstance(storage, _Storage) or not all(isinstance(axis, _Made) for axis in axes):
            raise UnsafeData(f"calls {function} with arguments that no saved sample has")
        size, stride = (axis.items for axis in axes)
        if not are_lengths([offset]) or not are_lengths(size) or not are_lengths(stride) or len(size) != len(stride):
            raise UnsafeData("describes a tensor by other than up to 64 lengths below 2^63")
        count = elements(size)
        extent = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else 0
        if function == "_rebuild_qtensor":  # allocated as a whole first, whatever its strides
            extent = max(extent, count)
        self._check_declared(extent, f"a tensor of {extent:,} elements")
        if extent > storage.numel:
            raise DecodeError(f"describes a tensor of {extent:,} elements over a storage of {storage.numel:,}")
        nbytes = count * max([storage.itemsize, *(_dtype_bytes(argument) for argument in arguments[4:])])
        self._check_declared(nbytes, f"a tensor of {nbytes:,} bytes")
        return nbytes


def scan_pickle(content: bytes, max_bytes: int) -> int:
    """Return the weight of a pickle's objects. Raises as `PickleScan.run`."""
    scan = PickleScan(max_bytes)
    scan.run(io.BytesIO(content))
    return scan.weight


def _weight(value: Any) -> int:
    if isinstance(value, _Made):
        return value.weight
    if isinstance(value, str):
        return _TEXT + (len(value) if value.isascii() else 4 * len(value))
    return _TEXT + len(value) if isinstance(value, bytes) else _NUMBER if isinstance(value, int | float) else _WORD


def _check_keys(keys: list[Any], hashes: dict[int, int]) -> None:
    """Add the hashes of keys that are not text to `hashes`.

    Raises: UnsafeData: if a key is slow to hash, or so many collide that the dict takes quadratic time.
    """
    for key in keys:
        if isinstance(key, str):
            continue
        if isinstance(key, _Made) and (
            key.kind != "tuple" or key.weight > _MAX_KEY_BYTES or key.levels > _MAX_KEY_LEVELS
        ):
            raise UnsafeData(
                f"has a key that is an object, or a tuple of {_MAX_KEY_BYTES:,} bytes or {_MAX_KEY_LEVELS} levels"
            )
        found = _hash(key)
        hashes[found] = hashes.get(found, 0) + 1
        if hashes[found] > _MAX_COLLISIONS:
            raise UnsafeData(f"has more than {_MAX_COLLISIONS} keys with one hash in a dict")


def _hash(key: Any) -> int:
    return hash(tuple(map(_hash, key.items))) if isinstance(key, _Made) else hash(key)


_DTYPE = re.compile(r"[a-z]+(\d+)")


def _dtype_bytes(argument: Any) -> int:
    """Return the bytes of an item if this names a type of torch, else 1."""
    found = _DTYPE.match(argument.name) if isinstance(argument, _Name) and argument.module == "torch" else None
    return max(1, int(found[1][:4]) // 8) if found else 1


def _is_harmless(function: _Name, arguments: list[Any]) -> bool:
    """Whether a call allocates no more than the pickle already has."""
    name = function.name
    if name.endswith("Storage"):
        return False  # an empty one can be enlarged
    if name.endswith(("Tensor", "ndarray")):
        return not arguments
    if name == "_reconstruct":
        return isinstance(arguments[1], _Made) and arguments[1].items == [0]
    if name == "dtype":
        return not (isinstance(arguments[0], str) and arguments[0][:1] in "SUV" and not arguments[0][1:].strip("0"))
    if name == "bytearray":
        return not arguments or (isinstance(arguments[0], str) and arguments[1:] in ([], ["latin-1"]))
    if name == "encode":
        return len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1"
    return True


_CONSTANTS = {"NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1"}
_CONSTANTS |= {"BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}


def _value(opcode: str, argument: Any) -> Any:
    if opcode not in _CONSTANTS:
        raise UnsafeData(f"has the pickle opcode {opcode}, which torch.save does not write")
    return argument
