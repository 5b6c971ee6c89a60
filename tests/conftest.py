"""Servers shared by the tests: each pytest process starts its own at first use, and stops it."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# torch imports it in each worker that it starts. Before Python 3.12 that fails with a KeyError if garbage of an earlier
# test is collected during the import, and its finalizer imports something too: https://github.com/python/cpython/issues/91351
import numpy.random  # noqa: F401
import pytest

import streaming.codecs.registry
import streaming.sources
from streaming.core.source_config import SOURCE_TYPES
from streaming.telemetry.totals import TOTALS
from tests.loopback import held_port

SERVICES = Path(__file__).parent / "services"
INSTALLED = Path(sys.prefix) / "services"
"""Folder in which `make services` installs servers that are Python packages."""


@pytest.fixture(autouse=True)
def _totals() -> None:
    """Metrics of a test begin at zero."""
    TOTALS.clear()


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    """Undo the registrations of a test."""
    registries: tuple[dict[str, Any], ...] = (
        SOURCE_TYPES,
        streaming.sources._registered,
        streaming.codecs.registry._by_suffix,
    )
    before = [registry.copy() for registry in registries]
    yield
    for registry, known in zip(registries, before, strict=True):
        registry.clear()
        registry.update(known)


@dataclass(frozen=True)
class WebServer:
    """A web server over a folder: `url` (with a final slash) serves the files below `root`."""

    url: str
    root: Path


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """Start nginx over an empty folder, with listings, on a free port of loopback."""
    folder = tmp_path_factory.mktemp("nginx")
    environment = {**os.environ, "NGINX_FILE_CACHE": "off"}
    with held_port() as port:
        command = ["bash", str(SERVICES / "start-nginx.sh"), str(folder), str(port)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            yield WebServer(f"http://127.0.0.1:{port}/", folder / "www")
        finally:
            subprocess.run(["bash", str(SERVICES / "stop.sh"), str(folder)], check=True)


@pytest.fixture
def python_server(tmp_path: Path) -> Iterator[WebServer]:
    """Start Python's web server over `tmp_path`; it does not support ranges or persistent connections."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Do not log."""

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield WebServer(f"http://127.0.0.1:{server.server_port}/", tmp_path)
        server.shutdown()
        thread.join()
