"""Read several samples at once, straight from the arena into the rows of one tensor `[batch, ...]` per entry.

A batch then costs one copy, not two: to collate samples that are the rows of one tensor, in order, is to take that
tensor (`streaming.loader.collate`). A sample that is accessed otherwise gets memory of its own first. Samples that
differ in shapes or structure are read one by one.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from marshal import loads
from typing import Any

from streaming.cache.compression import decompress
from streaming.cache.flat import is_text
from streaming.cache.reading import STALE, PlaceTuple, load

__all__ = ["Sample", "entries", "entry", "read_batch"]

_MOST_PARTS = 1024  # buffers that one system call takes
_LARGE_BYTES = 128 * 1024  # rows from this size on are copied by torch, in several threads and without the GIL
_HEADER_BYTES = 512  # most headers of samples with arrays are shorter; a longer one is read with all of its head


class Sample(dict[Any, Any]):
    """A sample whose tensors are rows of its batch's tensors, until its first access gives them memory of their own.

    Rows that were not accessed are collated without a copy (`entry`). A sample that goes to a user's function, or is
    kept, does not keep its batch in memory. Copies and pickles as a plain dict.
    """

    __slots__ = ("_rows",)

    _rows: tuple[Any, ...]  # the paths of the tensors that are rows; set after the call, as an `__init__` takes 0.2 us

    def __getattr__(self, name: str) -> Any:
        if name == "_rows":
            return ()
        raise AttributeError(name)

    def own(self) -> Sample:
        """Give each tensor memory of its own, and return the sample."""
        rows, self._rows = self._rows, ()
        for path in rows:
            *outer, key = path if type(path) is tuple else (path,)
            inner: dict[Any, Any] = self
            for name in outer:
                inner = dict.__getitem__(inner, name)
            dict.__setitem__(inner, key, dict.__getitem__(inner, key).clone())
        return self

    def __reduce__(self) -> tuple[type, tuple[dict[Any, Any]]]:
        return dict, (dict(self),)

    def __iter__(self) -> Iterator[Any]:  # defined so that `dict(sample)` reads each value by `__getitem__`
        return super().__iter__()

    def __or__(self, other: Any) -> Any:
        return dict(self) | other

    def __ror__(self, other: Any) -> Any:
        return other | dict(self)

    def copy(self) -> dict[Any, Any]:
        """Return a plain dict."""
        return dict(self)


def _owning(name: str) -> Callable[..., Any]:
    method = getattr(dict, name)

    @functools.wraps(method)
    def owned(self: Sample, *args: Any, **options: Any) -> Any:
        return method(self.own() if self._rows else self, *args, **options)

    return owned


for _name in (
    *("__getitem__", "get", "items", "values", "pop", "popitem", "setdefault"),
    *("__setitem__", "__delitem__", "__ior__", "update", "clear"),
):
    setattr(Sample, _name, _owning(_name))


_DICTS = frozenset({dict, Sample})


def entry(sample: Any, key: Any) -> Any:
    """Return `sample[key]` for a caller that copies it: a row of a batch stays one."""
    return dict.__getitem__(sample, key) if type(sample) is Sample else sample[key]


def entries(samples: Sequence[Any], key: Any) -> list[Any]:
    """Return `entry` of each sample."""
    if _DICTS.issuperset(map(type, samples)):
        return list(map(dict.__getitem__, samples, repeat(key)))
    return [entry(sample, key) for sample in samples]


def read_batch(
    memory: memoryview, generations: Sequence[int], places: Sequence[PlaceTuple], *, shared: bool = False
) -> list[Any]:
    """Return the reader's own copies of the samples at these places, `STALE` for each that was evicted meanwhile.

    Args:
        memory: memory of the arena.
        generations: table of the arena.
        places: places of the samples.
        shared: read into shared memory, so that a DataLoader worker passes the batch on without another copy.
    """
    opened = _open_alike(memory, generations, places) if len(places) > 1 else None
    if opened is None:
        return [load(memory, generations, place) for place in places]
    table, skeletons, payloads = opened
    paths = tuple([path for path, _, _, _, _ in table])
    for path, code, shape, start, nbytes in table:
        batch = _empty(code, (len(places), *shape), shared)
        if nbytes:
            _copy_rows(batch, [payload[start : start + nbytes] for payload in payloads])
        _put(skeletons, path, batch.unbind(0))
    samples = list(map(Sample, skeletons))
    for at, (sample, (_, _, slot, generation, _)) in enumerate(zip(samples, places, strict=True)):
        sample._rows = paths
        if generations[slot] != generation:
            samples[at] = STALE
    return samples


def _open_alike(
    memory: memoryview, generations: Sequence[int], places: Sequence[PlaceTuple]
) -> tuple[tuple[Any, ...], list[Any], list[memoryview]] | None:
    """Return (leaf table, skeletons, payloads) of dicts whose tensors have equal places and shapes, else None."""
    first: Any = None
    skeletons, payloads = [], []
    for offset, length, slot, generation, head in places:
        payload = memory[offset : offset + length]
        data = bytes(payload[:_HEADER_BYTES] if head > _HEADER_BYTES else payload)
        if generations[slot] != generation:  # bytes that may have changed are never decoded
            return None
        if not head:
            data = decompress(data)
            payload = memoryview(data)
            if is_text(data):
                return None
        try:
            skeleton, table, tuples, _ = loads(data)
        except (EOFError, ValueError):  # a header of over 512 bytes
            return None
        if table != first:
            if first is not None or not table or tuples or type(skeleton) is not dict:
                return None
            if any(code[0] != "t" for _, code, *_ in table):
                return None
            first = table
        skeletons.append(skeleton)
        payloads.append(payload)
    return first, skeletons, payloads


def _empty(code: str, shape: tuple[int, ...], shared: bool) -> Any:
    import torch

    dtype = getattr(torch, code[1:])
    if not shared:
        return torch.empty(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload]


def _copy_rows(batch: Any, rows: list[memoryview]) -> None:
    """Fill a new batch. A system call fills untouched shared pages in half the time that page faults take."""
    import torch

    storage = batch.untyped_storage()
    strategy = torch.multiprocessing.get_sharing_strategy()  # type: ignore[no-untyped-call]
    if storage.is_shared() and strategy == "file_descriptor":
        fd, size = storage._share_fd_cpu_()
        if len(rows) <= _MOST_PARTS and os.pwritev(fd, rows, 0) == size:
            return
    target = batch.reshape(-1).view(torch.uint8)
    if len(rows[0]) >= _LARGE_BYTES and not rows[0].readonly:
        torch.cat([torch.frombuffer(row, dtype=torch.uint8) for row in rows], out=target)
        return
    view = memoryview(target.numpy())
    start = 0
    for row in rows:
        view[start : start + len(row)] = row
        start += len(row)


def _put(skeletons: list[Any], path: Any, rows: Sequence[Any]) -> None:
    """Put each row into its skeleton at a path: one key, or a tuple of keys."""
    *outer, key = path if type(path) is tuple else (path,)
    for skeleton, row in zip(skeletons, rows, strict=True):
        for name in outer:
            skeleton = skeleton[name]
        skeleton[key] = row
