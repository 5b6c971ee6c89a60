"""Copy batches to an accelerator while the trainer computes on earlier ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from streaming.errors import ConfigError

__all__ = ["to_device"]


def to_device(batches: Iterator[Any], device: torch.device, ahead: int = 2) -> Iterator[Any]:
    """Yield the batches with their tensors on a device, copying up to `ahead` of them before they are requested.

    On CUDA the copies run on their own stream, next to the trainer's kernels; they overlap if the batches are in pinned
    memory (`pin_memory=True`, whose buffers torch keeps and reuses). On other devices they are plain copies; tensors
    that are on the device already are not copied. Values without a `to` method are passed through.

    Args:
        batches: nested dicts, lists and tuples. An error is raised at the position of its batch.
        ahead: number of batches; 0 copies on the trainer's own stream.

    Raises:
        ConfigError: `ahead` is negative, or torch finds no such device.
    """
    if ahead < 0:
        raise ConfigError(f"prefetch_to_device={ahead} must be the number of batches to copy ahead, 0 or more")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={str(device)!r}: torch finds no CUDA device; leave it out or install a driver")
    copy = _copy_on_side_stream(device) if device.type == "cuda" and ahead else partial(_copy, device)
    return _read_ahead(batches, copy, ahead)


def _moved(batch: Any, device: torch.device) -> Any:
    return tree_map(lambda leaf: leaf.to(device, non_blocking=True) if hasattr(leaf, "to") else leaf, batch)


def _copy(device: torch.device, batch: Any) -> Callable[[], Any]:
    moved = _moved(batch, device)
    return lambda: moved


def _copy_on_side_stream(device: torch.device) -> Callable[[Any], Callable[[], Any]]:
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy(batch: Any) -> Callable[[], Any]:
        with torch.cuda.stream(stream):
            moved = _moved(batch, device)
        done = stream.record_event()

        def receive() -> Any:
            current = torch.cuda.current_stream(device)
            current.wait_event(done)
            for leaf in tree_leaves(moved):
                if isinstance(leaf, torch.Tensor) and leaf.is_cuda:
                    leaf.record_stream(current)  # its memory is not reused before the trainer's kernels end
            return moved

        return receive

    return copy


def _read_ahead(batches: Iterator[Any], copy: Callable[[Any], Callable[[], Any]], ahead: int) -> Iterator[Any]:
    """Yield `copy(batch)()` for each batch, with `copy` called up to `ahead` batches before."""
    coming: deque[Callable[[], Any]] = deque()
    error: Exception | None = None
    is_open = True
    depth = 0  # grows batch by batch, so that the first does not wait for the others
    while True:
        while is_open and len(coming) <= depth:
            try:
                coming.append(copy(next(batches)))
            except StopIteration:
                is_open = False
            except Exception as exc:  # of a batch that was not requested yet
                is_open, error = False, exc
        if not coming:
            break
        depth = min(depth + 1, ahead)
        yield coming.popleft()()
    if error is not None:
        raise error
