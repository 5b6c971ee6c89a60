"""The public names as a user's type checker sees them; `test_public_types.py` runs mypy over this file.

Nothing here is run. Under `mypy --strict` an `assert_type` fails when a type changes, and a `type: ignore` that is not
needed any more is an error: it fails when what it refuses becomes `Any`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Iterator
from pathlib import Path
from typing import Any, assert_type

from torch import Tensor
from torch.utils.data import DataLoader

import streaming
from streaming import (
    AsyncPrefetcher,
    CacheMetrics,
    DataSource,
    DataSourceConfig,
    GCSDataSource,
    HTTPDataSource,
    HuggingFaceDataSource,
    LocalDataSource,
    MemorySource,
    MixedDataset,
    PackCollate,
    S3DataSource,
    SequencePacking,
    SmartLRUCache,
    StreamingDataLoader,
    StreamingDatasetAdapter,
    StreamingError,
    StreamingSampler,
    TokenBudgetBatching,
    create_data_source,
    create_streaming_dataset_from_config,
    monitor_stalls,
    start_metrics_server,
)
from streaming.sources import Blob, FileInfo


class ZipSource(DataSource):
    """A source of a user's own: three methods."""

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        return Blob(b"", etag=None, size=0, version=None, source=self.name)

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        yield FileInfo("a", 1)

    async def aclose(self) -> None:
        assert_type(self.config, DataSourceConfig)


class Incomplete(DataSource):
    async def read(self, path: str) -> bytes:  # type: ignore[override]
        return b""


async def sources(root: Path) -> None:
    config = DataSourceConfig("data", "local", root, credentials={"token": "t"}, timeout_s=5)
    assert_type(config.name, str)
    assert_type(config.mirrors, list[DataSourceConfig])
    assert_type(config.timeout_s, float)
    assert_type(DataSourceConfig.from_url("s3://bucket/data"), DataSourceConfig)
    DataSourceConfig("data", "local")  # type: ignore[call-arg]
    Incomplete(config)  # type: ignore[abstract]
    kinds = (LocalDataSource, HTTPDataSource, S3DataSource, GCSDataSource, HuggingFaceDataSource, ZipSource)
    for kind in kinds:
        kind(config)
        kind("data")  # type: ignore[arg-type]
    memory = MemorySource("memory", {"a": b"1"})
    assert_type(memory.reads["a"], int)
    memory.put("b", 1)  # type: ignore[arg-type]
    async with create_data_source(config) as source:
        assert_type(source, DataSource)
        assert_type(await source.read("a", 0, 10), Blob)
        assert_type(await source.list_files(), list[str])
        assert_type(await source.fetch_file("a.pt", decompress=True), Any)
        assert_type(await source.prefetch_files(["a"]), dict[str, bool])
        assert_type([info async for info in source.iter_files("a/")], list[FileInfo])
    create_data_source(1)  # type: ignore[arg-type]


async def fetch(key: str) -> bytes:
    return key.encode()


async def cache() -> None:
    samples = SmartLRUCache(max_size_gb=1.5, max_ttl_seconds=None, compression_type="zstd", prefetch_ahead=4)
    assert_type(await samples.get("a"), Any)
    assert_type(await samples.put("a", 1, compress=True), bool)
    assert_type(await samples.prefetch(["a"], fetch), dict[Hashable, bool])
    assert_type(samples.get_metrics(), CacheMetrics)
    assert_type(samples.get_metrics().hits, int)
    assert_type(samples.get_metrics().hit_rate, float)
    assert_type(samples.get_cache_stats(), dict[str, Any])
    assert_type(await samples.clear(), None)
    SmartLRUCache(max_size_gb="1")  # type: ignore[arg-type]
    prefetcher = AsyncPrefetcher(samples, fetch, queue_size=10)
    assert_type(await prefetcher.start(), None)
    assert_type(await prefetcher.queue_item("a"), None)
    assert_type(await prefetcher.get("a"), Any)
    assert_type(await prefetcher.stop(), None)
    AsyncPrefetcher(samples, len)  # type: ignore[arg-type]


async def adapter(root: Path) -> StreamingDatasetAdapter:
    with StreamingDatasetAdapter(str(root), ["latents"], cache_size_gb=1, prefetch_ahead=None) as dataset:
        assert_type(dataset, StreamingDatasetAdapter)
        assert_type(len(dataset), int)
        assert_type(dataset[0], Any)  # a sample is a dict, or what `transform` returns
        assert_type(dataset.prefetch_batch([0, 1]).result(1.0), None)
        assert_type(await dataset.prefetch_batch([0, 1]), None)
        assert_type(await dataset.start_prefetch_worker(), None)
        assert_type(await dataset.stop_prefetch_worker(), None)
        assert_type(await dataset.clear_cache(), None)
        assert_type(dataset.get_cache_stats(), dict[str, Any])
        assert_type(dataset.fingerprint, str)
        dataset["a"]  # type: ignore[index]
    assert_type(StreamingDatasetAdapter.from_config({"sources": [root]}), StreamingDatasetAdapter)
    return create_streaming_dataset_from_config({"sources": [root]})


def loaders(dataset: StreamingDatasetAdapter) -> None:
    loader = StreamingDataLoader(dataset, 8, shuffle=True, num_workers=2)
    assert_type(loader.state_dict(), dict[str, Any])
    assert_type(loader.load_state_dict(loader.state_dict()), None)
    assert_type(iter(loader), Iterator[Any])
    assert_type(len(loader), int)
    assert_type(loader.epoch, int)
    StreamingDataLoader(dataset, "8")  # type: ignore[arg-type]
    sampler = StreamingSampler(dataset, seed=1)
    assert_type(sampler.state_dict(), dict[str, Any])
    assert_type(sampler.rank, int)
    sampler.set_epoch("1")  # type: ignore[arg-type]
    plain: DataLoader[Any] = DataLoader(dataset, sampler=sampler)
    assert_type(iter(monitor_stalls(plain)), Iterator[Any])
    assert_type(monitor_stalls(plain).stalls.share, float)


def groups(dataset: StreamingDatasetAdapter) -> None:
    mixed = MixedDataset({"a": dataset, "b": dataset}, weights={"a": 0.3, "b": 0.7})
    assert_type(len(mixed), int)
    assert_type(mixed[0], Any)
    assert_type(mixed.get_cache_stats(), dict[str, dict[str, Any]])
    MixedDataset([dataset])  # type: ignore[arg-type]
    for batching in (TokenBudgetBatching([1, 2], 8), SequencePacking([1, 2], 8, method="first-fit")):
        loader = StreamingDataLoader(mixed, batching=batching, collate_fn=PackCollate(8))
        if loader.plan is not None:
            assert_type(loader.plan.padding(0), float)
    assert_type(PackCollate(8)([[{"input_ids": [1]}]]), dict[str, Tensor])
    TokenBudgetBatching([1, 2])  # type: ignore[call-arg]


def metrics() -> None:
    with start_metrics_server(8000, addr="127.0.0.1") as server:
        assert_type(server.port, int | None)
        assert_type(server.url, str | None)
    start_metrics_server("8000")  # type: ignore[arg-type]


def errors(error: StreamingError) -> None:
    assert_type(error.path, str | None)
    assert_type(error.source, str | None)
    assert_type(error.retryable, bool)
    streaming.Nonsense  # type: ignore[attr-defined]  # noqa: B018
