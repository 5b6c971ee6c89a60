"""The states of a reservation, from the read to its reader."""

from __future__ import annotations

import pytest

from streaming.cache import SmartLRUCache
from streaming.cache.compression import Entry
from streaming.cache.reservation import Reservation, ReservationState
from streaming.cache.store import entry_size

SIZE = 4000
SAMPLE = b"x" * SIZE


@pytest.fixture
def cache() -> SmartLRUCache:
    """Room for some ten samples, which are stored as they are."""
    return SmartLRUCache(max_size_bytes=50_000, compression_type="none")


def reserved(cache: SmartLRUCache, *, demanded: bool = False) -> Reservation:
    reservation = cache.reserve(SIZE, demanded=demanded, until_read=True)
    assert reservation is not None
    return reservation


def encoded(cache: SmartLRUCache) -> Entry:
    entry = cache.encode(SAMPLE)
    assert entry is not None
    return entry


def held(cache: SmartLRUCache) -> tuple[int, int]:
    """Bytes in flight, and bytes read ahead."""
    return round(cache.get_cache_stats()["in_flight_gb"] * 1e9), cache.bytes_ahead


def test_a_read_ahead_is_stored_unread_for_other_processes(cache: SmartLRUCache) -> None:
    """Its room becomes the entry's and counts as read ahead until the reader has the sample."""
    cache.serves_processes = True
    reservation = reserved(cache)
    assert reservation.state is ReservationState.RESERVED
    assert held(cache) == (entry_size(SIZE), entry_size(SIZE))
    entry = encoded(cache)
    assert cache.admit("k", entry, reservation=reservation)
    assert reservation.state is ReservationState.STORED_UNREAD  # type: ignore[comparison-overlap]  # changed by the read
    assert held(cache) == (0, entry_size(entry.nbytes))
    for _ in range(2):
        reservation.release()
        assert reservation.state is ReservationState.RELEASED
        assert held(cache) == (0, 0)
    assert cache.get_nowait("k") == SAMPLE


def test_a_demanded_read_becomes_the_entry(cache: SmartLRUCache) -> None:
    """Its reader has the sample at once: nothing is held besides the entry."""
    reservation = reserved(cache, demanded=True)
    assert cache.admit("k", encoded(cache), reservation=reservation)
    assert reservation.state is ReservationState.RELEASED
    assert held(cache) == (0, 0)


def test_what_a_reader_of_this_process_keeps_stays_reserved(cache: SmartLRUCache) -> None:
    """A sample that was read ahead is in memory twice, with its reader and in the cache, and both are counted."""
    reservation = reserved(cache)
    assert cache.admit("k", encoded(cache), reservation=reservation)
    assert reservation.state is ReservationState.RESERVED
    assert held(cache) == (entry_size(SIZE), entry_size(SIZE))
    reservation.release()
    assert held(cache) == (0, 0)


def test_a_read_whose_reservation_was_released_is_admitted_without(cache: SmartLRUCache) -> None:
    """A load that continues in a thread after it was dropped holds nothing afterwards."""
    cache.serves_processes = True
    reservation = reserved(cache)
    reservation.release()
    assert cache.admit("k", encoded(cache), reservation=reservation)
    assert reservation.state is ReservationState.RELEASED
    assert held(cache) == (0, 0)


def test_storing_a_key_leaves_the_reservation_of_a_read_alone(cache: SmartLRUCache) -> None:
    """A reservation belongs to a read and not to a key."""
    cache.serves_processes = True
    reservation = reserved(cache)
    assert cache.put_nowait("k", SAMPLE)
    assert reservation.state is ReservationState.RESERVED
    assert cache.admit("k", encoded(cache), reservation=reservation)
    assert reservation.state is ReservationState.STORED_UNREAD  # type: ignore[comparison-overlap]  # changed by the read
    reservation.release()
    assert held(cache) == (0, 0)
