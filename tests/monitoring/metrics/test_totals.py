"""Sums that never go back, and who is read under which name, with stand-ins for data sets."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.monitoring.metrics import Collector
from streaming.monitoring.metrics.collector import MOST_NEWS
from streaming.monitoring.metrics.live import Entry
from streaming.monitoring.metrics.roster import MOST_GONE
from streaming.monitoring.metrics.totals import Sums, Track
from tests.monitoring.metrics.parts import Stage, StandIn, numbers, scraping


def reads(number: int, **more: Any) -> dict[str, Any]:
    """A reading with so many reads."""
    return {"reads": {(): number}, **more}


BUCKETS = st.lists(st.integers(0, 9), min_size=17, max_size=17)
READINGS = st.lists(
    st.fixed_dictionaries(
        {
            "reads": st.fixed_dictionaries({(): st.integers(0, 9)}),
            "cache_hits": st.fixed_dictionaries({(): st.integers(0, 9)}),
            "source_request_duration_seconds": st.fixed_dictionaries({("a",): BUCKETS}),
        }
    ),
    min_size=1,
)


@given(READINGS)
def test_counts_never_go_back(readings: list[dict[str, Any]]) -> None:
    """Whatever is read, in whatever order, no sum is ever less than before, nor less than what was read."""
    track, before = Track(), Sums()
    for reading in readings:
        track.take(reading)
        after = Sums()
        track.add_to(after)
        for key, values in reading.items():
            for labels, value in values.items():
                now, then = after.values[key][labels], before.values.get(key, {}).get(labels, 0)
                if isinstance(value, list):
                    assert all(n >= v for n, v in zip(now, value, strict=True))
                    assert all(n >= t for n, t in zip(now, then or [0] * 17, strict=True))
                else:
                    assert now >= max(value, then)
        before = after


def test_a_count_that_wavers_is_not_a_new_beginning() -> None:
    """Hits that are fewer for a while, as fetches ahead count first, are not added a second time."""
    track = Track()
    for number, hits in enumerate((10, 7, 11)):
        track.take(reads(20 + number, cache_hits={(): hits}))
        sums = Sums()
        track.add_to(sums)
    assert sums.values["cache_hits"] == {(): 11}


def test_after_a_new_beginning_all_counts_are_added() -> None:
    """Reads that are fewer mean that everything began at 0."""
    track = Track()
    for number, hits in ((10, 8), (2, 1), (3, 2)):
        track.take(reads(number, cache_hits={(): hits}))
    sums = Sums()
    track.add_to(sums)
    assert sums.values == {"reads": {(): 13}, "cache_hits": {(): 10}}


def test_a_data_set_that_fails_gives_its_last_numbers() -> None:
    """Its counters and gauges stay as they were, its errors are counted, and it comes back when it can."""
    stage = Stage()
    bad = stage.open("bad", reads(5, cache_entries={(): 3}))
    stage.open("good", reads(1))
    collector = Collector(stage.live)
    assert numbers(collector).of("scrape_errors_total", dataset="bad") == 0
    bad.error = OSError("gone")
    for errors in (1, 2):
        found = numbers(collector)
        assert found.of("reads_total", dataset="bad") == 5
        assert found.of("cache_entries", dataset="bad") == 3
        assert found.of("scrape_errors_total", dataset="bad") == errors
        assert found.of("scrape_errors_total", dataset="good") == 0
    bad.error, bad.reading = None, reads(6)
    assert numbers(collector).of("reads_total", dataset="bad") == 6


def test_a_data_set_that_never_answered_is_told_by_its_errors() -> None:
    """One that failed from the first time on has no number but that of its errors."""
    stage = Stage()
    stage.open("bad", {}).error = RuntimeError("never worked")
    found = numbers(Collector(stage.live))
    assert found.of("scrape_errors_total", dataset="bad") == 1
    assert found.total("reads_total") == 0


def test_a_reading_of_another_shape_is_an_error() -> None:
    """Label values that do not fit their family are refused; a family that is not in the list is left out."""
    stage = Stage()
    stage.open("odd", {"reads": {("too", "many"): 1}})
    stage.open("new", reads(1, of_tomorrow={(): 1}))
    found = numbers(Collector(stage.live))
    assert found.of("scrape_errors_total", dataset="odd") == 1
    assert found.of("reads_total", dataset="new") == 1


def test_a_data_set_that_hangs_holds_up_nobody() -> None:
    """While one does not answer its last numbers are given, those of others are fresh, and it is asked only once."""
    stage = Stage()
    slow, other = stage.open("slow", reads(1)), stage.open("other", reads(1))
    collector = Collector(stage.live)
    numbers(collector)
    slow.go.clear()
    slow.reading, other.reading = reads(2), reads(2)
    for errors in (1, 2, 3):
        found = numbers(collector)
        assert found.of("reads_total", dataset="slow") == 1
        assert found.of("reads_total", dataset="other") == 2
        assert found.of("scrape_errors_total", dataset="slow") == errors
    slow.go.set()
    while numbers(collector).of("reads_total", dataset="slow") != 2:  # its thread has to wake up first
        pass


def test_absent_values_are_left_out() -> None:
    """None is no number: neither 0 nor NaN is shown in its place."""
    stage = Stage()
    stage.open("data", {"cache_predicted_hit_ratio": {(): None}, "cache_entries": {(): 0}})
    found = numbers(Collector(stage.live))
    assert found.of("cache_predicted_hit_ratio", dataset="data") is None
    assert found.of("cache_entries", dataset="data") == 0


def test_numbers_of_processes_are_put_together() -> None:
    """Of two reading processes the memory is added up, and the worse lag is shown."""
    stage = Stage()
    for name, memory, lag in (("a", 10, 0.5), ("b", 20, 0.25), ("c", None, None)):
        reading: dict[str, Any] = {
            "process_resident_memory_bytes": {("owner",): memory},
            "event_loop_lag_seconds": {("owner",): lag},
        }
        stage.open(name, reading)
    found = numbers(Collector(stage.live))
    assert found.of("process_resident_memory_bytes", process="owner") == 30
    assert found.of("event_loop_lag_seconds", process="owner") == 0.5
    assert (found.of("process_resident_memory_bytes", process="trainer") or 0) > 0


def test_a_last_reading_may_come_before_the_end() -> None:
    """A data set that has told its last reading and is still open for a moment is not counted twice."""
    stage = Stage()
    stand_in = stage.open("data", reads(4))
    collector = Collector(stage.live)
    numbers(collector)
    stage.tell_end("data", reads(5))
    assert numbers(collector).of("reads_total", dataset="data") == 4
    stage.leave(stand_in)
    for _ in range(2):
        assert numbers(collector).of("reads_total", dataset="data") == 5


def test_a_last_reading_may_come_after_the_end() -> None:
    """A data set that is open no more keeps its numbers until its last reading takes their place."""
    stage = Stage()
    stand_in = stage.open("data", reads(4))
    collector = Collector(stage.live)
    numbers(collector)
    stage.leave(stand_in)
    again = stage.open("data", reads(1))
    assert numbers(collector).of("reads_total", dataset="data") == 5
    stage.tell_end("data", reads(6))
    assert numbers(collector).of("reads_total", dataset="data") == 7
    assert again.metrics_snapshot() == reads(1)


def test_any_number_of_data_sets_may_come_and_go() -> None:
    """Those that end without a word stay in the sums, however many they are."""
    stage = Stage()
    collector = Collector(stage.live)
    for _ in range(2 * MOST_GONE):
        stand_in = stage.open("data", reads(1))
        numbers(collector)
        stage.leave(stand_in)
    assert numbers(collector).of("reads_total", dataset="data") == 2 * MOST_GONE


def test_names_are_given_by_the_lowest_free_number() -> None:
    """A number behind a name is never one that another data set has as its own name."""
    stage = Stage()
    for count, name in enumerate(["data", "data-2", "data", "data"], 1):
        stage.open(name, reads(count))
    found = numbers(Collector(stage.live))
    named = {name: found.of("reads_total", dataset=name) for name in ("data", "data-2", "data-3", "data-4")}
    assert named == {"data": 1, "data-2": 2, "data-3": 3, "data-4": 4}


def test_a_loader_is_read_once_more_when_it_is_gone() -> None:
    """What can still be read of one that nobody holds any more counts."""
    stage, account, loader, dataset = Stage(), StandIn(), StandIn({"trainer_steps": {(): 1}}), StandIn()
    stage.entries.append(Entry("data", loader, dataset, account))
    collector = Collector(stage.live)
    numbers(collector)
    account.reading = {"trainer_steps": {(): 3}}
    stage.leave(loader)
    assert numbers(collector).of("trainer_steps_total", dataset="data") == 3


def test_a_collector_that_nobody_holds_is_gone() -> None:
    """It asks no more to be told of what closes, and nothing keeps it in memory."""
    stage = Stage()
    stage.open("data", reads(1))
    collector = Collector(stage.live)
    numbers(collector)
    gone = weakref.ref(collector)
    del collector
    gc.collect()
    assert gone() is None
    stage.tell_end("data", reads(2))  # nobody is left who would listen
    assert stage.listeners == 0


class _Noted(dict[str, Any]):
    """A reading of which one can know whether anybody holds it."""


def test_last_readings_do_not_pile_up() -> None:
    """Where nobody scrapes they are booked all the same, and all of them count."""
    stage = Stage()
    collector = Collector(stage.live)
    held: list[weakref.ref[_Noted]] = []
    for _ in range(100):
        last = _Noted(reads(1))
        held.append(weakref.ref(last))
        stage.tell_end("data", last)
        del last
    assert sum(each() is not None for each in held) <= MOST_NEWS
    assert numbers(collector).of("reads_total", dataset="data") == 100


def test_where_data_sets_cannot_be_listed_nothing_is_lost() -> None:
    """Neither a scrape nor whoever closes a data set fails; those that are known are asked on; what was told counts."""
    stage = Stage()
    data = stage.open("data", reads(1))
    collector = Collector(stage.live)
    numbers(collector)
    entries, broken = stage.entries, Any
    stage.entries = broken  # type: ignore[assignment]
    data.reading = reads(2)
    for _ in range(2 * MOST_NEWS):
        stage.tell_end("other", reads(1))
    assert numbers(collector).of("reads_total", dataset="data") == 2
    stage.entries = entries
    assert numbers(collector).of("reads_total", dataset="other") == 2 * MOST_NEWS


def test_what_remains_of_a_loader_may_fail() -> None:
    """Then its last numbers count."""
    stage, account, loader = Stage(), StandIn(), StandIn({"trainer_steps": {(): 2}})
    account.error = RuntimeError("gone too")
    stage.entries.append(Entry("data", loader, [1, 2], account))
    collector = Collector(stage.live)
    numbers(collector)
    stage.leave(loader)
    assert numbers(collector).of("trainer_steps_total", dataset="data") == 2


def test_scrapes_at_the_same_time_agree() -> None:
    """Two threads that scrape one collector see counters that only grow."""
    stage = Stage()
    data = stage.open("data", reads(0))
    collector = Collector(stage.live)
    with scraping(lambda: numbers(collector).total("reads_total")) as found:
        for number in range(200):
            data.reading = reads(number)
            assert numbers(collector).total("reads_total") == number
    assert found == sorted(found)


@pytest.mark.parametrize("value", [0, 1.5, [1, 2]])
def test_sums_do_not_change_what_they_add(value: Any) -> None:
    """A reading that was added is as it was."""
    sums = Sums()
    reading: dict[str, Any] = {"reads": {(): value}}
    sums.add(reading)
    sums.add(reading)
    assert reading == {"reads": {(): value}}
