"""Open what reads for an adapter, from its settings: sources, index, cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from streaming.cache.sample import SmartLRUCache
from streaming.core.adapter_config import AdapterConfig
from streaming.core.logs import get_logger
from streaming.core.ranks import is_first_of_node
from streaming.core.runtime import current_runtime
from streaming.engine.bad_samples import BadSamples
from streaming.engine.engine import Engine
from streaming.engine.remote import RemoteEngine
from streaming.engine.replicas import ReplicaReader, open_entries
from streaming.errors import IndexFileError
from streaming.index import SampleIndex, rules
from streaming.index.revalidation import Revalidation, refreshed
from streaming.link.sample_reader import SampleReader
from streaming.sources.base import DataSource

__all__ = ["open_engine", "open_reader"]

logger = get_logger(__name__)


def open_reader(config: AdapterConfig, prepare: Callable[[Any], Any] | None, shares: int) -> SampleReader:
    """Return the reader of an adapter: an engine in this process, or in a child process if `owner="process"`.

    For the arguments and errors see `open_engine` and `RemoteEngine`.
    """
    if config.owner == "process":
        return RemoteEngine(config, prepare, shares)
    return open_engine(config, prepare, shares)


def open_engine(config: AdapterConfig, prepare: Callable[[Any], Any] | None, shares: int = 1) -> Engine:
    """Return an engine in this process, its sources listed or its saved index opened. Blocks meanwhile.

    Args:
        config: the settings.
        prepare: see `Engine`.
        shares: number of engines that share the budget.

    Raises:
        ConfigError: a setting that cannot be used, or a mapping to an unknown source.
        IndexBuildError: the samples cannot be matched.
        SourceError: a source cannot be listed.
    """
    runtime = current_runtime()
    entries = open_entries(config.sources, config.resilience, config.max_object_bytes)
    index, revalidation = runtime.run(_load_index(config, [entry.source for entry in entries]))
    cache = SmartLRUCache(
        config.cache_size_gb / shares,
        config.max_ttl_seconds,
        config.compression_type,
        policy=config.policy,
        samples=len(index),
    )
    return Engine(
        runtime,
        ReplicaReader(entries, index),
        index,
        cache,
        prepare=prepare,
        prefetch_ahead=config.prefetch_ahead,
        concurrency=config.concurrency,
        decode_threads=config.decode_threads,
        max_bytes=config.max_object_bytes,
        bad=_bad_samples(config, len(index)),
        revalidation=revalidation,
    )


def _bad_samples(config: AdapterConfig, count: int) -> BadSamples | None:
    if config.on_error == "raise":
        return None
    return BadSamples(count, config.seed, config.quarantine_path, config.max_bad_share)


async def _load_index(config: AdapterConfig, sources: Sequence[DataSource]) -> tuple[SampleIndex, Revalidation]:
    """Return the index and its revalidation. Closes the sources on failure."""
    try:
        return await _open_index(config, sources)
    except BaseException:
        for source in sources:
            try:
                await source.aclose()
            except Exception as exc:  # the failure to open is what the caller sees
                logger.warning("source_not_closed source=%s error=%s", source.name, exc)
        raise


async def _open_index(config: AdapterConfig, sources: Sequence[DataSource]) -> tuple[SampleIndex, Revalidation]:
    """Return the index and its revalidation, which runs in the background unless the index was made just now."""
    index, is_fresh = _saved_index(config, sources), False
    if index is None:
        index, is_fresh = await _build_index(config, sources), True
    elif config.refresh == "always":
        assert config.index_path is not None
        index, is_fresh = await refreshed(index, sources, config.index_path), True
    in_background = not is_fresh and config.refresh == "background" and is_first_of_node()
    return index, Revalidation(index, sources, config.index_path, in_background)


def _saved_index(config: AdapterConfig, sources: Sequence[DataSource]) -> SampleIndex | None:
    """Return the index that was saved for this configuration; None if it is missing or cannot be used."""
    path = config.index_path
    if path is None or not path.exists():
        return None
    expected = rules(sources, data_mapping=config.data_mapping, rename=config.rename, missing=config.missing)
    try:
        return SampleIndex.open(path, expect=expected, is_shared=config.index_is_shared)
    except IndexFileError as exc:
        logger.warning("index_rebuilt path=%s reason=%s", path, exc)
        return None


async def _build_index(config: AdapterConfig, sources: Sequence[DataSource]) -> SampleIndex:
    index = await SampleIndex.build(
        sources, data_mapping=config.data_mapping, rename=config.rename, missing=config.missing
    )
    if config.index_path is not None:
        index.save(config.index_path)
    return index
