"""Read `.pt` files with equal pickles by one cached plan: 20 us for a tensor of 20 kB, vs. 140 us for `torch.load`.

Most files of a dataset have the same pickle, byte for byte, and differ in their tensors. The opcodes are interpreted
once, with inert values, as in `pickle_scan`: nothing is imported or called. The result is a plan: plain containers, the
storage of each tensor, and NumPy arrays, whose bytes are in the pickle. A pickle with anything else (strides, shared
storages, subclasses, hooks, keys other than text and small numbers, more than 32 levels) has no plan, and `torch.load`
reads its file.
"""

from __future__ import annotations

import hashlib
import marshal
import pickletools
from collections.abc import Iterator
from typing import Any, NamedTuple

from streaming.codecs.base import Buffer
from streaming.codecs.limits import are_lengths, elements, max_cost
from streaming.codecs.pickle_scan import scan_pickle
from streaming.codecs.pt_archive import Archive
from streaming.codecs.pt_numpy import HAS_NUMPY, Array, ArrayContent, DType, make_array, rebuild

__all__ = ["build", "get_plan"]

_LARGE = 1 << 16  # from this many bytes on, `torch.empty` and a copy are faster than a bytearray
_MAX_KNOWN = 1024
_MAX_KNOWN_BYTES = 4 << 20  # of the pickles; plans are a few times as large
_MAX_PICKLE_BYTES = 1 << 16  # longer pickles are rarely equal, and have large plans
_MAX_LEVELS = 32  # the path of each tensor is stored in full
# Bytes of memory for each opcode, and for each further reference to a value; measured: up to 200 and 700.
_OPCODE_COST = 256
_AGAIN_COST = 1024
_LARGE_KEY = (1 << 61) - 1  # integers beyond this can be chosen to have equal hashes
_DTYPES = {
    "torch FloatStorage": "float32",
    "torch DoubleStorage": "float64",
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
    "torch LongStorage": "int64",
    "torch IntStorage": "int32",
    "torch ShortStorage": "int16",
    "torch CharStorage": "int8",
    "torch ByteStorage": "uint8",
    "torch BoolStorage": "bool",
}
_REBUILD = "torch._utils _rebuild_tensor_v2"
_HOOKS = "collections OrderedDict"


class _Unplanned(Exception):
    """The pickle has something that a plan does not support."""


class _Name(str):
    """A function or class that the pickle refers to."""


class _Storage(NamedTuple):
    key: bytes
    dtype: str
    numel: int


class _Tensor(NamedTuple):
    storage: _Storage
    shape: tuple[int, ...]


class _Leaf(NamedTuple):
    path: tuple[Any, ...]
    key: bytes
    dtype: Any
    shape: tuple[int, ...]
    nbytes: int


class TensorPlan(NamedTuple):
    """The sample, marshalled, with None for each tensor and array; and these with their paths."""

    skeleton: bytes
    leaves: list[_Leaf]
    arrays: list[tuple[tuple[Any, ...], ArrayContent]]


class _Known(NamedTuple):
    """The plan of a pickle, if it has one, and the largest memory of its objects in bytes."""

    plan: TensorPlan | None
    weight: int


