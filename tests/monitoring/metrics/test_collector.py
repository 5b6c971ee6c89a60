"""The collector over real adapters and loaders: names, sums, and that counters never go back."""

from __future__ import annotations

import gc
import itertools
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from torch.utils.data import DataLoader, Subset

from streaming.adapter import StreamingDatasetAdapter
from streaming.loader.data_loader import StreamingDataLoader
from streaming.monitoring.metrics import Collector, metrics_registry
from streaming.monitoring.metrics.families import FAMILIES, VALUES
from streaming.telemetry.stalls import monitor_stalls
from tests.monitoring.metrics.parts import COUNT, NBYTES, Numbers, memory_source, numbers, scraping
from tests.prometheus import promtool

__all__ = ["promtool"]


@pytest.fixture
def registry() -> CollectorRegistry:
    """A registry of its own for each test."""
    return metrics_registry(CollectorRegistry())


def test_what_was_read_is_counted(registry: CollectorRegistry) -> None:
    """Reads, fetches, bytes, requests and batches are those of the adapter and the loader."""
    with StreamingDatasetAdapter(memory_source()) as adapter:
        loader = StreamingDataLoader(adapter, 4)
        for _ in loader:
            pass
        found = numbers(registry)
        labels = {"dataset": "data"}
        assert found.of("reads_total", **labels) == COUNT
        assert found.of("fetched_objects_total", **labels) == COUNT
        assert found.of("fetched_bytes_total", **labels) == COUNT * NBYTES
        assert found.of("dataset_samples", **labels) == COUNT
        assert found.of("source_requests_total", source="data", outcome="ok", **labels) == COUNT
        assert found.of("source_bytes_total", source="data", **labels) == COUNT * NBYTES
        assert found.of("loader_batches_total", **labels) == COUNT / 4
        assert found.of("loader_samples_total", **labels) == COUNT
        assert found.of("loader_epoch", **labels) == 1
        assert found.of("trainer_steps_total", **labels) == COUNT / 4
        assert found.of("scrape_errors_total", **labels) == 0


def test_every_name_and_label_is_of_the_list(registry: CollectorRegistry) -> None:
    """Nothing is exposed that the list of families does not have, each with its kind, its labels and known values."""
    exposed = {family.name: family for family in FAMILIES}
    with StreamingDatasetAdapter(memory_source()) as adapter:
        loader = StreamingDataLoader(adapter, 4)
        list(loader)
        for metric in registry.collect():
            family = exposed[metric.name + ("_total" if metric.type == "counter" else "")]
            assert (metric.type, metric.documentation) == (family.kind, family.help)
            for sample in metric.samples:
                extra = {"le"} if sample.name.endswith("_bucket") else set()
                assert set(sample.labels) == {*family.labels, "rank", *extra}
                assert all(sample.labels[label] in VALUES[label] for label in VALUES.keys() & sample.labels.keys())


