"""A training run that goes wrong, scraped by a real Prometheus: what dashboards and pictures are tested on."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from dashboards.evaluate import Range
from streaming.adapter import StreamingDatasetAdapter
from streaming.loader.data_loader import StreamingDataLoader
from streaming.monitoring.metrics import Collector, start_metrics_server
from tests.conftest import WebServer
from tests.prometheus import Prometheus, running
from tests.relay import Relay

SCRAPE_MS = 500
SCRAPE_S = SCRAPE_MS / 1000
SCRAPE = f"{SCRAPE_MS}ms"
SCRAPES = 8
DATASET = "shown"
SCRAPED = f'min(count_over_time(streaming_reads_total{{dataset="{DATASET}"}}[10m]))'
SAMPLES = 96
DAMAGED = 3

RULES = """
groups:
- name: run
  rules:
  - alert: StreamingBadSamples
    expr: sum by (job, dataset, rank) (streaming_samples_replaced_total) > 0
    labels: {severity: warning}
"""


@dataclass(frozen=True)
class Shown:
    """A run that is over.

    Attributes:
        url: of the Prometheus that scraped it.
        over: from its first scrape to its last.
        variables: what a person who looks at it chose.
    """

    url: str
    over: Range
    variables: dict[str, str | list[str]]


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A server that scrapes twice a second, with an alert of its own and no targets yet."""
    rules = tmp_path_factory.mktemp("rules") / "rules.yml"
    rules.write_text(RULES)
    folder = tmp_path_factory.mktemp("prometheus")
    with running(folder, rules=[rules], job="trainer", INTERVAL=SCRAPE) as server:
        yield server


@pytest.fixture(scope="session")
def shown(nginx: WebServer, prometheus: Prometheus, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """Two ranks that read over HTTP with a cache too small for all samples; halfway, the primary dies."""
    folder = nginx.root / DATASET
    folder.mkdir()
    for number in range(SAMPLES):
        content = b"{" if number < DAMAGED else json.dumps({"x": _noise(number)}).encode()
        (folder / f"{number:04d}.json").write_bytes(content)
    quarantine = tmp_path_factory.mktemp("quarantine") / "bad.jsonl"
    with Relay(nginx.url) as primary, Relay(nginx.url) as mirror, _exposed(ranks=2) as targets:
        prometheus.scrape(targets)
        with _adapter(primary.url, mirror.url, quarantine) as adapter:
            _train(adapter, lambda: _number(prometheus, SCRAPED) >= SCRAPES)
            primary.kill()
            _train(adapter, lambda: _number(prometheus, SCRAPED) >= 2 * SCRAPES and _is_steady(prometheus))
            end = _number(prometheus, "max(timestamp(streaming_start_time_seconds))")
    start = _number(prometheus, f"min(min_over_time(timestamp(streaming_start_time_seconds)[10m:{SCRAPE}]))")
    chosen: dict[str, str | list[str]] = {"job": "trainer", "dataset": [DATASET], "rank": ["0", "1"]}
    return Shown(prometheus.url, Range(start, end, SCRAPE_S, SCRAPE_S), chosen)


def _noise(number: int) -> list[int]:
    """Integers that do not compress, the same in every run."""
    return [zlib.crc32(b"%d %d" % (number, place)) for place in range(1000)]


@contextlib.contextmanager
def _exposed(ranks: int) -> Iterator[list[str]]:
    """Serve the metrics of this process on one port per rank, as if it were all of them; yield the addresses."""
    with contextlib.ExitStack() as stack:
        targets = []
        for rank in range(ranks):
            registry = CollectorRegistry()
            registry.register(Collector(rank=rank))
            server = stack.enter_context(start_metrics_server(0, registry=registry))
            targets.append(f"127.0.0.1:{server.port}")
        yield targets


def _adapter(primary: str, mirror: str, quarantine: Path) -> StreamingDatasetAdapter:
    copy = {"name": "mirror", "type": "http", "path": f"{mirror}{DATASET}/"}
    return StreamingDatasetAdapter(
        {"name": "primary", "type": "http", "path": f"{primary}{DATASET}/", "mirrors": [copy]},
        cache_size_gb=0.002,
        max_ttl_seconds=0.5,
        on_error="replace",
        max_bad_share=1.0,
        quarantine_path=quarantine,
        resilience={"cooldown_s": 0.5, "cooldown_max_s": 0.5},
        name=DATASET,
    )


def _train(adapter: StreamingDatasetAdapter, is_over: Callable[[], bool]) -> None:
    """Train whole epochs until enough was scraped."""
    loader = StreamingDataLoader(adapter, batch_size=8, shuffle=True, collate_fn=list)
    while not is_over():
        for batch in loader:
            assert len(batch) == 8


def _is_steady(prometheus: Prometheus) -> bool:
    """Whether the alert fires, and all of the last scrapes of both ranks were in time, though the machine is busy."""
    in_time = _number(prometheus, f"count(count_over_time(streaming_start_time_seconds[{4 * SCRAPE_MS}ms]) >= 3)")
    return in_time == 2 and _number(prometheus, 'count(ALERTS{alertstate="firing"})') == 2


def _number(prometheus: Prometheus, promql: str) -> float:
    return sum(sample.value for sample in prometheus.query(promql))
