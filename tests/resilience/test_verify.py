"""Verification of answers."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from streaming.errors import ConfigError, ObjectChanged, TruncatedRead
from streaming.resilience import Failover, Guard, Hedge, Retry
from streaming.sources.base import Expected
from streaming.testing import Fault, FaultySource
from tests.resilience.parts import DATA, memory

WHOLE = DATA + b"0"
MD5 = {"md5": hashlib.md5(WHOLE).hexdigest()}
SHA256 = {"sha256": hashlib.sha256(WHOLE).hexdigest().upper()}


@pytest.mark.parametrize(
    "expected",
    [
        None,
        Expected(),
        Expected(-1, None, {}),
        Expected(len(WHOLE), "1", MD5),
        Expected(len(WHOLE), '"1"', SHA256),
        Expected(len(WHOLE), 'W/"1"', {**MD5, **SHA256}),
    ],
)
async def test_right_answers_pass(expected: Expected | None) -> None:
    """The right size, ETag (however it is quoted) and checksum pass; what is unknown is not checked."""
    source = Guard(memory("store"))
    assert bytes((await source.read_expecting("0.bin", expected)).data) == WHOLE
    assert bytes((await source.read_expecting("0.bin", expected, 3, 9)).data) == WHOLE[3:9]
    assert source.mismatches == 0


@pytest.mark.parametrize(("expected", "text"), [(Expected(99), "22 bytes and had 99"), (Expected(22, "f"), "ETag 1")])
async def test_another_object_is_reported_as_changed(expected: Expected, text: str) -> None:
    """Another size or ETag is a change, which a retry would not help, also in a part."""
    source = Guard(memory("store"))
    for part in ((0, None), (3, 9)):
        with pytest.raises(ObjectChanged, match=f"'0.bin' of source 'store'.*{text}") as caught:
            await source.read_expecting("0.bin", expected, *part)
        assert not caught.value.retryable
    assert source.mismatches == 2


@pytest.mark.parametrize("checksum", [MD5, SHA256])
async def test_a_flipped_byte_is_damage_in_transit(checksum: dict[str, str]) -> None:
    """Same size, same ETag, other bytes: worth another attempt, which then succeeds."""
    source = Guard(FaultySource(memory(), [Fault(flip_byte=7)]))
    expected = Expected(22, "1", checksum)
    with pytest.raises(TruncatedRead, match="damaged") as caught:
        await source.read_expecting("0.bin", expected)
    assert caught.value.retryable
    assert bytes((await source.read_expecting("0.bin", expected)).data) == WHOLE


@pytest.mark.parametrize("part", [(0, None), (2, 9), (2, 9999)])
@pytest.mark.parametrize("kept", [0, 1, 5])
async def test_a_cut_body_is_noticed_without_expectations(part: tuple[int, int | None], kept: int) -> None:
    """Fewer bytes than announced are refused, for whole objects and parts."""
    source = Guard(FaultySource(memory(), [Fault(keep_bytes=kept)]))
    with pytest.raises(TruncatedRead, match=f"gave {kept} of"):
        await source.read("0.bin", *part)
    assert source.mismatches == 1


@pytest.mark.parametrize("in_flight", [1, 8])
async def test_expectations_belong_to_one_read(in_flight: int) -> None:
    """Through all wrappers: reads of one path with different expectations are each verified by their own."""
    replicas = [memory("one"), memory("two")]
    replicas[0].put("0.bin", b"replaced")
    source = Retry(Hedge(Failover([Guard(replica) for replica in replicas])))
    expected = [(len(WHOLE), "two"), (8, "one")] * in_flight
    blobs = await asyncio.gather(*(source.read_expecting("0.bin", Expected(size)) for size, _ in expected))
    assert [(blob.size, blob.source) for blob in blobs] == expected


async def test_large_objects_are_checked_in_a_thread() -> None:
    """A checksum of a megabyte is computed as rightly as one of a line."""
    store, data = memory(), bytes(1_000_000)
    store.put("large.bin", data)
    right = {"md5": hashlib.md5(data).hexdigest()}
    assert (await Guard(store).read_expecting("large.bin", Expected(checksums=right))).size == 1_000_000
    with pytest.raises(TruncatedRead):
        await Guard(store).read_expecting("large.bin", Expected(checksums=MD5))


async def test_an_unknown_checksum_is_refused() -> None:
    """A checksum of an unknown kind is an error, never a pass."""
    with pytest.raises(ConfigError, match=r"'crc32c'.*md5 or sha256"):
        await Guard(memory()).read_expecting("0.bin", Expected(checksums={"crc32c": "0"}))


async def test_a_mismatch_is_read_from_another_replica() -> None:
    """Below fail-over, each kind of mismatch in one replica is repaired by the next."""
    for fault in (Fault(flip_byte=0, times=None), Fault(keep_bytes=4, times=None), Fault(etag="other", times=None)):
        replicas = [FaultySource(memory("one"), [fault]), memory("two")]
        source = Failover([Guard(replica) for replica in replicas])
        blob = await source.read_expecting("0.bin", Expected(22, "1", MD5))
        assert (bytes(blob.data), blob.source, source.failovers) == (WHOLE, "two", 1)
