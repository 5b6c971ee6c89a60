"""Decoding twice the input is twice the work, counted in calls, and the order of a pickle's opcodes does not matter."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from functools import partial
from time import thread_time
from typing import Any

import numpy as np
import pytest
import torch
import zstandard

from streaming.codecs import decode, encode
from streaming.codecs.pickle_scan import PickleScan
from tests.security.pickles import HOOKS, PROTO, archive

_FRAME = zstandard.ZstdCompressor(write_content_size=False).compress(b"x")

INPUTS: dict[str, Callable[[int], tuple[str, bytes]]] = {
    "pickle with a plan": lambda n: ("a.pt", encode(list(range(n)), "a.pt")),
    "pickle without": lambda n: ("a.pt", archive(b"(" + HOOKS + b"](" + b"(K\1t" * n + b"et")),
    "NumPy in a pickle": lambda n: ("a.pt", encode([np.arange(n), *map(np.float32, range(n))], "a.pt")),
    "members": lambda n: ("a.npz", encode({str(i): np.zeros(1) for i in range(n)}, "a.npz")),
    "tensors": lambda n: ("a.safetensors", encode({str(i): torch.zeros(1) for i in range(n)}, "a.safetensors")),
    "lines": lambda n: ("a.jsonl", b'{"a": [1, 2]}\n' * n),
    "values": lambda n: ("a.json", encode([{"a": [1, 2]}] * n, "a.json")),
    "frames": lambda n: ("a.bin.zst", _FRAME * n),
}


def calls_of(function: Callable[[], Any]) -> int:
    """How many functions were called, in Python or C."""
    count = 0

    def note(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("make", INPUTS.values(), ids=list(INPUTS))
def test_twice_the_input_is_twice_the_work(make: Callable[[int], tuple[str, bytes]]) -> None:
    """Small objects, lines, members and frames cost the same each, however many there are."""
    inputs = [make(number) for number in (300, 600)]
    decode(make(299)[1], make(299)[0])  # what is imported on first use is not counted
    once, twice = (calls_of(partial(decode, data, path)) for path, data in inputs)
    assert twice <= 2.2 * once


def test_a_tall_stack_costs_nothing() -> None:
    """Tuples cost about the same on top of many values as below them: the values are not copied."""
    values, tuples = b"N" * 50_000, b"(t" * 5_000
    assert least_time(PROTO + values + tuples + b".") < 3 * least_time(PROTO + tuples + values + b".")


def least_time(content: bytes) -> float:
    """Seconds of this thread's processor time for a scan, the least of three."""
    times = []
    for _ in range(3):
        started = thread_time()
        PickleScan(10**9).run(io.BytesIO(content))
        times.append(thread_time() - started)
    return min(times)
