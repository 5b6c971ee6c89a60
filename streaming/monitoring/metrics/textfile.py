"""The metrics as a file, for the textfile collector of Prometheus' node exporter: no port, no server.

The exporter reads files that end in `.prom` whenever it is scraped. A file is written under another name and renamed,
so that no one ever sees half of it; a link in its place is replaced and not followed. It stays after the process has
ended: `node_textfile_mtime_seconds` is its age.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from streaming.core.atomic_write import replacing
from streaming.errors import ConfigError
from streaming.monitoring.metrics.collector import rank_of_process
from streaming.monitoring.metrics.periodic import Periodic
from streaming.monitoring.metrics.prometheus_registry import metrics_registry

__all__ = ["TextfileWriter", "write_textfile"]


def write_textfile(path: str | os.PathLike[str], registry: CollectorRegistry | None = None) -> None:
    """Write the metrics of this moment.

    Args:
        path: `{rank}` in it stands for the rank, so that each rank has its own file.
        registry: see `metrics_registry`.

    Raises:
        ConfigError: the file cannot be written.
    """
    place = os.fspath(path).replace("{rank}", rank_of_process())
    try:
        with replacing(Path(place)) as file:
            file.write(generate_latest(metrics_registry(registry)))
    except OSError as exc:
        raise ConfigError(
            f"cannot write metrics to {place!r}: {exc.strerror or exc}; create the folder, let this user write there, "
            "or give another path"
        ) from exc


class TextfileWriter(Periodic):
    """Writes the metrics every few seconds until `close()`, and then a last time. A context manager.

    While the file cannot be written, one warning is logged; each later write tries again.

    Args:
        path, registry: see `write_textfile`.
        every_s: seconds between two writes.

    Raises:
        ConfigError: if `every_s` is not above 0.
    """

    def __init__(
        self, path: str | os.PathLike[str], every_s: float = 15.0, registry: CollectorRegistry | None = None
    ) -> None:
        super().__init__("textfile", partial(write_textfile, path, metrics_registry(registry)), every_s)