class _KnownPickles:
    """A cache by pickle or its digest, limited in entries and bytes."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Known] = {}
        self._bytes = 0

    def get(self, key: bytes) -> _Known | None:
        return self._known.get(key)

    def add(self, key: bytes, known: _Known) -> None:
        if len(self._known) >= _MAX_KNOWN or self._bytes > _MAX_KNOWN_BYTES:
            self._known.clear()  # every sample has its own pickle, so there would be no hits
            self._bytes = 0
        self._known[key] = known
        self._bytes += len(key)


_pickles = _KnownPickles()


def get_plan(archive: Archive, max_bytes: int) -> TensorPlan | None:
    """Return the plan for this archive, or None if `torch.load` has to read it.

    Raises: ObjectTooLargeError: if the objects take more memory than the limit and an allowance. UnsafeData,
    DecodeError: if no correct program would save them."""
    if len(archive.pickles) != 1 or archive.byteorder != b"little":
        for content in archive.pickles:
            scan_pickle(content, max_bytes)
        return None
    content = archive.pickles[0]
    key = content
    if len(content) > _MAX_PICKLE_BYTES:
        if HAS_NUMPY.search(content):
            return _plan_or_scan(content, max_bytes).plan
        key = hashlib.blake2b(content).digest()
    known = _pickles.get(key)
    if known is None:
        known = _plan_or_scan(content, max_bytes)
        if known.plan is None or not known.plan.arrays:  # a pickle with arrays equals no other
            _pickles.add(key, known)
    elif known.weight > max_cost(max_bytes):
        scan_pickle(content, max_bytes)  # exact; the weight of a plan is an upper bound
    return known.plan


def _plan_or_scan(content: bytes, max_bytes: int) -> _Known:
    if len(content) <= _MAX_PICKLE_BYTES or HAS_NUMPY.search(content):
        known = _make_plan(content, max_cost(max_bytes))
        if known is not None:
            return known
    return _Known(None, scan_pickle(content, max_bytes))


def build(plan: TensorPlan, archive: Archive, data: Buffer, is_view: bool = False) -> Any:
    """Build the sample, with tensors in memory of their own or as views; None if a storage has another length."""
    make = _view if is_view else _copy
    sample = marshal.loads(plan.skeleton)
    view = memoryview(data)
    for path, key, dtype, shape, nbytes in plan.leaves:
        start, size = archive.storages.get(key, (0, -1))
        if size != nbytes:
            return None
        sample = _set_at(sample, path, make(view[start : start + nbytes], dtype).view(shape))
    for path, content in plan.arrays:
        sample = _set_at(sample, path, make_array(content))
    return sample


def _set_at(sample: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Set the value at a path and return the sample; an empty path replaces the sample."""
    if not path:
        return value
    place = sample
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return sample


def _view(data: memoryview, dtype: Any) -> Any:
    """Return a flat tensor that is a view of these bytes."""
    import torch

    return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _copy(data: memoryview, dtype: Any) -> Any:
    """Return a flat tensor with these bytes, in memory of its own."""
    import torch

    if not data:
        return torch.empty(0, dtype=dtype)
    if len(data) < _LARGE:
        return torch.frombuffer(bytearray(data), dtype=dtype)
    # PyTorch's allocator reuses large blocks; a bytearray of this size causes page faults each time.
    tensor = torch.empty(len(data), dtype=torch.uint8)
    tensor.numpy()[:] = data  # outside the GIL
    return tensor.view(dtype)


def _make_plan(content: bytes, most: int) -> _Known | None:
    """Return the plan and a bound of the memory of its objects, if that is at most `most`."""
    import torch

    try:
        root, weight = _interpret(content, most)
        leaves: list[_Leaf] = []
        arrays: list[tuple[tuple[Any, ...], ArrayContent]] = []
        for path, leaf in _leaves(root, ()):
            if isinstance(leaf, Array):
                if leaf.content is None:
                    return None
                arrays.append((path, leaf.content))
                continue
            dtype = getattr(torch, leaf.storage.dtype)
            leaves.append(_Leaf(path, leaf.storage.key, dtype, leaf.shape, leaf.storage.numel * dtype.itemsize))
        if len({leaf.key for leaf in leaves}) < len(leaves):
            return None  # tensors that share memory must keep sharing it
        skeleton = marshal.dumps(_without_leaves(root))
    except (_Unplanned, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # torch's error says what is wrong with a damaged pickle
    return _Known(TensorPlan(skeleton, leaves, arrays), weight)


def _interpret(content: bytes, most: int) -> tuple[Any, int]:
    """Return the pickle's result, with inert values for names, storages and tensors, and a bound of its memory."""
    room = most - 4 * len(content)  # for texts, with up to four bytes per character
    stack: list[Any] = []
    marked: list[list[Any]] = []
    memo: dict[int, Any] = {}
    for opcode, found, _ in pickletools.genops(content):
        name = opcode.name
        argument: Any = found
        room -= _OPCODE_COST
        if room < 0:
            raise _Unplanned
        if name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            room -= _cost_again(memo[argument])
            stack.append(memo[argument])
        elif name == "MARK":
            marked.append(stack)
            stack = []
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            items, stack = stack, marked.pop()
            _fold(name, stack, items)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("APPEND", "SETITEM"):
            count = 1 if name == "APPEND" else 2
            items = stack[-count:]
            del stack[-count:]
            _fold(f"{name}S", stack, items)
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_call(stack.pop(), arguments))
        elif name == "BUILD":
            state = stack.pop()
            _require(isinstance(stack[-1], Array | DType))
            stack[-1].build(state)
        elif name == "STOP":
            _require(len(stack) == 1)
            return stack[0], most - room
        elif name != "PROTO":
            stack.append(_value(name, argument))
    raise _Unplanned


