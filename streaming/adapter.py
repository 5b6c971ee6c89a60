"""`StreamingDatasetAdapter`: a map-style PyTorch data set over streamed sources."""

from __future__ import annotations

import operator
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from time import perf_counter
from typing import Any, Self, SupportsIndex

from torch.utils.data import Dataset, get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from streaming.cache.batch import Sample
from streaming.cache.rows import collate_rows
from streaming.cache.sample import SmartLRUCache
from streaming.core.config import AdapterConfig, load_config
from streaming.core.epoch_index import epoch_of
from streaming.core.ranks import ranks_of_node
from streaming.core.runtime import Done, Pending, current_runtime
from streaming.engine.engine import Engine
from streaming.engine.forks import follow_forks, inherited
from streaming.engine.open import open_engine
from streaming.engine.order_tokens import OrderNumbers
from streaming.engine.remote import RemoteEngine
from streaming.engine.transform import Transform
from streaming.errors import ClosedError, StreamingError
from streaming.index import Changes, SampleIndex
from streaming.link.messages import is_spawning
from streaming.link.worker import Worker
from streaming.prefetch.lookahead import LookAhead
from streaming.telemetry.counters import MetricsSnapshot
from streaming.telemetry.stages import ACCOUNTS, TRANSFORM
from streaming.telemetry.totals import TOTALS

__all__ = ["StreamingDatasetAdapter", "create_streaming_dataset_from_config"]

default_collate_fn_map[Sample] = collate_rows  # a DataLoader without `collate_fn` then copies each sample once


