"""Sums that never go back, and which name each data set is counted under, with stand-ins for data sets."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.monitoring.metrics import Collector
from streaming.telemetry.counters import MetricsSnapshot
from streaming.telemetry.totals import Totals
from tests.monitoring.metrics.parts import Stage, StandIn, numbers, scraping


def reads(number: int, **more: Any) -> dict[str, Any]:
    """Return a reading with this number of reads."""
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


def sums_of(totals: Totals, name: str = "data") -> dict[str, Any]:
    """All that was counted under a name."""
    return totals.read(lambda reading: None)[0][name]


@given(READINGS)
def test_counts_never_go_back(readings: list[dict[str, Any]]) -> None:
    """Whatever is read, in whatever order, no sum is ever less than before, nor less than what was read."""
    stage, before = Stage(), dict[str, Any]()
    data = stage.open("data", {})
    for reading in readings:
        data.reading = reading
        after = sums_of(stage.totals)
        for key, values in reading.items():
            for labels, value in values.items():
                now, then = after[key][labels], before.get(key, {}).get(labels, 0)
                if isinstance(value, list):
                    assert all(n >= v for n, v in zip(now, value, strict=True))
                    assert all(n >= t for n, t in zip(now, then or [0] * 17, strict=True))
                else:
                    assert now >= max(value, then)
        before = after


def test_a_count_that_wavers_is_not_a_reset() -> None:
    """Hits that are fewer for a while, as fetches ahead count first, are not added a second time."""
    stage = Stage()
    data = stage.open("data", {})
    for number, hits in enumerate((10, 7, 11)):
        data.reading = reads(20 + number, cache_hits={(): hits})
        sums = sums_of(stage.totals)
    assert sums["cache_hits"] == {(): 11}


def test_after_a_reset_all_counts_are_added() -> None:
    """Reads that are fewer mean that everything began at 0."""
    stage = Stage()
    data = stage.open("data", {})
    for number, hits in ((10, 8), (2, 1), (3, 2)):
        data.reading = reads(number, cache_hits={(): hits})
        sums = sums_of(stage.totals)
    assert (sums["reads"], sums["cache_hits"]) == ({(): 13}, {(): 10})


def test_a_data_set_that_fails_gives_its_last_numbers() -> None:
    """Its counters and gauges stay as they were, its errors are counted, and it comes back when it can."""
    stage = Stage()
    bad = stage.open("bad", reads(5, cache_entries={(): 3}))
    stage.open("good", reads(1))
    collector = Collector(stage.totals)
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


def test_a_data_set_that_always_failed_has_errors() -> None:
    """One that always failed has only the number of its errors."""
    stage = Stage()
    stage.open("bad", {}).error = RuntimeError("never worked")
    found = numbers(Collector(stage.totals))
    assert found.of("scrape_errors_total", dataset="bad") == 1
    assert found.total("reads_total") == 0


def test_a_reading_of_another_shape_is_an_error() -> None:
    """Label values that do not fit their family are refused; a family that is not in the list is left out."""
    stage = Stage()
    stage.open("odd", {"reads": {("too", "many"): 1}})
    stage.open("new", reads(1, of_tomorrow={(): 1}))
    found = numbers(Collector(stage.totals))
    assert found.of("scrape_errors_total", dataset="odd") == 1
    assert found.of("reads_total", dataset="new") == 1


def test_absent_values_are_left_out() -> None:
    """None is left out: neither 0 nor NaN is shown in its place."""
    stage = Stage()
    stage.open("data", {"cache_predicted_hit_ratio": {(): None}, "cache_entries": {(): 0}})
    found = numbers(Collector(stage.totals))
    assert found.of("cache_predicted_hit_ratio", dataset="data") is None
    assert found.of("cache_entries", dataset="data") == 0


def test_numbers_of_processes_are_combined() -> None:
    """The memory of two reader processes is added up, and the larger lag is shown."""
    stage = Stage()
    for name, memory, lag in (("a", 10, 0.5), ("b", 20, 0.25), ("c", None, None)):
        reading: dict[str, Any] = {
            "process_resident_memory_bytes": {("owner",): memory},
            "event_loop_lag_seconds": {("owner",): lag},
        }
        stage.open(name, reading)
    found = numbers(Collector(stage.totals))
    assert found.of("process_resident_memory_bytes", process="owner") == 30
    assert found.of("event_loop_lag_seconds", process="owner") == 0.5
    assert (found.of("process_resident_memory_bytes", process="trainer") or 0) > 0


def test_the_last_reading_replaces_the_one_before() -> None:
    """The last reading of a closing data set counts once, even while another of its name is open."""
    stage = Stage()
    closing = stage.open("data", reads(4))
    collector = Collector(stage.totals)
    numbers(collector)
    closing.reading = reads(6)
    stage.close(closing)
    for _ in range(2):
        assert numbers(collector).of("reads_total", dataset="data") == 6
    stage.open("data", reads(1))
    assert numbers(collector).of("reads_total", dataset="data") == 7


def test_scrapes_while_a_data_set_closes_see_its_counts_once() -> None:
    """It is not read again by a scrape that comes between its last reading and its end."""
    stage = Stage()
    collector = Collector(stage.totals)
    seen: list[float | None] = []

    class Closing(StandIn):
        def metrics_snapshot(self) -> Any:
            if len(seen) == 1:  # this is the last reading
                seen.append(numbers(collector).of("reads_total", dataset="data"))
            return super().metrics_snapshot()

    closing = Closing(reads(4))
    stage.totals.add(closing, "data")
    seen.append(numbers(collector).of("reads_total", dataset="data"))
    closing.reading = reads(5)
    stage.totals.close(closing)
    seen.append(numbers(collector).of("reads_total", dataset="data"))
    assert seen == [4, 4, 5]


def test_a_data_set_that_fails_as_it_closes_leaves_its_last_numbers() -> None:
    """Closing does not fail for its metrics."""
    stage = Stage()
    data = stage.open("data", reads(4))
    collector = Collector(stage.totals)
    numbers(collector)
    data.error = RuntimeError("gone")
    stage.close(data)
    assert numbers(collector).of("reads_total", dataset="data") == 4


def test_any_number_of_data_sets_may_come_and_go() -> None:
    """The sums keep the data sets that are dropped without being closed, however many there are."""
    stage = Stage()
    collector = Collector(stage.totals)
    for _ in range(40):
        stage.open("data", reads(1))
        numbers(collector)
        stage.drop_all()
    assert numbers(collector).of("reads_total", dataset="data") == 40


def test_names_are_given_by_the_lowest_free_number() -> None:
    """A number behind a name is never one that another data set has as its own name."""
    stage = Stage()
    for count, name in enumerate(["data", "data-2", "data", "data"], 1):
        stage.open(name, reads(count))
    found = numbers(Collector(stage.totals))
    named = {name: found.of("reads_total", dataset=name) for name in ("data", "data-2", "data-3", "data-4")}
    assert named == {"data": 1, "data-2": 2, "data-3": 3, "data-4": 4}


def test_a_loader_is_read_once_more_when_it_is_gone() -> None:
    """What can still be read of one that is no longer held counts."""
    stage, account, loader = Stage(), StandIn(), StandIn({"trainer_steps": {(): 1}})
    stage.totals.add(loader, "data", remains=account)
    collector = Collector(stage.totals)
    numbers(collector)
    account.reading = {"trainer_steps": {(): 3}}
    del loader
    assert numbers(collector).of("trainer_steps_total", dataset="data") == 3


def test_what_remains_of_a_loader_may_fail() -> None:
    """Then its last numbers count."""
    stage, account, loader = Stage(), StandIn(), StandIn({"trainer_steps": {(): 2}})
    account.error = RuntimeError("gone too")
    stage.totals.add(loader, "data", [1, 2], account)
    collector = Collector(stage.totals)
    numbers(collector)
    del loader
    assert numbers(collector).of("trainer_steps_total", dataset="data") == 2


def test_a_collector_that_is_dropped_is_gone() -> None:
    """Nothing keeps it in memory."""
    stage = Stage()
    stage.open("data", reads(1))
    collector = Collector(stage.totals)
    numbers(collector)
    gone = weakref.ref(collector)
    del collector
    gc.collect()
    assert gone() is None


class _Noted(dict[str, Any]):
    """A reading that can be referred to weakly."""


def test_last_readings_do_not_pile_up() -> None:
    """Without any scrape each counts when its data set closes or is dropped, and is not kept."""
    stage = Stage()
    held: list[weakref.ref[_Noted]] = []
    for _ in range(100):
        last = _Noted(reads(1))
        held.append(weakref.ref(last))
        stage.close(stage.open("data", last))
        del last
    assert not any(each() for each in held)
    assert numbers(Collector(stage.totals)).of("reads_total", dataset="data") == 100


def test_scrapes_at_the_same_time_agree() -> None:
    """Two threads that scrape one collector see counters that only grow."""
    stage = Stage()
    data = stage.open("data", reads(0))
    collector = Collector(stage.totals)
    with scraping(lambda: numbers(collector).total("reads_total")) as found:
        for number in range(200):
            data.reading = reads(number)
            assert numbers(collector).total("reads_total") == number
    assert found == sorted(found)


@pytest.mark.parametrize("value", [0, 1.5, [1, 2]])
def test_sums_do_not_change_what_they_add(value: Any) -> None:
    """A reading that was added is as it was."""
    stage = Stage()
    reading: MetricsSnapshot = {"source_bytes": {("a",): value}}
    for _ in range(2):
        stage.close(stage.open("data", reading))
    stage.open("data", reading)
    sums_of(stage.totals)
    assert reading == {"source_bytes": {("a",): value}}
