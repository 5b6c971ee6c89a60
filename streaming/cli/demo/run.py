"""Train the demo's model twice on the same batches: through the adapter, and with a plain loop."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

from streaming.adapter import StreamingDatasetAdapter
from streaming.cli.demo.features import FEATURES, PADDING, event_features
from streaming.cli.demo.model import PageModel
from streaming.cli.demo.plain import PlainRecordings
from streaming.cli.demo.recordings import Recordings, find_data, unpack
from streaming.cli.demo.server import SlowServer
from streaming.loader.collate import PadCollate
from streaming.monitoring.metrics.serve import MetricsServer, start_metrics_server
from streaming.monitoring.metrics.textfile import TextfileWriter
from streaming.telemetry.stalls import monitor_stalls

__all__ = ["DemoSettings", "Epoch", "run_demo"]

CACHE_GB = 0.1


@dataclass(frozen=True)
class DemoSettings:
    """Settings of the demo.

    Attributes:
        data: folder with the recordings; None finds the checkout's.
        epochs: number of passes over all recordings.
        latency_ms: wait of the server before each response.
        workers: DataLoader workers of the streamed run; the plain loop has none.
        batch_size: recordings per step.
        learning_rate: of plain gradient descent.
        seed: of the order and of the model.
        kill_primary: stop the server when half of the recordings were read; a mirror takes over.
        step_ms: additional time of each step, for the device that the model stands for.
        is_endless: stream epoch after epoch until stopped, without the plain loop.
        metrics_port: port at which the metrics of the run are served, 0 for any free port; None serves none.
        metrics_addr: address at which they are served.
        metrics_file: file that the metrics are written to, for a textfile collector; None writes none.
    """

    data: Path | None = None
    epochs: int = 2
    latency_ms: float = 20.0
    workers: int = 0
    batch_size: int = 8
    learning_rate: float = 1.0
    seed: int = 0
    kill_primary: bool = False
    step_ms: float = 0.0
    is_endless: bool = False
    metrics_port: int | None = None
    metrics_addr: str = "127.0.0.1"
    metrics_file: Path | None = None


@dataclass(frozen=True)
class Epoch:
    """Result of one epoch; `hit_rate`, `waits`, `wait_seconds` and `saved_bytes` are None for the plain loop.

    Attributes:
        loop: "streaming" or "plain".
        number: counted from 1.
        samples: recordings trained on.
        seconds: from the first request for a batch to the last step.
        loss: mean over the epoch.
        fetched_bytes: bytes read from the sources.
        saved_bytes: bytes that did not have to be read because of the cache.
        waits: reads that had to wait for a source.
        wait_seconds: total time of these waits.
    """

    loop: str
    number: int
    samples: int
    seconds: float
    loss: float
    fetched_bytes: int
    hit_rate: float | None = None
    saved_bytes: int | None = None
    waits: int | None = None
    wait_seconds: float | None = None

    @property
    def samples_per_second(self) -> float:
        """Recordings trained on per second."""
        return self.samples / self.seconds


def run_demo(
    settings: DemoSettings,
    on_start: Callable[[str], None] = lambda text: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> dict[str, Any]:
    """Run the demo in a temporary folder, which is always removed afterwards.

    Args:
        settings: see `DemoSettings`.
        on_start: called once with a sentence that says what is served where.
        on_epoch: called after each epoch.

    Returns:
        `settings`, `recordings` (number, bytes), `epochs` (one dict each, both loops), `cache` (samples, bytes before
        and after compression, ratio), `speedup` (plain seconds / streaming seconds, all epochs), `losses_equal`, and
        with `kill_primary` also `failover` (responses of the stopped server, requests to the mirror).
    """
    data = find_data(settings.data)
    with tempfile.TemporaryDirectory(prefix="streaming-demo-") as folder:
        recordings = unpack(data, Path(folder))
        latency_s = settings.latency_ms / 1000
        stops_after = len(recordings.names) // 2 if settings.kill_primary else None
        with (
            _metrics_server(settings) as metrics,
            _metrics_writer(settings),
            SlowServer(Path(folder), latency_s, stops_after) as server,
            SlowServer(Path(folder), latency_s) as mirror,
        ):
            on_start(
                f"{len(recordings.names)} recordings, {recordings.total_bytes / 1e6:.1f} MB of events, at {server.url} "
                f"with {settings.latency_ms:g} ms latency; labels in {recordings.labels}"
                + (f"; metrics at {metrics.url or 'no port, as it is in use'}" if metrics else "")
            )
            events: dict[str, Any] = {"name": "events", "type": "http", "path": f"{server.url}events/"}
            if settings.kill_primary:
                events["mirrors"] = [{"name": "events_mirror", "type": "http", "path": f"{mirror.url}events/"}]
            with _one_thread():
                _warm_up(settings, recordings)
                streamed, cache = _stream(settings, recordings, events, on_epoch)
                failover = {"primary_answers": server.answers, "mirror_requests": mirror.requests}
                plain = _read_plainly(settings, recordings, f"{mirror.url}events/", on_epoch)
    return {
        "settings": asdict(settings) | {"data": str(data), "metrics_file": str(settings.metrics_file or "")},
        "recordings": {"number": len(recordings.names), "bytes": recordings.total_bytes},
        "epochs": [asdict(epoch) | {"samples_per_second": epoch.samples_per_second} for epoch in streamed + plain],
        "cache": cache,
        "speedup": sum(epoch.seconds for epoch in plain) / sum(epoch.seconds for epoch in streamed),
        "losses_equal": [epoch.loss for epoch in streamed] == [epoch.loss for epoch in plain],
    } | ({"failover": failover} if settings.kill_primary else {})


def _stream(
    settings: DemoSettings, recordings: Recordings, events: dict[str, Any], on_epoch: Callable[[Epoch], None]
) -> tuple[list[Epoch], dict[str, Any]]:
    epochs = []
    with StreamingDatasetAdapter(
        sources=[
            {"name": "labels", "type": "local", "path": str(recordings.labels)},
            events,
        ],
        data_mapping={"events": "events", "labels": "label"},
        cache_size_gb=CACHE_GB,
        prepare=event_features,
        seed=settings.seed,
    ) as adapter:
        before = adapter.get_cache_stats()
        for number, samples, seconds, loss in _train(settings, recordings, adapter, adapter.look_ahead):
            stats = adapter.get_cache_stats()
            epoch = Epoch("streaming", number, samples, seconds, loss, **_counts_between(before, stats))
            before = stats
            on_epoch(epoch)
            if not settings.is_endless:
                epochs.append(epoch)
        return epochs, _cache_contents(adapter.get_cache_stats())


def _counts_between(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    names = ("fetched_bytes", "saved_bytes", "waits", "wait_seconds", "total_hits", "total_misses")
    counts = {name: after[name] - before[name] for name in names}
    hits, misses = counts.pop("total_hits"), counts.pop("total_misses")
    return counts | {"hit_rate": hits / max(hits + misses, 1)}


def _cache_contents(stats: dict[str, Any]) -> dict[str, Any]:
    stored, saved = stats["current_size_gb"] * 1e9, stats["compression_savings_gb"] * 1e9
    return {
        "samples": stats["num_items"],
        "bytes": round(stored + saved),
        "stored_bytes": round(stored),
        "compression_ratio": (stored + saved) / stored if stored else 1.0,
    }


def _read_plainly(
    settings: DemoSettings, recordings: Recordings, events_url: str, on_epoch: Callable[[Epoch], None]
) -> list[Epoch]:
    epochs = []
    fetched = 0
    with closing(PlainRecordings(recordings.names, recordings.labels, events_url)) as plain:
        for number, samples, seconds, loss in _train(settings, recordings, plain, None):
            epochs.append(Epoch("plain", number, samples, seconds, loss, plain.fetched_bytes - fetched))
            fetched = plain.fetched_bytes
            on_epoch(epochs[-1])
    return epochs


def _train(
    settings: DemoSettings, recordings: Recordings, dataset: Dataset[Any], look_ahead: Callable[[Any], Any] | None
) -> Iterator[tuple[int, int, float, float]]:
    """Train a new model, and yield (number, samples, seconds, mean loss) after each epoch."""
    torch.manual_seed(settings.seed)
    model = PageModel(pages=len(recordings.pages))
    sampler: Any = RandomSampler(recordings.names, generator=torch.Generator().manual_seed(settings.seed))
    loader = DataLoader(
        dataset,
        batch_size=settings.batch_size,
        sampler=look_ahead(sampler) if look_ahead else sampler,
        num_workers=settings.workers if look_ahead else 0,
        collate_fn=PadCollate(padding_value=PADDING),
        persistent_workers=bool(look_ahead and settings.workers),
    )
    batches = monitor_stalls(loader) if look_ahead else loader
    with _shut_down(loader):
        for number in itertools.count(1) if settings.is_endless else range(1, settings.epochs + 1):
            began = time.perf_counter()
            losses = [_step(model, batch, settings) * len(batch["page"]) for batch in batches]
            yield number, len(recordings.names), time.perf_counter() - began, sum(losses) / len(recordings.names)


def _metrics_server(settings: DemoSettings) -> AbstractContextManager[MetricsServer | None]:
    if settings.metrics_port is None:
        return nullcontext()
    return start_metrics_server(settings.metrics_port, settings.metrics_addr)


def _metrics_writer(settings: DemoSettings) -> AbstractContextManager[object]:
    return nullcontext() if settings.metrics_file is None else TextfileWriter(settings.metrics_file)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread: no slower for a model of this size, and steady if other programs keep cores busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _warm_up(settings: DemoSettings, recordings: Recordings) -> None:
    """Take a step on zeros: what torch loads at its first step would count against the loop that runs first."""
    model = PageModel(pages=len(recordings.pages))
    tokens = torch.zeros(settings.batch_size, 1, dtype=torch.int64)
    batch = {"features": torch.zeros(len(tokens), FEATURES), "tokens": tokens, "page": tokens[:, 0]}
    _step(model, batch, replace(settings, learning_rate=0.0))


@contextmanager
def _shut_down(loader: DataLoader[Any]) -> Iterator[None]:
    """End the loader's persistent workers with the block, not when they are garbage-collected."""
    try:
        yield
    finally:
        workers = getattr(loader, "_iterator", None)
        if workers is not None:
            workers._shutdown_workers()


def _step(model: PageModel, batch: dict[str, Any], settings: DemoSettings) -> float:
    """Take a step of gradient descent, without torch.optim: making an optimizer imports torch's compiler, which takes a
    second and leaves a folder in the temporary directory."""
    loss = torch.nn.functional.cross_entropy(model(batch["features"], batch["tokens"]), batch["page"])
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(gradient, alpha=settings.learning_rate)
    if settings.step_ms:
        time.sleep(settings.step_ms / 1000)
    return loss.item()
