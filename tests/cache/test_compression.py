"""zstd is used where it pays, decided by short trials per kind."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import zstandard

from streaming.cache import SmartLRUCache, flat
from streaming.cache.compression import Compression, decompress


def squeeze(compression: Compression, sample: object) -> bytes | None:
    return compression.compress(flat.encode(sample), sample)


IDS = np.random.default_rng(0).zipf(1.4, 4000).clip(max=50_000)


@pytest.mark.parametrize(
    "sample",
    [IDS.astype(np.int64), IDS.astype(np.uint16), {"mask": torch.arange(5000) > 3000}, "the same words again " * 200],
    ids=["int64", "uint16", "mask", "text"],
)
def test_compressible_samples_are_stored_small(sample: object) -> None:
    """Token ids, masks and text take less room than their bytes, are counted as saved, and are read back equal."""
    cache = SmartLRUCache(max_size_bytes=1_000_000)
    assert cache.put_nowait("k", sample)
    saved = cache.get_metrics().total_bytes_saved
    assert saved > 0.15 * flat.encode(sample).nbytes
    assert cache.get_cache_stats()["compression_savings_gb"] == saved / 1e9
    assert flat.encode(cache.get_nowait("k")).parts == flat.encode(sample).parts


@pytest.mark.parametrize("options", [{"compression_type": "none"}, {}])
def test_compression_can_be_switched_off(options: dict[str, str]) -> None:
    """`compression_type="none"` for all, `compress=False` for one put."""
    cache = SmartLRUCache(max_size_bytes=1_000_000, **options)  # type: ignore[arg-type]
    cache.put_nowait("k", "x" * 10_000, compress=bool(options))
    assert cache.get_metrics().total_bytes_saved == 0
    assert cache.get_nowait("k") == "x" * 10_000


def test_random_floats_are_stored_as_they_are() -> None:
    """Samples that do not shrink are not compressed; after three trials one in 64 is tried again."""
    compression = Compression("zstd")
    noise = torch.randn(1000)
    assert [squeeze(compression, noise) for _ in range(200)] == [None] * 200


def test_a_kind_that_begins_to_compress_is_compressed() -> None:
    """Zeros of a kind that was noise before are compressed from the next trial on."""
    compression = Compression("zstd")
    for _ in range(10):
        assert squeeze(compression, torch.randn(1000)) is None
    zeros = torch.zeros(1000)
    results = [squeeze(compression, zeros) is not None for _ in range(64)]
    assert results.index(True) == 53
    assert all(results[53:])


def test_a_kind_that_no_longer_compresses_is_stored_plain() -> None:
    """Noise of a kind that paid before is stored raw, each time."""
    compression = Compression("zstd")
    for _ in range(10):
        assert squeeze(compression, torch.zeros(100_000)) is not None
    noise = torch.randn(100_000)
    assert [squeeze(compression, noise) for _ in range(5)] == [None] * 5


def test_large_payloads_are_judged_by_slices() -> None:
    """A large payload is compressed whole if slices of its start, middle and end shrink together."""
    data = random.Random(0).randbytes(300_000)
    for sample, pays in ((bytes(1 << 20), True), (data + bytes(1 << 20), True), (data * 4, False)):
        frame = squeeze(Compression("zstd"), sample)
        assert (frame is not None) == pays
        if frame is not None:
            assert flat.decode(decompress(frame)) == sample


def test_tiny_payloads_and_many_kinds() -> None:
    """Payloads under two cache lines are not compressed; the number of kinds that are remembered is bounded."""
    compression = Compression("zstd")
    assert squeeze(compression, {"idx": 3}) is None
    for number in range(2500):
        assert squeeze(compression, {f"k{number}": torch.zeros(100)}) is not None


def records(choose: random.Random) -> dict[str, Any]:
    return {"events": [{"type": choose.randrange(6), "x": choose.randrange(1000), "on": True} for _ in range(500)]}


def rounded(choose: random.Random) -> dict[str, Any]:
    return {"points": [round(choose.random(), 3) for _ in range(500)]}


def prose(choose: random.Random) -> list[Any]:
    return [{"text": choose.choice(["yes", "no", "perhaps"]), "id": None} for _ in range(300)]


@pytest.mark.parametrize("make", [records, rounded, prose])
def test_json_compresses_as_well_as_its_text(make: Callable[[random.Random], Any]) -> None:
    """A JSON sample takes at most 5 % more room than zstd over its text, from the first on, and is read back equal."""
    compression = Compression("zstd")
    choose = random.Random(1)
    text = zstandard.ZstdCompressor(level=3)
    for _ in range(70):
        sample = make(choose)
        frame = compression.compress(flat.encode(sample), sample)
        assert frame is not None
        bare = text.compress(json.dumps(sample, separators=(",", ":")).encode())
        assert 0.95 * len(frame) <= len(bare) + 1
        assert flat.decode(decompress(frame)) == sample


@pytest.mark.parametrize(
    "extra",
    [(1,), b"x", {1: 2}, {(1,): 2}, 10**5000, "\ud800", float("inf"), -0.0, [[]] * 2, {"a": {"b": [None, True]}}],
    ids=["tuple", "bytes", "int_key", "tuple_key", "huge", "surrogate", "inf", "minus_zero", "shared", "plain"],
)
def test_values_that_json_would_change_are_read_back_unchanged(extra: Any) -> None:
    """Tuples, bytes, unusual keys and unusual numbers keep type and value in the smaller form too."""
    compression = Compression("zstd")
    sample = [extra, [0.125] * 300]
    frame = compression.compress(flat.encode(sample), sample)
    assert frame is not None
    back = flat.decode(decompress(frame))
    assert back == sample
    assert type(extra) is int or repr(back) == repr(sample)


def test_shared_and_deep_containers_are_not_written_as_text() -> None:
    """A list that is shared many times stays small, and a deep nest readable."""
    shared: list[Any] = ["word"]
    for _ in range(40):
        shared = [shared, shared]
    assert not flat.encode(shared).is_json
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    assert not flat.encode(deep).is_json
    assert flat.encode([{"a": []}]).is_json