def test_promtool_finds_no_fault(
    registry: CollectorRegistry,
    promtool: Callable[..., Any],  # this test is skipped without it
) -> None:
    """The exposition parses, and keeps to the conventions for names, units and help texts."""
    with StreamingDatasetAdapter(memory_source()) as adapter:
        loader = StreamingDataLoader(adapter, 4)
        list(loader)
        text = generate_latest(registry).decode()

    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_buckets_are_cumulative(registry: CollectorRegistry) -> None:
    """Each bucket holds those below it; the last is the count, and that the requests that were answered."""
    with StreamingDatasetAdapter(memory_source()) as adapter:
        adapter.__getitems__(range(COUNT))
        [durations] = [m for m in registry.collect() if m.name == "streaming_source_request_duration_seconds"]
    buckets = [sample.value for sample in durations.samples if sample.name.endswith("_bucket")]
    [count] = [sample.value for sample in durations.samples if sample.name.endswith("_count")]
    [seconds] = [sample.value for sample in durations.samples if sample.name.endswith("_sum")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == count == COUNT
    assert seconds > 0


def test_what_a_closed_adapter_counted_stays(registry: CollectorRegistry) -> None:
    """The sums of a name outlive its data set, up to its last read, and the next one continues from there."""
    for round_ in (1, 2, 3):
        with StreamingDatasetAdapter(memory_source(), name="train") as adapter:
            adapter.__getitems__(range(COUNT - 1))
            assert numbers(registry).of("reads_total", dataset="train") == round_ * COUNT - 1
            assert adapter[COUNT - 1]["idx"] == COUNT - 1  # after the last scrape
        found = numbers(registry)
        assert found.of("reads_total", dataset="train") == round_ * COUNT
        assert found.of("cache_entries", dataset="train") is None


def test_an_adapter_that_no_scrape_saw_is_counted(registry: CollectorRegistry) -> None:
    """What opens and closes between two scrapes is counted, also next to an open one of the same name."""
    with StreamingDatasetAdapter(memory_source()) as first:
        assert first[0]["idx"] == 0
    assert numbers(registry).of("reads_total", dataset="data") == 1
    with StreamingDatasetAdapter(memory_source()) as other:
        with StreamingDatasetAdapter(memory_source()) as second:
            second.__getitems__([0, 1])
        assert other[0]["idx"] == 0
        found = numbers(registry)
    assert found.of("reads_total", dataset="data") == 4
    assert found.of("reads_total", dataset="data-2") is None


def test_open_adapters_of_one_name_get_numbers(registry: CollectorRegistry) -> None:
    """The later one gets the lowest free number; its loaders use that name too; a freed name is used again."""
    first = StreamingDatasetAdapter(memory_source())
    first.__getitems__(range(1))
    numbers(registry)
    with StreamingDatasetAdapter(memory_source()) as second:
        second.__getitems__(range(2))
        loader = StreamingDataLoader(second, 6)
        list(loader)
        found = numbers(registry)
        assert found.of("reads_total", dataset="data") == 1
        assert found.of("reads_total", dataset="data-2") == 2 + COUNT
        assert found.of("loader_batches_total", dataset="data-2") == 2
        first.close()
        with StreamingDatasetAdapter(memory_source()) as third:
            third.__getitems__(range(3))
            found = numbers(registry)
            assert found.of("reads_total", dataset="data") == 1 + 3
            assert found.of("reads_total", dataset="data-2") == 2 + COUNT


def test_a_reset_of_an_adapter_does_not_show(registry: CollectorRegistry) -> None:
    """After `reset_metrics` counters continue from where they were."""
    with StreamingDatasetAdapter(memory_source()) as adapter:
        adapter.__getitems__(range(COUNT))
        before = numbers(registry)
        adapter.reset_metrics()
        adapter.__getitems__(range(5))
        after = numbers(registry)
    assert after.of("reads_total", dataset="data") == COUNT + 5
    _check_never_back(before, after)


def test_an_adapter_that_was_dropped_leaves_its_counts(registry: CollectorRegistry) -> None:
    """Without `close` the numbers of the last scrape stay in the sums."""
    adapter = StreamingDatasetAdapter(memory_source())
    assert adapter[0]["idx"] == 0
    before = numbers(registry)
    del adapter
    gc.collect()
    after = numbers(registry)
    assert after.of("reads_total", dataset="data") == 1
    assert after.of("cache_entries", dataset="data") is None
    _check_never_back(before, after)


def test_loaders_of_one_data_set_are_added_up(registry: CollectorRegistry) -> None:
    """A loader of each epoch, and one of torch that is watched, count together, also those that are gone."""
    with StreamingDatasetAdapter(memory_source()) as adapter:
        for epoch in (1, 2):
            loader = StreamingDataLoader(adapter, 4)
            list(loader)
            assert numbers(registry).of("trainer_steps_total", dataset="data") == epoch * 3
            del loader
            gc.collect()
        watched = monitor_stalls(DataLoader(adapter, batch_size=2, sampler=adapter.look_ahead(range(COUNT))))
        for _ in itertools.islice(watched, 4):
            pass
        found = numbers(registry)
        assert found.of("trainer_steps_total", dataset="data") == 6 + 4
        assert found.of("loader_samples_total", dataset="data") == 2 * COUNT


def test_a_loader_that_ends_between_scrapes_loses_no_step(registry: CollectorRegistry) -> None:
    """What the trainer did since the last scrape counts, though the loader is gone at the next."""
    with StreamingDatasetAdapter(memory_source()) as adapter:
        loader = StreamingDataLoader(adapter, 4)
        numbers(registry)
        list(loader)
        del loader
        gc.collect()
        assert numbers(registry).of("trainer_steps_total", dataset="data") == 3


class _Nameless(list[int]):
    """A data set whose name fails."""

    @property
    def name(self) -> str:
        raise RuntimeError("no name")


def test_loaders_of_any_data_set_are_counted(registry: CollectorRegistry) -> None:
    """A list has the name "data"; one whose name fails has no numbers; a part of an adapter has its name."""
    with StreamingDatasetAdapter(memory_source(), name="train") as adapter:
        of_list = monitor_stalls(DataLoader([1, 2, 3]))  # type: ignore[arg-type]
        nameless = monitor_stalls(DataLoader(_Nameless([1])))  # type: ignore[arg-type]
        of_part = monitor_stalls(DataLoader(Subset(adapter, [0, 1])))
        for loader in (of_list, nameless, of_part):
            list(loader)
        found = numbers(registry)
    assert found.of("trainer_steps_total", dataset="data") == 3
    assert found.of("trainer_steps_total", dataset="train") == 2
    assert found.total("trainer_steps_total") == 5


def test_two_collectors_agree(registry: CollectorRegistry) -> None:
    """One more registry, or one more scrape, changes no number."""
    other = metrics_registry(CollectorRegistry())
    for _ in range(2):
        with StreamingDatasetAdapter(memory_source()) as adapter:
            adapter.__getitems__(range(COUNT))
            numbers(registry)
            assert numbers(other).total("reads_total") == numbers(registry).total("reads_total")
    assert (
        numbers(other).total("source_requests_total") == numbers(registry).total("source_requests_total") == 2 * COUNT
    )


def test_a_registry_has_one_collector() -> None:
    """Asked for twice, or with a collector that the user registered, a registry is left as it is."""
    mine = CollectorRegistry()
    mine.register(Collector(rank=7))
    assert metrics_registry(mine) is metrics_registry(mine) is mine
    assert metrics_registry() is metrics_registry()
    [info] = [metric for metric in mine.collect() if metric.name == "streaming_build_info"]
    assert [sample.labels["rank"] for sample in info.samples] == ["7"]


def test_the_rank_is_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the variable RANK at the moment of the scrape, unless it was given."""
    monkeypatch.setenv("RANK", "3")
    collector = Collector()
    assert {labels for (_, labels) in numbers(collector) if ("rank", "3") not in labels} == set()
    monkeypatch.delenv("RANK")
    assert numbers(collector).of("start_time_seconds") is not None
    monkeypatch.setenv("RANK", "3")
    assert numbers(Collector(rank=1))[("streaming_start_time_seconds", frozenset({("rank", "1")}))]


def test_no_time_is_measured_by_a_clock_that_may_be_set(registry: CollectorRegistry) -> None:
    """The wall clock is read once; later changes to it have no effect."""
    collector = Collector(clock=iter([5.0]).__next__)
    for _ in range(3):
        found = numbers(collector)
        assert found.of("start_time_seconds") == 5.0
        assert 0 <= (found.of("scrape_duration_seconds") or 0.0)


def test_closing_while_scraped_loses_nothing(registry: CollectorRegistry) -> None:
    """With a scrape at every moment adapters open, read and close; no counter goes back and none is counted twice."""
    with scraping(lambda: numbers(registry)) as found:
        for _ in range(20):
            with StreamingDatasetAdapter(memory_source()) as adapter:
                adapter.__getitems__(range(COUNT))
    for before, after in itertools.pairwise(found):
        _check_never_back(before, after)
    last = numbers(registry)
    assert last.total("reads_total") == last.total("source_requests_total", outcome="ok") == 20 * COUNT


def _check_never_back(before: Numbers, after: Numbers) -> None:
    endings = ("_total", "_bucket", "_count", "_sum")
    for (name, labels), value in before.items():
        if name.endswith(endings):
            assert after[(name, labels)] >= value, (name, labels)
