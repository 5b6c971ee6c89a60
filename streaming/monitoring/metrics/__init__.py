"""The numbers of this process for Prometheus and OpenTelemetry: served, written to a file, or pushed.

Everything is read at scrape time from counters that the hot path writes anyway. Every exporter gives the same families
(`streaming.monitoring.metrics.families`) with the same totals.
"""

from streaming.monitoring.metrics.apps import asgi_app, wsgi_app
from streaming.monitoring.metrics.collector import Collector
from streaming.monitoring.metrics.pushing import Pusher, push
from streaming.monitoring.metrics.registry import metrics_registry
from streaming.monitoring.metrics.serve import MetricsServer, start_metrics_server
from streaming.monitoring.metrics.textfile import TextfileWriter, write_textfile

__all__ = [
    "Collector",
    "MetricsServer",
    "Pusher",
    "TextfileWriter",
    "asgi_app",
    "metrics_registry",
    "push",
    "start_metrics_server",
    "write_textfile",
    "wsgi_app",
]