def _fold(name: str, stack: list[Any], items: list[Any]) -> None:
    if name == "TUPLE":
        stack.append(tuple(items))
    elif name == "APPENDS":
        _require(type(stack[-1]) is list)
        stack[-1].extend(items)
    else:
        _require(type(stack[-1]) is dict)
        _require(all(type(key) is str or _is_small_key(key) for key in items[::2]))
        stack[-1].update(zip(items[::2], items[1::2], strict=True))


def _is_small_key(key: Any) -> bool:
    """Whether a key is fast to hash and has few collisions."""
    return type(key) in (bool, bytes, type(None)) or (type(key) is int and abs(key) < _LARGE_KEY)


def _value(name: str, argument: Any) -> Any:
    if name == "GLOBAL":
        return _Name(argument)
    if name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
        return {"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[name]
    if name in ("NEWTRUE", "NEWFALSE"):
        return name == "NEWTRUE"
    _require(name in ("NONE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"))
    return argument


def _storage(reference: Any) -> _Storage:
    kind, name, key, location, numel = reference
    _require(kind == "storage" and location == "cpu" and type(name) is _Name and are_lengths((numel,)))
    return _Storage(key.encode(), _DTYPES[name], numel)


def _call(function: Any, arguments: Any) -> Any:
    """Return a tensor, the empty hooks that every tensor is pickled with, or a part of an array."""
    _require(type(function) is _Name)
    if function == _HOOKS and arguments == ():
        return _Name(_HOOKS)
    if function == _REBUILD:
        return _tensor(arguments)
    made = rebuild(function, arguments)
    _require(made is not None)
    return made


def _tensor(arguments: Any) -> _Tensor:
    """Return a whole, contiguous tensor without gradient."""
    storage, offset, shape, stride, requires_grad, hooks = arguments
    _require(type(storage) is _Storage and type(hooks) is _Name and hooks == _HOOKS)
    _require(type(shape) is tuple and are_lengths(shape) and type(stride) is tuple and are_lengths(stride))
    _require(offset == 0 and requires_grad is False and elements(shape) == storage.numel)
    _require(stride == tuple(elements(shape[axis + 1 :]) for axis in range(len(shape))))
    return _Tensor(storage, shape)


def _leaves(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    _require(len(path) <= _MAX_LEVELS)
    if isinstance(value, _Tensor | Array):
        yield path, value
    elif type(value) is dict:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif type(value) is list:
        for key, item in enumerate(value):
            yield from _leaves(item, (*path, key))


def _without_leaves(value: Any) -> Any:
    if isinstance(value, _Tensor | Array):
        return None
    if type(value) is dict:
        return {key: _without_leaves(item) for key, item in value.items()}
    if type(value) is list:
        return [_without_leaves(item) for item in value]
    return value  # marshal refuses anything else, such as a tensor inside a tuple


def _cost_again(value: Any) -> int:
    """Return the cost of another reference to a value. Mutable values with two references have no plan."""
    if isinstance(value, str | bytes):
        return len(value)
    _require(not isinstance(value, list | dict | _Tensor))
    if isinstance(value, Array):
        _require(value.is_scalar)
        return _AGAIN_COST + (len(value.content.data) if value.content else 0)
    if isinstance(value, tuple):
        _require(not any(isinstance(item, tuple) for item in value))  # nested tuples would multiply the cost
        return sum(map(_cost_again, value), _AGAIN_COST)
    return 0


def _require(condition: object) -> None:
    if not condition:
        raise _Unplanned
