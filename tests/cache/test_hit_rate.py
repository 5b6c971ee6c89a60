"""The cache under a data loader: hits, fetches and predictions over epochs of a known order."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import numpy as np
import pytest
from torch.utils.data import DataLoader, Sampler

from streaming.adapter import StreamingDatasetAdapter
from streaming.cache.store import entry_size
from streaming.core.source_config import DataSourceConfig
from streaming.errors import ConfigError
from streaming.order.permutation import Shuffled
from streaming.testing import MemorySource

SAMPLES = 1_000
NBYTES = 4_000
SHARE = 0.5


class Epochs(Sampler[int]):
    """A new shuffle at each iteration."""

    def __init__(self) -> None:
        self._epoch = -1

    def __iter__(self) -> Iterator[int]:
        self._epoch += 1
        return iter(Shuffled(SAMPLES, 3).samples(self._epoch, 0, SAMPLES).tolist())

    def __len__(self) -> int:
        return SAMPLES


def objects() -> MemorySource:
    """Arrays of random bytes."""
    source = MemorySource(DataSourceConfig("data", "memory", "memory://hits"))
    for number in range(SAMPLES):
        buffer = io.BytesIO()
        np.save(buffer, np.random.default_rng(number).integers(0, 256, NBYTES, np.uint8))
        source.put(f"{number:04d}.npy", buffer.getvalue())
    return source


BUDGET_GB = SHARE * SAMPLES * entry_size(NBYTES + 120) / 1e9


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_the_second_epoch_hits_what_the_cache_holds(workers: int, persistent: bool) -> None:
    """In the known order of `look_ahead` the default policy hits 0.98 c, fetches nothing twice, and predicts it."""
    source = objects()
    with StreamingDatasetAdapter(source, cache_size_gb=BUDGET_GB) as adapter:
        loader = DataLoader(
            adapter,
            20,
            sampler=adapter.look_ahead(Epochs()),
            num_workers=workers,
            persistent_workers=persistent,
            multiprocessing_context="fork" if workers else None,
        )
        for epoch in range(3):
            adapter.reset_metrics()
            before = sum(source.reads.values())
            assert sorted(index for batch in loader for index in batch["idx"].tolist()) == list(range(SAMPLES))
            stats = adapter.get_cache_stats()
            reads = sum(source.reads.values()) - before
            assert reads >= SAMPLES * (1 - stats["hit_rate"]) - 1e-6
            if epoch:
                assert stats["policy"] == "retain"
                assert stats["hit_rate"] >= 0.97 * SHARE
                assert reads <= SAMPLES * (1 - 0.97 * SHARE)
                assert abs(stats["observed_hit_rate"] - stats["hit_rate"]) < 0.1
                assert abs(stats["predicted_hit_rate"] - stats["hit_rate"]) < 0.02
            assert stats["current_size_gb"] + stats["in_flight_gb"] <= stats["max_size_gb"]


def test_without_a_known_order_the_default_is_lru() -> None:
    """Reading without an announcement leaves the policy as it is, and the prediction too."""
    with StreamingDatasetAdapter(objects(), cache_size_gb=BUDGET_GB) as adapter:
        assert adapter.get_cache_stats()["predicted_hit_rate"] is None
        assert adapter.get_cache_stats()["observed_hit_rate"] is None
        for index in range(100):
            adapter[index]
        assert adapter[99]["idx"] == 99
        stats = adapter.get_cache_stats()
        assert stats["policy"] == "lru"
        assert 0.14 < stats["predicted_hit_rate"] < 0.18
        assert stats["observed_hit_rate"] == pytest.approx(1 / 101)


def test_ranks_of_a_node_share_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """`LOCAL_WORLD_SIZE` divides `cache_size_gb`; a value that is not a number of ranks is refused by name."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with StreamingDatasetAdapter(objects(), cache_size_gb=1) as adapter:
        assert adapter.get_cache_stats()["max_size_gb"] == 0.25
    for wrong in ("0", "two", "-1"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", wrong)
        with pytest.raises(ConfigError, match=f"LOCAL_WORLD_SIZE='{wrong}'"):
            StreamingDatasetAdapter(objects())


def test_settings_that_cannot_work_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A TTL below the time of an epoch and a cache of a few samples are each logged once."""
    caplog.set_level(logging.WARNING, "streaming")
    with StreamingDatasetAdapter(objects(), cache_size_gb=2e-5, max_ttl_seconds=1e-4) as adapter:
        sampler = adapter.look_ahead(Epochs())
        for _ in range(3):
            for index in sampler:
                adapter[index]
    events = [record.getMessage().split()[0] for record in caplog.records]
    assert sorted(events) == ["cache_too_small", "cache_ttl_too_short"]
