"""The numbers of this process for Prometheus and OpenTelemetry: served, written to a file, or pushed.

Everything is read at scrape time from counters that the hot path writes anyway. Every exporter gives the same families
(`streaming.monitoring.metrics.families`) with the same totals.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streaming.monitoring.metrics.apps import asgi_app, wsgi_app
    from streaming.monitoring.metrics.collector import Collector
    from streaming.monitoring.metrics.prometheus_registry import metrics_registry
    from streaming.monitoring.metrics.pushing import Pusher, push
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

_HOME_OF = {
    "Collector": "streaming.monitoring.metrics.collector",
    "MetricsServer": "streaming.monitoring.metrics.serve",
    "Pusher": "streaming.monitoring.metrics.pushing",
    "TextfileWriter": "streaming.monitoring.metrics.textfile",
    "asgi_app": "streaming.monitoring.metrics.apps",
    "metrics_registry": "streaming.monitoring.metrics.prometheus_registry",
    "push": "streaming.monitoring.metrics.pushing",
    "start_metrics_server": "streaming.monitoring.metrics.serve",
    "write_textfile": "streaming.monitoring.metrics.textfile",
    "wsgi_app": "streaming.monitoring.metrics.apps",
}


if not TYPE_CHECKING:  # or type checkers would take any name for one of this package

    def __getattr__(name: str) -> Any:
        """Import a public name from the module that defines it."""
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
