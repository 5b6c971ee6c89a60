"""`StreamingDatasetAdapter`: a map-style PyTorch data set over streamed sources."""

from __future__ import annotations

import operator
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self, SupportsIndex

from torch.utils.data import Dataset, get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from streaming.cache.batch import Sample
from streaming.cache.rows import collate_rows
from streaming.cache.sample import SmartLRUCache
from streaming.core.adapter_config import AdapterConfig, load_config
from streaming.core.config_reference import documents_settings
from streaming.core.ranks import ranks_of_node
from streaming.core.runtime import Done, Pending, current_runtime
from streaming.engine.forks import follow_forks, inherited
from streaming.engine.open import open_reader
from streaming.engine.order_tokens import OrderTokens
from streaming.engine.transform import Transform
from streaming.errors import ClosedError, StreamingError
from streaming.index import Changes, SampleIndex
from streaming.link.messages import is_spawning
from streaming.link.sample_reader import SampleReader
from streaming.link.worker import Worker
from streaming.prefetch.lookahead import LookAhead
from streaming.telemetry.counters import MetricsSnapshot
from streaming.telemetry.totals import TOTALS

__all__ = ["StreamingDatasetAdapter", "create_streaming_dataset_from_config"]

default_collate_fn_map[Sample] = collate_rows  # a DataLoader without `collate_fn` then copies each sample once


