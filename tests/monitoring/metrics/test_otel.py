"""The same families by OpenTelemetry."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from streaming.adapter import StreamingDatasetAdapter
from streaming.errors import ConfigError, MissingExtra
from streaming.loader.data_loader import StreamingDataLoader
from streaming.monitoring.metrics import Collector
from streaming.monitoring.metrics.otel import start_otel_metrics
from tests.monitoring.metrics.parts import COUNT, Numbers, in_child, memory_source, numbers


def exported(reader: InMemoryMetricReader) -> Numbers:
    """Return the values of an export in the form of a scrape."""
    found, data = Numbers(), reader.get_metrics_data()
    for resource in data.resource_metrics if data is not None else ():
        for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
            for point in metric.data.data_points:
                labels: Any = (point.attributes or {}).items()
                found[(metric.name, frozenset(labels))] = point.value  # type: ignore[union-attr]
    return found


def test_an_export_holds_what_a_scrape_does() -> None:
    """The same names, labels and numbers, histograms by their buckets, sum and count; one reading for all of them."""
    reader = InMemoryMetricReader()
    with StreamingDatasetAdapter(memory_source()) as adapter:
        loader = StreamingDataLoader(adapter, 4)
        collector = Collector()
        with start_otel_metrics(MeterProvider([reader]), collector=collector):
            list(loader)
            adapter.prefetch_batch(range(COUNT)).result()  # by then the loop has done what the last batch left to do
            sent, scraped = exported(reader), numbers(collector)
            assert sent.of("source_request_duration_seconds_bucket", dataset="data", source="data", le="+Inf") == COUNT
            assert sent.keys() == scraped.keys()
            of_now = ("scrape_duration_seconds", "resident_memory_bytes", "lag_seconds", "loop_lag")
            for key, value in scraped.items():
                assert key[0].endswith(of_now) or sent[key] == value, key
            list(loader)
            assert exported(reader).of("reads_total", dataset="data") == 2 * COUNT


def test_after_the_end_nothing_is_exported() -> None:
    """The instruments of the user's provider stay there, and give nothing."""
    reader = InMemoryMetricReader()
    running = start_otel_metrics(MeterProvider([reader]))
    assert exported(reader).of("start_time_seconds") is not None
    running.close()
    running.close()
    assert exported(reader) == {}


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_forked_child_exports_nothing() -> None:
    """A child with the same provider does not export what the parent counted."""
    reader = InMemoryMetricReader()
    with StreamingDatasetAdapter(memory_source()) as adapter, start_otel_metrics(MeterProvider([reader])) as running:
        assert adapter[0]["idx"] == 0
        assert in_child(lambda: exported(reader) == {} and running.close() is None) == 0  # type: ignore[func-returns-value]


def test_metrics_are_sent_to_an_endpoint() -> None:
    """Without a provider of the user's one sends by OTLP over HTTP, a last time at the end."""
    bodies: list[bytes] = []

    class Endpoint(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}/v1/metrics"
        with StreamingDatasetAdapter(memory_source()) as adapter:
            with start_otel_metrics(endpoint=endpoint, every_s=3600) as running:
                adapter.__getitems__(range(COUNT))
            running.close()
        server.shutdown()
        thread.join()
    request = ExportMetricsServiceRequest.FromString(bodies[-1])
    metrics = {m.name: m for r in request.resource_metrics for s in r.scope_metrics for m in s.metrics}
    [point] = metrics["streaming_reads_total"].sum.data_points
    assert metrics["streaming_reads_total"].sum.is_monotonic
    assert point.as_int == COUNT
    assert "streaming_cache_entries" in metrics


def test_an_endpoint_that_refuses_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """Training continues; the library warns once."""

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(400)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        with start_otel_metrics(endpoint=f"http://127.0.0.1:{server.server_port}/", every_s=0.01) as running:
            assert running.sender is not None
            while running.sender.failures < 3:
                pass
        server.shutdown()
        thread.join()
    warned = [record.getMessage() for record in caplog.records if record.name.startswith("streaming")]
    assert len(warned) == 1
    assert warned[0].startswith("metrics_export_failed way=otel")


def test_an_interval_of_zero_is_refused() -> None:
    """The interval must be positive."""
    with pytest.raises(ConfigError, match="every_s=0"):
        start_otel_metrics(every_s=0)


@pytest.mark.parametrize("package", ["opentelemetry.metrics", "opentelemetry.sdk.metrics"])
def test_a_missing_package_names_its_extra(package: str) -> None:
    """Without OpenTelemetry, or its SDK, the extra that brings it is named."""
    code = f"""
import sys
sys.modules["{package}"] = None
from streaming.monitoring.metrics.otel import start_otel_metrics
try:
    start_otel_metrics()
except ImportError as error:
    print(type(error).__name__, error)
"""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{Path(__file__).resolve().parents[3]}:{os.environ.get('PYTHONPATH', '')}",
    }
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.startswith(MissingExtra.__name__)
    assert "aiprod-streaming[otel]" in done.stdout
