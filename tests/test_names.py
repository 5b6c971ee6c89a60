"""The names and calls of the system that this one replaces, each used as existing code uses it."""

import asyncio

import pytest
import torch

import streaming
from streaming.adapter import StreamingDatasetAdapter, create_streaming_dataset_from_config
from streaming.cache import AsyncPrefetcher, CacheMetrics, SmartLRUCache
from streaming.sources import (
    DataSource,
    DataSourceConfig,
    HTTPDataSource,
    LocalDataSource,
    create_data_source,
)


@pytest.fixture
def root(tmp_path):
    """Two folders of parts, as `.pt` files, one of them compressed."""
    import zstandard

    for folder in ("latents", "conditions"):
        (tmp_path / folder).mkdir()
        for i in range(4):
            torch.save({"x": torch.full((3,), float(i))}, tmp_path / folder / f"{i:04d}.pt")
    plain = tmp_path / "latents" / "0002.pt"
    plain.with_suffix(".pt.zst").write_bytes(zstandard.compress(plain.read_bytes()))
    plain.unlink()
    return tmp_path


def test_every_public_name_is_importable_from_the_root():
    """`streaming.X` is what its module defines, and dir() shows it."""
    for name in streaming.__all__:
        assert getattr(streaming, name).__name__ == name
        assert name in dir(streaming)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = streaming.Nonsense  # type: ignore[attr-defined]


async def test_sources_are_configured_read_and_listed(root):
    """DataSourceConfig by position, create_data_source, list_files, fetch_file, prefetch_files, async with."""
    config = DataSourceConfig("data", "local", str(root), None)
    assert (config.name, config.source_type, config.path_or_uri, config.credentials) == (
        "data",
        "local",
        str(root),
        None,
    )
    async with create_data_source(config) as source:
        assert isinstance(source, LocalDataSource)
        assert isinstance(source, DataSource)
        files = await source.list_files("latents/")
        assert files == sorted(files)
        assert len(files) == 4
        assert torch.equal((await source.fetch_file("latents/0001.pt"))["x"], torch.ones(3))
        assert torch.equal((await source.fetch_file("latents/0002.pt"))["x"], torch.full((3,), 2.0))
        assert isinstance(await source.fetch_file("latents/0001.pt", decompress=False), bytes)
        await source.prefetch_files(files)
    assert isinstance(create_data_source(DataSourceConfig("web", "http", "http://127.0.0.1:1/")), HTTPDataSource)


async def test_the_cache_is_put_read_prefetched_and_counted():
    """Every method and key of SmartLRUCache, awaited as old code awaits them."""
    cache = SmartLRUCache(max_size_gb=0.01, max_ttl_seconds=60, compression_type="zstd", prefetch_ahead=4)
    await cache.put("a", {"x": torch.arange(4)}, compress=True)
    await cache.put("b", [1, 2], compress=False)
    assert torch.equal((await cache.get("a"))["x"], torch.arange(4))
    assert await cache.get("absent") is None

    async def fetch(key):
        if key == "bad":
            raise OSError("planted")
        return key * 2

    assert await cache.prefetch(["c", "bad"], fetch) == {"c": True, "bad": False}
    assert await cache.get("c") == "cc"
    metrics = cache.get_metrics()
    assert isinstance(metrics, CacheMetrics)
    assert (metrics.hits, metrics.misses, metrics.evictions, metrics.prefetch_hits) == (2, 1, 0, 1)
    assert metrics.hit_rate == pytest.approx(2 / 3)
    assert metrics.total_bytes_saved >= 0
    stats = cache.get_cache_stats()
    assert (stats["num_items"], stats["total_hits"], stats["total_misses"]) == (3, 2, 1)
    assert stats["max_size_gb"] == 0.01
    cache.reset_metrics()
    assert cache.get_metrics().hits == 0
    await cache.clear()
    cache.clear()
    assert cache.get_cache_stats()["num_items"] == 0


def test_an_unknown_compression_is_a_value_error():
    """The error is the same as before."""
    with pytest.raises(ValueError, match="gzip"):
        SmartLRUCache(compression_type="gzip")


async def test_the_prefetcher_fills_a_cache():
    """start, queue_item, get and stop over a real cache, with and without await."""
    cache = SmartLRUCache(max_size_gb=0.01)

    async def fetch(key):
        await asyncio.sleep(0)
        return {"key": key}

    prefetcher = AsyncPrefetcher(cache, fetch, queue_size=10)
    await prefetcher.start()
    prefetcher.start()
    for key in ("a", "b"):
        await prefetcher.queue_item(key)
    assert await prefetcher.get("a") == {"key": "a"}
    assert await prefetcher.get("b") == {"key": "b"}
    assert await cache.get("a") == {"key": "a"}
    await prefetcher.stop()
    prefetcher.stop()


async def test_the_adapter_is_made_and_used_as_before(root):
    """Every argument, method and key that existing trainers use."""
    adapter = StreamingDatasetAdapter(
        sources=[DataSourceConfig("data", "local", str(root))],
        data_mapping={"latents": "latent_conditions", "conditions": "text_conditions"},
        cache_size_gb=0.1,
        max_ttl_seconds=3600,
        prefetch_ahead=2,
        enable_prefetch=True,
        compression_type="zstd",
    )
    with adapter:
        assert len(adapter) == 4
        await adapter.start_prefetch_worker()
        await adapter.prefetch_batch([0, 1])
        sample = adapter[2]
        assert set(sample) == {"latent_conditions", "text_conditions", "idx"}
        assert torch.equal(sample["latent_conditions"]["x"], torch.full((3,), 2.0))
        keys = "num_items current_size_gb max_size_gb hit_rate total_hits total_misses total_evictions prefetch_hits"
        assert {*keys.split(), "compression_savings_gb"} <= set(adapter.get_cache_stats())
        adapter.reset_metrics()
        assert adapter.get_cache_stats()["total_misses"] == 0
        await adapter.stop_prefetch_worker()
        await adapter.clear_cache()
        assert adapter.get_cache_stats()["num_items"] == 0


def test_a_dict_makes_an_adapter(root):
    """create_streaming_dataset_from_config and from_config with a list as mapping and the short names of a source."""
    settings = {
        "sources": [{"name": "data", "type": "local", "path": str(root)}],
        "data_mapping": ["latents", "conditions"],
        "cache_size_gb": 0.1,
    }
    for make in (create_streaming_dataset_from_config, StreamingDatasetAdapter.from_config):
        with make(settings) as adapter:
            assert set(adapter[0]) == {"latents", "conditions", "idx"}
