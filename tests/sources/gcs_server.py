"""A real server that speaks GCS: each pytest process starts its own, at its first use, and ends it."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import pytest

from tests.conftest import INSTALLED, SERVICES
from tests.loopback import held_port


@dataclass(frozen=True)
class GcsServer:
    """fake-gcs-server at `url`, without a final slash; objects are placed by its JSON API."""

    url: str

    def make_bucket(self) -> str:
        """A new empty bucket."""
        name = f"bucket-{uuid.uuid4().hex}"
        self._send("POST", "/storage/v1/b?project=test", json.dumps({"name": name}).encode())
        return name

    def put(self, bucket: str, name: str, data: bytes, encoding: str = "") -> None:
        """Write an object, or overwrite it; `encoding` is how its bytes are compressed."""
        query = f"uploadType=media&name={quote(name, safe='')}" + (f"&contentEncoding={encoding}" if encoding else "")
        self._send("POST", f"/upload/storage/v1/b/{bucket}/o?{query}", data)

    def delete(self, bucket: str, name: str) -> None:
        """Remove an object."""
        self._send("DELETE", f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}", None)

    def _send(self, method: str, path: str, body: bytes | None) -> None:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status in (200, 204), f"{method} {path}: {answer.status} {text[:200]!r}"
        finally:
            connection.close()


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsServer]:
    """fake-gcs-server at a free port of loopback."""
    folder = tmp_path_factory.mktemp("gcs")
    environment = {**os.environ, "VENV": str(INSTALLED / "gcs")}
    with held_port() as port:
        command = ["bash", str(SERVICES / "start-gcs.sh"), str(folder), str(port)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            yield GcsServer(f"http://127.0.0.1:{port}")
        finally:
            subprocess.run(["bash", str(SERVICES / "stop.sh"), str(folder)], check=True)
