"""Copies of samples that the cache cannot hold: one for each reader, or an error that names what cannot be copied.

Samples of plain values, tensors and arrays come out of the cache, each read with its own memory. Other values that
`prepare` may return are copied here, and pickled for other processes.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from streaming.errors import PrepareError

__all__ = ["Uncopyable", "copy_sample", "pickle_sample", "uncopyable_sample"]

_CONTAINERS = (Mapping, list, tuple, set, frozenset)
_MOST_NODES = 100_000  # visited in search of the leaf that an error names


class Uncopyable(TypeError):
    """A sample cannot be copied. The message names the leaf; the cause is the error."""


def copy_sample(sample: Any) -> Any:
    """Return a copy that shares no memory with the sample.

    A tensor keeps its values, its layout and whether it requires grad, but not its history: the copy is a leaf of the
    autograd graph.

    Raises:
        Uncopyable: a value in the sample, such as a generator, cannot be copied.
    """
    try:
        return copy.deepcopy(sample)
    except Exception:  # also for tensors that can be copied below: with a history, sparse CSR, nested
        pass
    copies = {id(leaf): _copy_tensor(leaf) for _, leaf in _leaves(sample) if isinstance(leaf, Tensor)}
    try:
        return copy.deepcopy(sample, dict(copies))
    except Exception as exc:
        raise _uncopyable(sample, lambda leaf: copy.deepcopy(leaf, dict(copies)), exc, "copied") from exc


def pickle_sample(sample: Any) -> bytes:
    """Return the pickle of a sample for another process, where its tensors do not require grad.

    Raises:
        Uncopyable: a value in the sample cannot be pickled.
    """
    try:
        return _pickle(sample)
    except Exception as exc:
        raise _uncopyable(sample, _pickle, exc, "sent to another process") from exc


def uncopyable_sample(position: int, name: str, reason: Uncopyable) -> PrepareError:
    """Return the error for the readers of a sample that cannot be copied."""
    return PrepareError(
        f"sample {position} ({name!r}) cannot be given to several readers: {reason}; let prepare return tensors, "
        "arrays, text or what can be copied",
        path=name,
    )


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is Tensor and obj.requires_grad:
            return obj.detach().__reduce_ex__(5)  # type: ignore[no-untyped-call]  # torch's queues and its default collate refuse it otherwise
        return NotImplemented


def _pickle(value: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(value)
    return buffer.getvalue()


def _copy_tensor(tensor: Tensor) -> Tensor:
    try:
        return copy.deepcopy(tensor)
    except Exception:
        return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _uncopyable(sample: Any, do: Callable[[Any], Any], error: Exception, done: str) -> Uncopyable:
    for path, leaf in _leaves(sample):
        try:
            do(leaf)
        except Exception as exc:
            return Uncopyable(f"{path or 'it'} is a {type(leaf).__qualname__}, which cannot be {done}: {exc}")
    return Uncopyable(f"it is a {type(sample).__qualname__}, which cannot be {done}: {error}")


def _leaves(sample: Any) -> Iterator[tuple[str, Any]]:
    """Yield each leaf of nested dicts, lists and tuples with its path; an object comes after its attributes."""
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", sample)]
    objects: list[tuple[str, Any]] = []
    while waiting and len(seen) < _MOST_NODES:
        path, node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        inside = _inside(node)
        waiting.extend((path + name, inner) for name, inner in reversed(inside))
        if isinstance(node, _CONTAINERS):
            continue
        if inside:
            objects.append((path, node))
        else:
            yield path, node
    yield from reversed(objects)


def _inside(node: Any) -> list[tuple[str, Any]]:
    if isinstance(node, Mapping):
        return [(f"[{key!r}]", value) for key, value in node.items()]
    if isinstance(node, _CONTAINERS):
        return [(f"[{at}]", value) for at, value in enumerate(node)]
    if isinstance(node, Tensor) or not hasattr(node, "__dict__") or isinstance(node, type) or callable(node):
        return []
    return [(f".{name}", value) for name, value in vars(node).items()]
