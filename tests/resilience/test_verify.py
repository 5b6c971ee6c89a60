"""Holding what came against what is known."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from streaming.errors import ConfigError, ObjectChanged, TruncatedRead
from streaming.resilience import Breaker, ConcurrencyLimit, Expected, Failover, Hedge, Retry, Verify
from streaming.testing import Fault, FaultySource
from tests.resilience.parts import DATA, memory

WHOLE = DATA + b"0"
MD5 = {"md5": hashlib.md5(WHOLE).hexdigest()}
SHA256 = {"sha256": hashlib.sha256(WHOLE).hexdigest().upper()}


def knows(expected: Expected | None) -> Verify:
    return Verify(memory("store"), expected=lambda path: expected)


@pytest.mark.parametrize(
    "expected",
    [
        None,
        (None, None, None),
        (-1, None, {}),
        (len(WHOLE), "1", MD5),
        (len(WHOLE), '"1"', SHA256),
        (len(WHOLE), 'W/"1"', {**MD5, **SHA256}),
    ],
)
async def test_lets_through_what_is_right(expected: Expected | None) -> None:
    """Right size, ETag (however it is quoted) and checksum pass, and what is unknown is not asked."""
    source = knows(expected)
    assert bytes((await source.read("0.bin")).data) == WHOLE
    assert bytes((await source.read("0.bin", 3, 9)).data) == WHOLE[3:9]
    assert source.mismatches == 0


@pytest.mark.parametrize(("expected", "text"), [((99, None, None), "22 bytes and had 99"), ((22, "f", None), "ETag 1")])
async def test_another_object_is_reported_as_such(expected: Expected, text: str) -> None:
    """Another size or ETag is a change, which a repetition would not help, also in a part."""
    source = knows(expected)
    for part in ((0, None), (3, 9)):
        with pytest.raises(ObjectChanged, match=f"'0.bin' of source 'store'.*{text}") as caught:
            await source.read("0.bin", *part)
        assert not caught.value.retryable
    assert source.mismatches == 2


@pytest.mark.parametrize("checksum", [MD5, SHA256])
async def test_a_flipped_byte_is_damage_on_the_way(checksum: dict[str, str]) -> None:
    """Same size, same ETag, other bytes: worth another attempt, which then succeeds."""
    source = Verify(FaultySource(memory(), [Fault(flip_byte=7)]), expected=lambda path: (22, "1", checksum))
    with pytest.raises(TruncatedRead, match="damaged") as caught:
        await source.read("0.bin")
    assert caught.value.retryable
    assert bytes((await source.read("0.bin")).data) == WHOLE


@pytest.mark.parametrize("part", [(0, None), (2, 9), (2, 9999)])
@pytest.mark.parametrize("kept", [0, 1, 5])
async def test_a_cut_body_is_noticed_without_knowing_anything(part: tuple[int, int | None], kept: int) -> None:
    """Fewer bytes than announced are refused, for whole objects and parts."""
    source = Verify(FaultySource(memory(), [Fault(keep_bytes=kept)]))
    with pytest.raises(TruncatedRead, match=f"gave {kept} of"):
        await source.read("0.bin", *part)
    assert source.mismatches == 1


@pytest.mark.parametrize("in_flight", [1, 8])
async def test_what_comes_with_a_read_is_for_that_read_alone(in_flight: int) -> None:
    """Through all wrappers, hedged or not: reads of one path that know different sizes are each held to their own."""
    copies = [memory("one"), memory("two")]
    copies[0].put("0.bin", b"replaced")
    source = Retry(Hedge(Failover([Breaker(ConcurrencyLimit(Verify(copy))) for copy in copies])))
    expected = [(len(WHOLE), "two"), (8, "one")] * in_flight
    blobs = await asyncio.gather(*(source.read("0.bin", expect=(size, None, None)) for size, _ in expected))
    assert [(blob.size, blob.source) for blob in blobs] == expected


async def test_large_objects_are_checked_in_a_thread() -> None:
    """A checksum of a megabyte is as right as one of a line."""
    store, data = memory(), bytes(1_000_000)
    store.put("large.bin", data)
    right = {"md5": hashlib.md5(data).hexdigest()}
    assert (await Verify(store, expected=lambda path: (None, None, right)).read("large.bin")).size == 1_000_000
    with pytest.raises(TruncatedRead):
        await Verify(store, expected=lambda path: (None, None, MD5)).read("large.bin")


async def test_an_unknown_checksum_is_refused() -> None:
    """A checksum that cannot be taken is an error, never a pass."""
    with pytest.raises(ConfigError, match=r"'crc32c'.*md5 or sha256"):
        await knows((None, None, {"crc32c": "0"})).read("0.bin")


async def test_a_mismatch_is_read_from_another_copy() -> None:
    """Below failover, each kind of mismatch in one copy is made good by the next."""
    for fault in (Fault(flip_byte=0, times=None), Fault(keep_bytes=4, times=None), Fault(etag="other", times=None)):
        copies = [FaultySource(memory("one"), [fault]), memory("two")]
        source = Failover([Verify(copy, expected=lambda path: (22, "1", MD5)) for copy in copies])
        blob = await source.read("0.bin")
        assert (bytes(blob.data), blob.source, source.failovers) == (WHOLE, "two", 1)
