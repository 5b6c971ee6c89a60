"""The same families for OpenTelemetry, as observable instruments that are read when it collects.

Names and attributes are those of Prometheus. OpenTelemetry has no observable histogram: Prometheus' `x_bucket` (with
the attribute `le`), `x_sum` and `x_count` are counters of these names.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from streaming.errors import MissingExtra, SourceUnavailable
from streaming.monitoring.metrics.collector import BOUNDS, Collector
from streaming.monitoring.metrics.families import FAMILIES, Family
from streaming.monitoring.metrics.periodic import Periodic
from streaming.telemetry.counters import MetricsSnapshot

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

__all__ = ["OtelMetrics", "start_otel_metrics"]

Point = tuple[float, dict[str, str]]


def start_otel_metrics(
    meter_provider: MeterProvider | None = None,
    *,
    endpoint: str | None = None,
    every_s: float = 15.0,
    collector: Collector | None = None,
) -> OtelMetrics:
    """Export the metrics of this process by OpenTelemetry until `close()`.

    Args:
        meter_provider: your own, with its readers and exporters. None makes one that sends to `endpoint` by OTLP over
            HTTP; its resource comes from OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
        endpoint: such as `http://collector:4318/v1/metrics`; None reads OTEL_EXPORTER_OTLP_ENDPOINT, and is this
            machine without it.
        every_s: seconds between two exports, if the provider is not yours.
        collector: the source of the numbers; None is a new one.

    Raises:
        MissingExtra: OpenTelemetry is not installed.
        ConfigError: if `every_s` is not above 0.
    """
    try:
        from opentelemetry import metrics
    except ImportError as error:
        raise _missing() from error
    collector = collector or Collector()
    if meter_provider is not None:
        return OtelMetrics(meter_provider, collector, metrics.Observation)
    provider, export = _own_provider(endpoint)
    exported = OtelMetrics(provider, collector, metrics.Observation, provider.shutdown)
    exported.sender = Periodic("otel", export, every_s)
    return exported


def _missing() -> MissingExtra:
    return MissingExtra("exporting metrics needs OpenTelemetry; install it by: pip install 'aiprod-streaming[otel]'")


class OtelMetrics:
    """Made by `start_otel_metrics`; a context manager. Exports nothing in a child forked from this process.

    Args:
        provider: the provider of the instruments.
        collector: the source of the numbers.
        observation: OpenTelemetry's class of a number with its attributes.
        shutdown: ends the provider, if it is the library's own.

    Attributes:
        sender: exports regularly from the library's own provider.
    """

    def __init__(
        self,
        provider: Any,
        collector: Collector,
        observation: Callable[..., Any],
        shutdown: Callable[[], None] | None = None,
    ) -> None:
        self.sender: Periodic | None = None
        self._collector = collector
        self._observation = observation
        self._shutdown = shutdown
        self._pid = os.getpid()
        self._is_closed = False
        self._lock = threading.Lock()
        self._reading: MetricsSnapshot = {}
        self._given: set[str] | None = None
        meter = provider.get_meter("streaming")
        for family in FAMILIES:
            for name, points in _instruments(family):
                make = meter.create_observable_gauge if family.kind == "gauge" else meter.create_observable_counter
                make(name, callbacks=[self._callback(name, points)], description=family.help)

    def close(self) -> None:
        """Export a last time and stop; instruments of your own provider then give nothing. Idempotent."""
        if self._is_closed:
            return
        if self.sender is not None:
            self.sender.close()
        self._is_closed = True
        if self._shutdown is not None and os.getpid() == self._pid:
            self._shutdown()

    def __enter__(self) -> OtelMetrics:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _callback(
        self, name: str, points: Callable[[MetricsSnapshot, str], Iterator[Point]]
    ) -> Callable[[Any], list[Any]]:
        def observe(_options: Any) -> list[Any]:
            if self._is_closed or os.getpid() != self._pid:
                return []
            return [self._observation(*point) for point in points(self._reading_for(name), self._collector.rank)]

        return observe

    def _reading_for(self, name: str) -> MetricsSnapshot:
        """Return one reading for all instruments; a new one when an instrument asks for the second time."""
        with self._lock:
            if self._given is None or name in self._given:
                self._reading, self._given = self._collector.read(), set()
            self._given.add(name)
            return self._reading


def _instruments(family: Family) -> Iterator[tuple[str, Callable[[MetricsSnapshot, str], Iterator[Point]]]]:
    """Yield the instruments of a family: their names, and the functions that give their numbers."""
    if family.kind != "histogram":
        yield family.name, lambda reading, rank: _points(family, reading, rank, lambda value: [(value, {})])
        return

    def buckets(value: Any) -> list[Point]:
        return [(count, {"le": bound}) for bound, count in zip(BOUNDS, accumulate(value[:-1]), strict=True)]

    yield f"{family.name}_bucket", lambda reading, rank: _points(family, reading, rank, buckets)
    yield f"{family.name}_sum", lambda reading, rank: _points(family, reading, rank, lambda value: [(value[-1], {})])
    yield (
        f"{family.name}_count",
        lambda reading, rank: _points(family, reading, rank, lambda value: [(sum(value[:-1]), {})]),
    )


def _points(
    family: Family, reading: MetricsSnapshot, rank: str, parts: Callable[[Any], list[Point]]
) -> Iterator[Point]:
    for labels, value in reading.get(family.key, {}).items():
        named = {**dict(zip(family.labels, labels, strict=True)), "rank": rank}
        for number, more in parts(value):
            yield number, named | more


def _own_provider(endpoint: str | None) -> tuple[Any, Callable[[], None]]:
    """Return a provider, and the function that exports from it once.

    OpenTelemetry's own periodic reader starts its thread again in each forked child, and exports the parent's counts
    from there; this one exports only when it is called.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics import MeterProvider as Provider
        from opentelemetry.sdk.metrics.export import MetricExportResult, MetricReader
    except ImportError as error:
        raise _missing() from error
    exporter = OTLPMetricExporter(endpoint=endpoint)

    class Reader(MetricReader):
        def _receive_metrics(self, metrics_data: Any, timeout_millis: float = 10_000, **kwargs: Any) -> None:
            if exporter.export(metrics_data, timeout_millis=timeout_millis) is not MetricExportResult.SUCCESS:
                raise SourceUnavailable(
                    "the OpenTelemetry collector did not accept the metrics; check that it runs at this endpoint, "
                    "and what opentelemetry.exporter logged"
                )

        def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
            exporter.shutdown(timeout_millis=timeout_millis)

    reader = Reader()
    return Provider(metric_readers=[reader], shutdown_on_exit=False), reader.collect