class StreamingDatasetAdapter(Dataset[Any]):
    """Samples matched by name over one or more sources, as a map-style data set.

    A sample is a dict with one entry per mapped key, as it was stored, plus `idx`, its position. Each read returns the
    caller's own copy. The process that makes the adapter does all input; DataLoader workers (fork, spawn, forkserver)
    read through it, share its cache and open no client.

    Args:
        sources: one or a list of `DataSourceConfig`, dict, URL, or `DataSource` object.
        data_mapping: `{name: key in the sample}`, or a list of names that are keys too. A name is that of a source, or
            of a folder under the roots of the sources. None is the parts that are there: the folders of
            `.precomputed/`, or of a root that has `latents` or `conditions`, or else each source. Those two then have
            the keys `latent_conditions` and `text_conditions`, others their own names. One source that holds one part
            gives it to any one name.
        cache_size_gb: hard budget of the sample cache, including what is being read, in units of 10^9 bytes. It is that
            of the node: where `LOCAL_WORLD_SIZE` says that several ranks run there, each takes its equal share.
        max_ttl_seconds: age at which a cached sample is read anew; None is never.
        prefetch_ahead: most samples read ahead of the one that is needed now (None adapts), and most that
            `prefetch_batch` has fetched and nobody has read (None is no bound).
        enable_prefetch: whether `look_ahead` and `prefetch_batch` read ahead at all.
        compression_type: "zstd" (where a trial shows that it pays) or "none".
        prepare: deterministic `prepare(sample) -> sample`, run once per fetch, before the cache.
        transform: `transform(sample)` or `transform(sample, generator)`, run at each read on the reader's own copy. The
            `torch.Generator` is seeded by (seed, epoch, position) under a `StreamingDataLoader`, a `StreamingSampler`
            or `look_ahead`, and by (seed, n, position) at the n-th read of a sample, from 0, under any other loader.
        missing: "raise" names a sample that lacks a part; "drop" leaves it out and counts it.
        rename: `{pattern: replacement}` for names that differ between parts.
        index_path: where the index is saved, and opened from at the next start.
        index_is_shared: whether to trust a saved index that users other than this one and root own or may write: they
            then decide which objects are read as which sample. Otherwise it is built again, with a warning.
        refresh: when a saved index is compared with what the sources hold. "background" opens it at once, lists soon
            after and reports what came, went or changed; "always" lists at each start and takes it over; "never".
        policy: "retain" keeps a fixed set of samples, evenly spread, and streams the rest; "lru" keeps what was read
            last; "auto" is "retain" where the order is known, from the first announcement on, and "lru" otherwise.
        concurrency: most samples being read ahead at once; None is 256, from local disk 8 for each decode thread.
        decode_threads: threads that decode; None is one a processor.
        max_object_bytes: objects that are or claim to be larger, or whose values take over 1 MiB more, are refused
            before memory is taken for them. Left at 8 GB it is 1 GB for JSON, whose values take 48 times its bytes.
        resilience: `{constant: value}` of `streaming.resilience.ResilienceConfig`, such as `{"deadline_s": 300}`.
        owner: what reads, see "Processes and threads": "thread" is a thread of this process, "process" a child process,
            for a trainer whose Python leaves that thread too little time. `prepare` and sources are then sent there.
        seed: of the order and of the generators that `transform` gets.
        on_error: "raise" at the read of a sample that is missing, damaged or refused by `prepare`; "replace" gives
            another in its place, the same on every rank and in every run, and counts it.
        quarantine_path: file to which a line of JSON is appended for each sample that was replaced.
        max_bad_share: once more than ten samples, and more than this share, were replaced, `TooManyBadSamples` is
            raised.
        name: what metrics and dashboards call this data set, such as "train".

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
        self._config: AdapterConfig | None = AdapterConfig(
            sources=sources,
            data_mapping=data_mapping,
            cache_size_gb=cache_size_gb,
            max_ttl_seconds=max_ttl_seconds,
            prefetch_ahead=prefetch_ahead,
            enable_prefetch=enable_prefetch,
            compression_type=compression_type,
            missing=missing,
            rename=dict(rename or {}),
            index_path=index_path,
            index_is_shared=index_is_shared,
            refresh=refresh,
            policy=policy,
            concurrency=concurrency,
            decode_threads=decode_threads,
            max_object_bytes=max_object_bytes,
            resilience=None if resilience is None else dict(resilience),
            owner=owner,
            seed=seed,
            on_error=on_error,
            quarantine_path=quarantine_path,
            max_bad_share=max_bad_share,
            name=name,
        )
        self._name = name
        self._prepare = prepare
        self._transform = None if transform is None else Transform(transform, seed)
        self._seed = seed
        self._start()
        self._open()

    def _start(self) -> None:
        """Set what is not configuration, in a new object and in an unpickled one."""
        self._reader: Engine | Worker | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._orders = OrderNumbers()
        self._reads_ahead = self._config is not None and self._config.enable_prefetch
        self._length = 0
        self._is_closed = False
        self._opening = threading.Lock()
        follow_forks(self)

    @classmethod
    def from_config(cls, config: AdapterConfig | Mapping[str, Any] | str | os.PathLike[str], **overrides: Any) -> Self:
        """An adapter from a dict, or a YAML or JSON file, with the names of the constructor's arguments."""
        settings = config if isinstance(config, AdapterConfig) else load_config(config)
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
                error.note_attributes()  # torch takes the text alone to the training process
            raise

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> list[Any]:
        """Several samples at once, as DataLoader asks for them: what is missing is fetched together."""
        try:
            return self._read(indices)
        except StreamingError as error:
            if get_worker_info() is not None:
                error.note_attributes()
            raise

    def _read(self, indices: Sequence[SupportsIndex]) -> list[Any]:
        reader = self._reader or self._open()
        positions = [self._position(index) for index in indices]
        transform = self._transform
        if transform is None:
            return reader.read_many(positions)
        epochs = [epoch_of(index) for index in indices] if transform.takes_generator else [0] * len(indices)
        draws = [epoch for epoch in epochs if epoch is not None]
        if len(draws) == len(indices):
            samples = reader.read_many(positions)
        else:  # the loader is unknown: each read of a sample is another draw
            samples, draws = reader.read_drawn(positions)
        began = perf_counter()
        transformed = [
            transform(sample, draw, position, reader.name_of)
            for sample, draw, position in zip(samples, draws, positions, strict=True)
        ]
        ACCOUNTS.mine.seconds[TRANSFORM] += perf_counter() - began
        return transformed

    def _position(self, index: SupportsIndex) -> int:
        position = operator.index(index)
        if position < 0:
            position += self._length
        if not 0 <= position < self._length:
            raise IndexError(f"index {index} is out of range: the data set has {self._length} samples")
        return position

    # -- reading ahead

    def look_ahead(self, sampler: Iterable[Any]) -> LookAhead:
        """Wrap a sampler or batch sampler so that its samples are read before they are asked for.

        The order is the sampler's own. Use the result in its place: `DataLoader(adapter, sampler=...)`.
        """
        self._open()
        return LookAhead(sampler, self)

    def announce(self, indices: Iterable[SupportsIndex], order: object) -> None:
        """Say which samples will be read next, in order, so that they are read ahead.

        Announcements under one `order` (any object that stays alive meanwhile) continue each other. A DataLoader worker
        announces nothing: the process that made the loader does.
        """
        reader = self._open()
        if self._reads_ahead and reader.announces:
            reader.announce([self._position(index) for index in indices], self._orders.of(order))

    def forget(self, order: object) -> None:
        """Say that what was announced under this `order` and was not read yet will not be read."""
        number = self._orders.pop(order)
        if number is not None and self._reader is not None:
            self._reader.forget(number)

    def prefetch_batch(self, indices: Iterable[SupportsIndex]) -> Awaitable[None]:
        """Bring these samples into the cache in the background, where their first read counts as a prefetch hit.

        With a `prefetch_ahead`, at most so many of them are unread; the others follow as these are read. Awaiting the
        result waits until all that may be fetched now are there.
        """
        reader = self._open()
        positions = [self._position(index) for index in indices]
        if not self._reads_ahead or not reader.announces:
            return Done(None)
        return Pending(current_runtime().submit(reader.fetch(positions)))

    def start_prefetch_worker(self) -> Done[None]:
        """Read ahead again after `stop_prefetch_worker`; it is on from the start. With or without `await`."""
        self._reads_ahead = True
        return Done(None)

    def stop_prefetch_worker(self) -> Done[None]:
        """Stop reading ahead and drop what was announced; samples are then fetched when asked for.

        In one process: other processes that share the cache go on.
        """
        self._reads_ahead = False
        numbers = self._orders.pop_all()
        if self._reader is not None:
            for number in numbers:
                self._reader.forget(number)
            self._reader.stop_fetching()
        return Done(None)

    # -- numbers

    @property
    def index(self) -> SampleIndex:
        """Which bytes of which object are which sample."""
        return self._open().index

    @property
    def fingerprint(self) -> str:
        """Of the samples: changes with names, sizes and validators, and not with the place of the sources."""
        return self._open().fingerprint

    @property
    def seed(self) -> int:
        """Of the order and of the generators that `transform` gets."""
        return self._seed

    @property
    def reads(self) -> int:
        """Samples that were asked for since the last `reset_metrics`, by all processes that share the cache."""
        return self._open().reads

    @property
    def draws(self) -> bool:
        """Whether `transform` takes a generator, so that a sample differs from one epoch to the next."""
        return self._transform is not None and self._transform.takes_generator

    @property
    def name(self) -> str:
        """What metrics and dashboards call this data set."""
        return self._name

    @property
    def cache(self) -> SmartLRUCache:
        """The sample cache; its keys are positions.

        Raises:
            ConfigError: it lies in another process: with `owner="process"`, and in children of the process that made
                the adapter.
        """
        return self._open().cache

    def get_cache_stats(self) -> dict[str, Any]:
        """What the cache holds and what reading has cost since the last `reset_metrics`.

        `hit_rate` is the share of reads that needed no fetch, ahead of time or on demand, by all processes that share
        the cache; `prefetch_hits` are the reads that found their sample fetched ahead of time.
        """
        return self._open().stats()

    def metrics_snapshot(self) -> MetricsSnapshot:
        """The numbers of this moment as metrics: `{family: {label values: number}}`, without the label `dataset`.

        For `streaming.monitoring.metrics`, whose `families` say what they mean. Safe in any thread.

        Raises:
            ClosedError: the adapter was closed.
            EngineGoneError: the process that reads for this one has ended.
        """
        return self._open().metrics_snapshot()

    def reset_metrics(self) -> None:
        """Set every count back to zero; what is cached stays."""
        self._open().reset_metrics()

    def clear_cache(self) -> Done[None]:
        """Drop every cached sample. With or without `await`."""
        self._open().clear()
        return Done(None)

    def refresh_index(self) -> Changes:
        """List the sources now and, if they changed, save the new index at `index_path`, for the next start.

        This adapter keeps the index and so the order that it began with: what was added is not in it, what was changed
        or removed is refused when it is read.

        Raises:
            IndexBuildError, SourceError: as when the adapter is made.
            OSError: the index cannot be saved.
        """
        return self._open().refresh_index()

    # -- opening, closing, other processes

    def _open(self) -> Engine | Worker:
        if self._reader is None:
            with self._opening:
                if self._is_closed:
                    raise ClosedError("this adapter was closed; make a new one to read again")
                if self._reader is None:
                    reader = self._make_owner()
                    TOTALS.add(reader, self._name, self)
                    self._reader = reader
        return self._reader

    def _make_owner(self) -> Engine | Worker:
        config = self._config
        assert config is not None  # only a worker has none, and a worker has a reader
        worker = get_worker_info()
        # An adapter first used inside a DataLoader worker is an owner of its own, with its share of the budget.
        shares = ranks_of_node() * (worker.num_workers if worker else 1)
        if config.owner == "process":
            remote = RemoteEngine(config, self._prepare, shares)
            self._length = remote.length
            self._finalizer = weakref.finalize(self, remote.close)
            return remote
        owner = open_engine(config, self._prepare, shares)
        self._length = len(owner.index)
        self._finalizer = weakref.finalize(self, _close_dropped, owner, os.getpid())
        self._finalizer.atexit = False  # the runtime ends everything at interpreter exit
        return owner

    def close(self) -> None:
        """Stop reading, end the workers' line, close the sources and free the cache. Idempotent."""
        self._is_closed = True  # first: nobody opens it again in between
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
        """For a child process being started: the line to this process. Otherwise: the configuration."""
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
        """See `streaming.engine.forks`: the line to this process must be there before its children are."""
        if self._reader is not None:
            self._reader.handle()

    def _after_fork_in_child(self) -> None:
        """See `streaming.engine.forks`."""
        self._opening = threading.Lock()
        self._orders = OrderNumbers()
        if self._finalizer is not None:
            self._finalizer.detach()
        if self._reader is not None:
            self._reader = inherited(self._reader)


def create_streaming_dataset_from_config(config: Mapping[str, Any]) -> StreamingDatasetAdapter:
    """An adapter from a dict; see `StreamingDatasetAdapter.from_config`."""
    return StreamingDatasetAdapter.from_config(config)


def _close_dropped(owner: Engine, pid: int) -> None:
    if os.getpid() == pid:
        current_runtime().submit(owner.aclose())
