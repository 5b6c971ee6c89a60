"""Stream training data from local disk, object stores and HTTP through a compressed cache and a prefetcher to PyTorch.

The public names are loaded on first use: `import streaming` alone brings in neither torch nor a network client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streaming.adapter import StreamingDatasetAdapter, create_streaming_dataset_from_config
    from streaming.cache import AsyncPrefetcher, CacheMetrics, SmartLRUCache
    from streaming.errors import StreamingError
    from streaming.loader.data_loader import StreamingDataLoader
    from streaming.loader.mixed_dataset import MixedDataset
    from streaming.loader.pack import PackCollate
    from streaming.loader.sampler import StreamingSampler
    from streaming.monitoring.metrics.serve import start_metrics_server
    from streaming.order.batching import SequencePacking, TokenBudgetBatching
    from streaming.sources import (
        DataSource,
        DataSourceConfig,
        GCSDataSource,
        HTTPDataSource,
        HuggingFaceDataSource,
        LocalDataSource,
        MemorySource,
        S3DataSource,
        create_data_source,
    )
    from streaming.telemetry.stalls import monitor_stalls

__version__ = "0.1.0"

__all__ = [
    "AsyncPrefetcher",
    "CacheMetrics",
    "DataSource",
    "DataSourceConfig",
    "GCSDataSource",
    "HTTPDataSource",
    "HuggingFaceDataSource",
    "LocalDataSource",
    "MemorySource",
    "MixedDataset",
    "PackCollate",
    "S3DataSource",
    "SequencePacking",
    "SmartLRUCache",
    "StreamingDataLoader",
    "StreamingDatasetAdapter",
    "StreamingError",
    "StreamingSampler",
    "TokenBudgetBatching",
    "create_data_source",
    "create_streaming_dataset_from_config",
    "monitor_stalls",
    "start_metrics_server",
]

_HOMES = {
    "streaming.adapter": ("StreamingDatasetAdapter", "create_streaming_dataset_from_config"),
    "streaming.order.batching": ("SequencePacking", "TokenBudgetBatching"),
    "streaming.cache": ("AsyncPrefetcher", "CacheMetrics", "SmartLRUCache"),
    "streaming.errors": ("StreamingError",),
    "streaming.loader.data_loader": ("StreamingDataLoader",),
    "streaming.monitoring.metrics.serve": ("start_metrics_server",),
    "streaming.loader.mixed_dataset": ("MixedDataset",),
    "streaming.loader.pack": ("PackCollate",),
    "streaming.loader.sampler": ("StreamingSampler",),
    "streaming.sources": (
        "DataSource",
        "DataSourceConfig",
        "GCSDataSource",
        "HTTPDataSource",
        "HuggingFaceDataSource",
        "LocalDataSource",
        "MemorySource",
        "S3DataSource",
        "create_data_source",
    ),
    "streaming.telemetry.stalls": ("monitor_stalls",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # or type checkers would take any name for one of this package

    def __getattr__(name: str) -> Any:
        """Import a public name from the module that defines it."""
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