@documents_settings(AdapterConfig)
class StreamingDatasetAdapter(Dataset[Any]):
    """Samples matched by name over one or more sources, as a map-style data set.

    A sample is a dict with one entry per mapped key, as it was stored, plus `idx`, its position. Each read returns the
    caller's own copy. The process that makes the adapter does all input; DataLoader workers (fork, spawn, forkserver)
    read through it, share its cache and open no client.

    The arguments are the settings of `AdapterConfig`, which describes them, and two functions.

    Args:
        prepare: deterministic `prepare(sample) -> sample`, run once per fetch, before the cache.
        transform: `transform(sample)` or `transform(sample, generator)`, run at each read on the reader's own copy. The
            `torch.Generator` is seeded by (seed, epoch, position) under a `StreamingDataLoader`, a `StreamingSampler`
            or `look_ahead`, and by (seed, n, position) at the n-th read of a sample, from 0, under any other loader.

    Raises:
        ConfigError: a setting that cannot be used, or a mapping to an unknown source.
        IndexBuildError: the samples cannot be matched (`MissingPart`, `DuplicateName`).
        SourceError: a source cannot be listed.
    """

    def __init__(
        self,
        sources: Any,
        data_mapping: Mapping[str, str] | Sequence[str] | None = None,
        cache_size_gb: float = 10.0,
        max_ttl_seconds: float | None = None,
        prefetch_ahead: int | None = None,
        enable_prefetch: bool = True,
        compression_type: str = "zstd",
        *,
        prepare: Callable[[Any], Any] | None = None,
        transform: Callable[..., Any] | None = None,
        missing: str = "raise",
        rename: Mapping[str, str] | None = None,
        index_path: str | os.PathLike[str] | None = None,
        index_is_shared: bool = False,
        refresh: str = "background",
        policy: str = "auto",
        concurrency: int | None = None,
        decode_threads: int | None = None,
        max_object_bytes: int | str = 8 * 10**9,
        resilience: Mapping[str, Any] | None = None,
        owner: str = "thread",
        seed: int = 0,
        on_error: str = "raise",
        quarantine_path: str | os.PathLike[str] | None = None,
        max_bad_share: float = 0.01,
        name: str = "data",
    ) -> None:
        given = locals()
        self._config: AdapterConfig | None = AdapterConfig(**{name: given[name] for name in AdapterConfig.model_fields})
        self._name = name
        self._prepare = prepare
        self._transform = None if transform is None else Transform(transform, seed)
        self._seed = seed
        self._start()
        self._open()

    def _start(self) -> None:
        """Initialise what is not configuration, in a new object and in an unpickled one."""
        self._reader: SampleReader | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._orders = OrderTokens()
        self._reads_ahead = self._config is not None and self._config.enable_prefetch
        self._length = 0
        self._is_closed = False
        self._opening = threading.Lock()
        follow_forks(self)

    @classmethod
    def from_config(cls, config: AdapterConfig | Mapping[str, Any] | str | os.PathLike[str], **overrides: Any) -> Self:
        """Return an adapter from a dict, or a YAML or JSON file, with the names of the constructor's arguments."""
        settings = load_config(config)
        arguments = {name: getattr(settings, name) for name in type(settings).model_fields}
        return cls(**{**arguments, **overrides})

    # -- reading

    def __len__(self) -> int:
        self._open()
        return self._length

    def __getitem__(self, index: SupportsIndex) -> Any:
        if self._transform is not None:
            return self.__getitems__([index])[0]
        reader = self._reader or self._open()
        try:
            return reader.read(self._position(index))
        except StreamingError as error:
            if get_worker_info() is not None:
                error.note_attributes()  # torch passes only the text to the training process
            raise

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> list[Any]:
        """Return several samples, as DataLoader reads them; missing ones are fetched together."""
        try:
            return self._read(indices)
        except StreamingError as error:
            if get_worker_info() is not None:
                error.note_attributes()
            raise

    def _read(self, indices: Sequence[SupportsIndex]) -> list[Any]:
        reader = self._reader or self._open()
        positions = [self._position(index) for index in indices]
        if self._transform is None:
            return reader.read_many(positions)
        return self._transform.read_many(reader, positions, indices)

    def _position(self, index: SupportsIndex) -> int:
        position = operator.index(index)
        if position < 0:
            position += self._length
        if not 0 <= position < self._length:
            raise IndexError(f"index {index} is out of range: the data set has {self._length} samples")
        return position

    # -- reading ahead

    def look_ahead(self, sampler: Iterable[Any]) -> LookAhead:
        """Wrap a sampler or batch sampler, in its own order, so that its samples are read ahead.

        Use the result instead of the sampler: `DataLoader(adapter, sampler=...)`.
        """
        self._open()
        return LookAhead(sampler, self)

    def announce(self, indices: Iterable[SupportsIndex], order: object) -> None:
        """Announce which samples will be read next, in order, so that they are read ahead.

        Announcements under one `order` (any object that stays alive meanwhile) continue each other. In a DataLoader
        worker this does nothing: the process that made the loader announces.
        """
        reader = self._open()
        if self._reads_ahead and reader.announces:
            reader.announce([self._position(index) for index in indices], self._orders.of(order))

    def forget(self, order: object) -> None:
        """Forget what was announced under this `order` and was not read."""
        token = self._orders.pop(order)
        if token is not None and self._reader is not None:
            self._reader.forget(token)

    def prefetch_batch(self, indices: Iterable[SupportsIndex]) -> Done[None] | Pending[None]:
        """Load samples into the cache in the background, where their first read counts as a prefetch hit.

        At most `prefetch_ahead` of them are unread; the others follow as these are read. Awaiting the result waits for
        those that may be loaded now.
        """
        reader = self._open()
        positions = [self._position(index) for index in indices]
        if not self._reads_ahead or not reader.announces:
            return Done(None)
        return Pending(current_runtime().submit(reader.fetch(positions)))

    def start_prefetch_worker(self) -> Done[None]:
        """Resume reading ahead after `stop_prefetch_worker`. With or without `await`."""
        self._reads_ahead = True
        return Done(None)

    def stop_prefetch_worker(self) -> Done[None]:
        """Stop reading ahead in this process and drop what was announced; samples are then fetched when they are read.

        With or without `await`. Other processes that share the cache continue.
        """
        self._reads_ahead = False
        tokens = self._orders.pop_all()
        if self._reader is not None:
            for token in tokens:
                self._reader.forget(token)
            self._reader.stop_fetching()
        return Done(None)

    # -- numbers

    @property
    def index(self) -> SampleIndex:
        """The index, which maps samples to bytes of objects."""
        return self._open().index

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the samples: depends on names, sizes and validators, not on where the sources are."""
        return self._open().fingerprint

    @property
    def seed(self) -> int:
        """Seed of the order and of the generators that `transform` gets."""
        return self._seed

    @property
    def reads(self) -> int:
        """Samples that all processes that share the cache have read since the last `reset_metrics`."""
        return self._open().reads

    @property
    def draws(self) -> bool:
        """Whether `transform` takes a generator, so that a sample differs between epochs."""
        return self._transform is not None and self._transform.takes_generator

    @property
    def name(self) -> str:
        """Name of this data set in metrics and on dashboards."""
        return self._name

    @property
    def cache(self) -> SmartLRUCache:
        """The sample cache; its keys are positions.

        Raises:
            ConfigError: the cache is in another process: with `owner="process"`, and in children of the process that
                made the adapter.
        """
        return self._open().cache

    def get_cache_stats(self) -> dict[str, Any]:
        """Return what the cache holds and what reading has cost since the last `reset_metrics`.

        `hit_rate` is the share of reads that needed no fetch, ahead of time or on demand, by all processes that share
        the cache; `prefetch_hits` are the reads that found their sample fetched ahead of time.
        """
        return self._open().stats()

    def metrics_snapshot(self) -> MetricsSnapshot:
        """Return the current numbers as metrics: `{family: {label values: number}}`, without the label `dataset`.

        `streaming.monitoring.metrics.families` describes the families. Safe in any thread.

        Raises:
            ClosedError: the adapter was closed.
            EngineGoneError: the process that reads for this one has ended.
        """
        return self._open().metrics_snapshot()

    def reset_metrics(self) -> None:
        """Set every count back to zero; the cache keeps its samples."""
        self._open().reset_metrics()

    def clear_cache(self) -> Done[None]:
        """Drop every cached sample. With or without `await`."""
        self._open().clear()
        return Done(None)

    def refresh_index(self) -> Changes:
        """List the sources now and, if they changed, save the new index at `index_path` for the next start.

        This adapter keeps the index, and so the order, that it began with: added samples are not in it, and changed or
        removed ones are refused when they are read.

        Raises:
            IndexBuildError, SourceError: as in the constructor.
            OSError: the index cannot be saved.
        """
        return self._open().refresh_index()

    # -- opening, closing, other processes

    def _open(self) -> SampleReader:
        if self._reader is None:
            with self._opening:
                if self._is_closed:
                    raise ClosedError("this adapter was closed; make a new one to read again")
                if self._reader is None:
                    reader = self._open_reader()
                    TOTALS.add(reader, self._name, self)
                    self._reader = reader
        return self._reader

    def _open_reader(self) -> SampleReader:
        config = self._config
        assert config is not None  # only workers have no configuration, and they have a reader
        worker = get_worker_info()
        # An adapter first used inside a DataLoader worker has an engine of its own, with its share of the budget.
        shares = ranks_of_node() * (worker.num_workers if worker else 1)
        reader = open_reader(config, self._prepare, shares)
        self._length = reader.length
        self._finalizer = reader.close_with(self)
        return reader

    def close(self) -> None:
        """Stop reading, close the link to workers and the sources, and free the cache. Idempotent."""
        self._is_closed = True  # first: no other thread opens it again
        reader, self._reader = self._reader, None
        if self._finalizer is not None:
            self._finalizer.detach()
        if reader is not None:
            TOTALS.close(reader)
            reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Return the link to this process for a child that is being started, else the configuration."""
        state: dict[str, Any] = {"seed": self._seed, "transform": self._transform, "name": self._name}
        if is_spawning() and not self._is_closed:
            reader = self._open()
            return {**state, "handle": reader.handle(), "length": self._length, "reads_ahead": self._reads_ahead}
        if self._config is None:
            raise ClosedError(
                "an adapter that reads through another process cannot be copied; pickle the one it came from"
            )
        return {**state, "config": self._config, "prepare": self._prepare}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._config = state.get("config")
        self._prepare = state.get("prepare")
        self._transform = state["transform"]
        self._seed = state["seed"]
        self._name = state["name"]
        self._start()
        if "handle" in state:
            self._length = state["length"]
            self._reads_ahead = state["reads_ahead"]
            self._reader = Worker(state["handle"])

    def _before_fork(self) -> None:
        """Open the link before the fork; see `streaming.engine.forks`."""
        if self._reader is not None:
            self._reader.handle()

    def _after_fork_in_child(self) -> None:
        """Read through the parent from now on; see `streaming.engine.forks`."""
        self._opening = threading.Lock()
        self._orders = OrderTokens()
        if self._finalizer is not None:
            self._finalizer.detach()
        if self._reader is not None:
            self._reader = inherited(self._reader)


def create_streaming_dataset_from_config(config: Mapping[str, Any]) -> StreamingDatasetAdapter:
    """Return an adapter from a dict; see `StreamingDatasetAdapter.from_config`."""
    return StreamingDatasetAdapter.from_config(config)
